"""Rotary position embedding over (frame, row, column)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_THETA = 10000.0


def axis_dims(head_dim: int) -> tuple[int, int, int]:
    """How many of a head's channels turn with frame, row and column: 128 gives 44, 42, 42."""
    spatial = 2 * (head_dim // 6)
    return head_dim - 2 * spatial, spatial, spatial


def rope_tables(
    grid: tuple[int, int, int], head_dim: int
) -> tuple[Float[Array, "tokens half_dim"], Float[Array, "tokens half_dim"]]:
    """Cosines and sines per token of a (frames, rows, columns) grid, float32.

    Only one short table per axis is a constant of the program (computed in float64 on the
    host, as the reference does); the tokens' tables are broadcast from them on the device.
    """
    angles = [
        np.outer(np.arange(length), _THETA ** -(np.arange(0, dim, 2) / dim))
        for length, dim in zip(grid, axis_dims(head_dim), strict=True)
    ]
    return _broadcast(grid, [np.cos(a) for a in angles]), _broadcast(
        grid, [np.sin(a) for a in angles]
    )


def _broadcast(grid: tuple[int, int, int], tables: list[np.ndarray]) -> Array:
    parts = []
    for axis, table in enumerate(tables):
        shape = [1, 1, 1, table.shape[1]]
        shape[axis] = grid[axis]
        part = jnp.asarray(table, jnp.float32).reshape(shape)
        parts.append(jnp.broadcast_to(part, (*grid, table.shape[1])))
    return jnp.concatenate(parts, axis=-1).reshape(int(np.prod(grid)), -1)


def apply_rope(
    x: Float[Array, "batch tokens heads dim"],
    cos: Float[Array, "tokens half_dim"],
    sin: Float[Array, "tokens half_dim"],
    *,
    by_product: bool = False,
) -> Float[Array, "batch tokens heads dim"]:
    """Turn neighbouring channel pairs (x0, x1), (x2, x3), ... in float32.

    `by_product` is the same for TPUs, which lay out an axis of two as one of 128: neighbours
    change places by a product with a matrix of zeros and ones, which is exact.
    """
    if by_product:
        cos, sin = (jnp.repeat(table, 2, axis=-1)[:, None] for table in (cos, sin))
        return (x.astype(jnp.float32) * cos + _quarter_turn(x) * sin).astype(x.dtype)
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    c, s = cos[:, None], sin[:, None]
    turned = jnp.stack([a * c - b * s, a * s + b * c], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


def _quarter_turn(x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
    """(-x1, x0, -x3, x2, ...), in float32."""
    matrix = np.kron(np.eye(x.shape[-1] // 2), [[0, 1], [-1, 0]])
    exact = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return jnp.matmul(
        x, jnp.asarray(matrix, x.dtype), precision=exact, preferred_element_type=jnp.float32
    )
