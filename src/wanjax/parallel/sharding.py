"""Sharding: logical axes of parameters and activations, mapped to the axes of a mesh.

A mesh has up to four axes:

- `data`: each device holds other videos of the batch (and guidance branches);
- `fsdp`: each holds a part of every parameter, gathered where it is used;
- `context`: each holds a part of the video's tokens;
- `tensor`: each holds some attention heads and a part of the feed-forward width.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Sequence

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

MESH_AXES = ("data", "fsdp", "context", "tensor")

PARAMETER_RULES = {"embed": "fsdp", "vocab": "fsdp", "heads": "tensor", "mlp": "tensor"}
ACTIVATION_RULES = {"batch": "data", "tokens": "context", "heads": "tensor", "mlp": "tensor"}

_active_mesh: contextvars.ContextVar[Mesh | None] = contextvars.ContextVar("mesh", default=None)


def partition_spec(
    axes: Sequence[str | None],
    shape: Sequence[int],
    rules: dict[str, str],
    mesh: Mesh | AbstractMesh,
) -> PartitionSpec:
    """Mesh axes for an array; a dimension that its mesh axis does not divide stays whole."""
    names: list[str | None] = []
    for axis, size in zip(axes, shape, strict=True):
        name = rules.get(axis) if axis else None
        usable = name in mesh.shape and name not in names and size % mesh.shape[name] == 0
        names.append(name if usable else None)
    return PartitionSpec(*names)


def parameter_sharding(
    axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh
) -> NamedSharding:
    """Where the parts of a parameter with these logical axes live."""
    return NamedSharding(mesh, partition_spec(axes, shape, PARAMETER_RULES, mesh))


@contextlib.contextmanager
def use_mesh(mesh: Mesh | None) -> Iterator[None]:
    """Programs traced inside shard their activations over `mesh`."""
    token = _active_mesh.set(mesh)
    try:
        yield
    finally:
        _active_mesh.reset(token)


def constrain(x: Array, *axes: str | None) -> Array:
    """Name the logical axes of an activation; on a mesh this shards it, else it does nothing."""
    mesh = _active_mesh.get()
    if mesh is None:
        return x
    spec = partition_spec(axes, x.shape, ACTIVATION_RULES, mesh)
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))
