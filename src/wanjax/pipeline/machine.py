"""Which devices a configuration is for, and the mesh over them."""

from __future__ import annotations

from jax.sharding import Mesh

from wanjax.config.keys import Config
from wanjax.parallel.mesh import MeshShape, parse_mesh
from wanjax.parallel.sharding import make_mesh
from wanjax.parallel.targets import Target
from wanjax.parallel.topologies import target_devices, target_here


def machine(config: Config, target: Target | None = None) -> tuple[Target, Mesh | None]:
    """The `target`, or this machine, and the configuration's mesh on it.

    None is one device of this machine. Raises `UsageError` for a mesh that the devices cannot
    make up, and for a target whose compiler is not installed.
    """
    if target is None:
        here = target_here()
        asked = None if config.mesh == "auto" else parse_mesh(config.mesh)
        return here, None if asked is None else make_mesh(asked)
    devices = target_devices(target)
    shape = MeshShape(fsdp=target.devices) if config.mesh == "auto" else parse_mesh(config.mesh)
    return target, make_mesh(shape, devices)
