"""How weights lie in a device's memory, where its default is not what its products want."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax.experimental.layout import Format, Layout
from jax.sharding import NamedSharding, Sharding
from jax.typing import DTypeLike

# Rows and columns of the blocks in which a TPU stores an array; two rows of half precision share
# a word. TPU7x multiplies with blocks of 16 rows, where the default has 8: its compiler copies
# the matrices of all layers before it loops over them, and an expert of 26.6 GiB is held twice
# (28.5 GiB of temporaries at 720p over context:8, 2.3 with this).
_TPU7X = "TPU7x"
_TPU7X_TILING = ((16, 128), (2, 1))


def laid_out(
    shape: Sequence[int], dtype: DTypeLike, sharding: Sharding | None
) -> Sharding | Format | None:
    """The place of a parameter, with a layout where the default one would be copied.

    Matrices stacked by layer and held whole by each device are; where devices share them, XLA
    takes no layout but its own, and gathers each layer into what it wants.
    """
    if not isinstance(sharding, NamedSharding) or not sharding.is_fully_replicated:
        return sharding
    kind = sharding.mesh.devices.flat[0].device_kind
    rows, columns = (1, 1, *shape)[-2:]
    stacked_matrices = len(shape) == 3 and rows % 16 == 0 and columns % 128 == 0
    if not kind.startswith(_TPU7X) or not stacked_matrices or jnp.dtype(dtype).itemsize != 2:
        return sharding
    return Format(Layout((0, 1, 2), _TPU7X_TILING), sharding)
