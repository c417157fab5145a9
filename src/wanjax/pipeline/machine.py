"""Which devices a configuration is for, and the mesh over them."""

from __future__ import annotations

from jax.sharding import Mesh

from wanjax.caching import Plan
from wanjax.config.keys import Config
from wanjax.errors import UsageError
from wanjax.parallel.sharding import make_mesh
from wanjax.parallel.targets import Target
from wanjax.parallel.topologies import target_devices, target_here
from wanjax.planning.memory import mesh_shape


def machine(config: Config, plan: Plan, target: Target | None = None) -> tuple[Target, Mesh | None]:
    """The `target`, or this machine, and the configuration's mesh on it for such a plan.

    None is one device of this machine. Raises `UsageError` for a mesh that the devices cannot
    make up, and for a target whose compiler is not installed.
    """
    devices = None if target is None else target_devices(target)
    here = target_here() if target is None else target
    shape = mesh_shape(config, plan, here)
    if shape is None:
        return here, None
    if here.processes > 1 and shape.devices != here.devices:
        raise UsageError(
            f"mesh={shape}: these are {shape.devices} devices, and the {here.processes} processes "
            f"have {here.devices}, which must all take part; mesh=auto takes them"
        )
    return here, make_mesh(shape, devices)
