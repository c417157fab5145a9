"""Meshes by name, and which of their axes share a dimension. No JAX: plans are made with this.

A mesh has up to four axes:

- `data`: each device holds other videos of the batch, or other guidance branches;
- `fsdp`: each holds a part of every parameter, gathered where it is used, and of the tokens;
- `context`: each holds a part of the video's tokens and all of the parameters;
- `tensor`: each holds some attention heads and a part of the feed-forward width.

So `fsdp:8` divides weights and activations by eight; `context:8` keeps the weights whole,
which is faster where they fit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from wanjax.errors import UsageError, printable

_COUNT = re.compile(r"[1-9][0-9]{0,5}")

SMALL = ("videos",)  # axes which it is no loss not to divide

# Logical axes of arrays (models name them) to the mesh axes that share them, outermost first.
Rules = Mapping[str, tuple[str, ...]]
PARAMETER_RULES: Rules = {
    "embed": ("fsdp",),
    "vocab": ("fsdp",),
    "heads": ("tensor",),
    "mlp": ("tensor",),
}
ACTIVATION_RULES: Rules = {
    "batch": ("data",),  # guidance branches times videos
    "videos": ("data",),  # of latents, which are small: each device may have them all
    "tokens": ("fsdp", "context"),
    "heads": ("tensor",),
    "mlp": ("tensor",),
}


@dataclass(frozen=True)
class MeshShape:
    """How many devices lie along each axis; as text `data:1,fsdp:2,context:4,tensor:1`."""

    data: int = 1
    fsdp: int = 1
    context: int = 1
    tensor: int = 1

    @property
    def sizes(self) -> dict[str, int]:
        return {axis: getattr(self, axis) for axis in MESH_AXES}

    @property
    def devices(self) -> int:
        return math.prod(self.sizes.values())

    def __str__(self) -> str:
        return ",".join(f"{axis}:{size}" for axis, size in self.sizes.items())


MESH_AXES = tuple(field.name for field in fields(MeshShape))


def parse_mesh(text: str) -> MeshShape:
    """`data:1,fsdp:2,context:4,tensor:1` in any order; axes left out have size 1.

    Raises `UsageError` for what is no such list.
    """
    sizes: dict[str, int] = {}
    for part in text.split(","):
        axis, colon, size = (piece.strip() for piece in part.partition(":"))
        problem = None
        if not colon:
            problem = f"{printable(part.strip(), 60)!r} is no axis:size"
        elif axis not in MESH_AXES:
            problem = f"there is no axis {printable(axis, 60)!r}"
        elif axis in sizes:
            problem = f"{axis} is given twice"
        elif not _COUNT.fullmatch(size):
            problem = f"{axis}:{printable(size, 60)} must have a whole number of devices, 1 or more"
        if problem:
            raise UsageError(
                f"mesh={printable(text, 60)!r}: {problem}; give axes out of "
                f"{', '.join(MESH_AXES)} with their sizes, such as mesh=fsdp:2,context:4"
            )
        sizes[axis] = int(size)
    return MeshShape(**sizes)


def check_devices(shape: MeshShape, available: int, where: str = "here") -> None:
    """Raise `UsageError` for a mesh that the `available` devices of a machine cannot make up."""
    if available % shape.devices:
        there = "are here" if where == "here" else f"has {where}"
        raise UsageError(
            f"mesh={shape}: these are {shape.devices} devices, and {available} {there}; the "
            f"product of the sizes must divide {available}"
        )


@dataclass(frozen=True)
class Undivided:
    """A dimension that stays whole over a mesh axis which was to share it."""

    axis: str  # the dimension's name
    size: int
    mesh_axis: str
    parts: int  # what the size would have to be a multiple of

    def __str__(self) -> str:
        return (
            f"{self.axis} ({self.size}) cannot be divided by {self.parts}: every device along the "
            f"mesh axis {self.mesh_axis} holds and computes all of it"
        )


def share(
    axes: Sequence[str | None], shape: Sequence[int], rules: Rules, sizes: Mapping[str, int]
) -> tuple[list[tuple[str, ...]], list[Undivided]]:
    """The mesh axes that share each dimension of an array, and what they cannot divide.

    `axes` names the dimensions, `sizes` are those of the mesh's axes. Each mesh axis shares
    one dimension at most, the first that names it.
    """
    shared: list[tuple[str, ...]] = []
    undivided: list[Undivided] = []
    free = {axis: size for axis, size in sizes.items() if size > 1}
    for axis, size in zip(axes, shape, strict=True):
        parts, taken = 1, []
        for mesh_axis in rules.get(axis, ()) if axis else ():
            wanted = parts * free.get(mesh_axis, 1)
            if size % wanted:
                undivided.append(Undivided(str(axis), size, mesh_axis, wanted))
            elif wanted > parts:
                parts = wanted
                taken.append(mesh_axis)
                del free[mesh_axis]
        shared.append(tuple(taken))
    return shared, [note for note in undivided if note.mesh_axis in free]
