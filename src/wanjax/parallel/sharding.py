"""Arrays on a mesh: parameters where they are loaded, activations where programs are traced.

Models name the axes of their arrays (`constrain`), `parallel.mesh` says which mesh axes share
them, and the mesh is the one under which the program is compiled (`jax.set_mesh`, as
`sampling.programs.Programs` does): JAX's own caches know it, so no program of one mesh runs
on another.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar, runtime_checkable

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from wanjax.parallel.hosts import put
from wanjax.parallel.mesh import (
    ACTIVATION_RULES,
    MESH_AXES,
    PARAMETER_RULES,
    SMALL,
    MeshShape,
    Rules,
    check_devices,
    share,
)

Tree = TypeVar("Tree")


class UndividedWarning(UserWarning):
    """A dimension stays whole on devices that were to share it; see `mesh.Undivided`."""


@runtime_checkable
class _Sized(Protocol):
    """A mesh of devices, or an abstract one."""

    @property
    def shape(self) -> Mapping[str, int]: ...


def make_mesh(shape: MeshShape, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over the first `shape.devices` of `devices`, by default of all that are here.

    Its axes are automatic: arrays are laid out by `constrain` and the compiler. Raises
    `UsageError` for a product that does not divide the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    check_devices(shape, len(devices))
    return jax.make_mesh(
        tuple(shape.sizes.values()),
        MESH_AXES,
        axis_types=(AxisType.Auto,) * len(MESH_AXES),
        devices=devices[: shape.devices],
    )


def partition_spec(
    axes: Sequence[str | None], shape: Sequence[int], rules: Rules, mesh: _Sized
) -> PartitionSpec:
    """Mesh axes for an array; a dimension that its mesh axes do not divide stays whole.

    That is said by an `UndividedWarning`, which Python shows once.
    """
    shared, undivided = share(axes, shape, rules, mesh.shape)
    for note in undivided:
        if note.axis not in SMALL:
            warnings.warn(str(note), UndividedWarning, stacklevel=1)  # one place: it is said once
    while shared and not shared[-1]:  # no trailing None, as JAX writes it: equal ones compare equal
        shared.pop()
    return PartitionSpec(*map(_entry, shared))


def _entry(names: tuple[str, ...]) -> str | tuple[str, ...] | None:
    """One dimension's mesh axes as `PartitionSpec` has them."""
    return names if len(names) > 1 else (names[0] if names else None)


def parameter_sharding(
    axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh | None
) -> NamedSharding | None:
    """Where the parts of a parameter with these logical axes live; without a mesh, anywhere."""
    if mesh is None:
        return None
    return NamedSharding(mesh, partition_spec(axes, shape, PARAMETER_RULES, mesh))


def activation_sharding(
    axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh | None
) -> NamedSharding | None:
    """Where `constrain` with the same axes keeps the parts of an array; without a mesh, anywhere.

    For arguments that a program returns in the same place, such as a sample or a cache.
    """
    if mesh is None:
        return None
    return NamedSharding(mesh, partition_spec(axes, shape, ACTIVATION_RULES, mesh))


def place(arrays: Tree, mesh: Mesh | None, *axes: str | None) -> Tree:
    """The arrays, all with these logical axes, put on the mesh; without one as they are."""

    def on_mesh(x: Array) -> Array:
        sharding = activation_sharding(axes, x.shape, mesh)
        return x if sharding is None else put(x, sharding)

    return arrays if mesh is None else jax.tree.map(on_mesh, arrays)


def axis_size(axis: str) -> int:
    """Devices along an axis of the mesh under which a program is compiled; 1 without."""
    size: int = jax.sharding.get_abstract_mesh().shape.get(axis, 1)
    return size


def constrain(x: Array, *axes: str | None) -> Array:
    """Name the logical axes of an activation; compiled for a mesh this shards it there."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    spec = partition_spec(axes, x.shape, ACTIVATION_RULES, mesh)
    constrained: Array = jax.lax.with_sharding_constraint(x, spec)
    return constrained
