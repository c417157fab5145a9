"""Attention in tiles of scores, on any device: memory grows with queries plus keys, not times.

The online softmax of FlashAttention (Dao et al., arXiv:2205.14135) in plain JAX.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from wanjax.models.kernels.choose import MASKED, Kernel

_MOST_KEYS = 2048
_FEWEST_QUERIES = 128  # fewer queries at a time than this, and heads take turns instead

Lengths = Int[Array, " batch"]


class Tile(NamedTuple):
    """How many heads, queries and keys are scored at once."""

    heads: int
    queries: int
    keys: int


def tile(batch: int, heads: int, queries: int, keys: int, score_bytes: int) -> Tile:
    """The largest tile whose float32 scores, of all batch entries, take at most `score_bytes`."""
    keys = min(keys, _MOST_KEYS)
    rows = max(score_bytes // (4 * batch * keys), 1)  # heads times queries
    few = min(queries, _FEWEST_QUERIES)
    if rows >= heads * few:
        return Tile(heads, min(queries, rows // heads), keys)
    return Tile(max(rows // few, 1), min(few, rows), keys)


def attend(
    query: Float[Array, "batch q heads dim"],
    key: Float[Array, "batch k heads dim"],
    value: Float[Array, "batch k heads dim"],
    lengths: Lengths | None,
    kernel: Kernel,
) -> Float[Array, "batch q heads dim"]:
    """Attention to the first `lengths` keys of each batch entry (all, if None)."""
    return _attend(query, key, value, lengths, kernel, query.dtype)[0]


def attend_partly(
    query: Float[Array, "batch q heads dim"],
    key: Float[Array, "batch k heads dim"],
    value: Float[Array, "batch k heads dim"],
    lengths: Lengths | None,
    kernel: Kernel,
) -> tuple[Float[Array, "batch q heads dim"], Float[Array, "batch heads q"]]:
    """`attend` in float32 and the logarithm of each query's sum of exponentials."""
    return _attend(query, key, value, lengths, kernel, jnp.float32)


def _attend(
    query: Array,
    key: Array,
    value: Array,
    lengths: Lengths | None,
    kernel: Kernel,
    dtype: DTypeLike,
) -> tuple[Array, Array]:
    """Tile after tile. The last of an axis overlaps the one before rather than pad copies."""
    batch, queries, heads, _ = query.shape
    size = tile(batch, heads, queries, key.shape[1], kernel.score_bytes)
    query_tiles = math.ceil(queries / size.queries)

    def step(index: Array, done: tuple[Array, Array]) -> tuple[Array, Array]:
        h = jnp.minimum(index // query_tiles * size.heads, heads - size.heads)
        q = jnp.minimum(index % query_tiles * size.queries, queries - size.queries)
        k, v = (jax.lax.dynamic_slice_in_dim(x, h, size.heads, 2) for x in (key, value))
        block = jax.lax.dynamic_slice_in_dim(query, h, size.heads, 2)
        block = jax.lax.dynamic_slice_in_dim(block, q, size.queries, 1)
        out, logsumexp = _rows(block, k, v, lengths, size.keys)
        return (
            jax.lax.dynamic_update_slice(done[0], out.astype(dtype), (0, q, h, 0)),
            jax.lax.dynamic_update_slice(done[1], logsumexp, (0, h, q)),
        )

    nothing = (jnp.zeros(query.shape, dtype), jnp.zeros((batch, heads, queries), jnp.float32))
    tiles = math.ceil(heads / size.heads) * query_tiles
    result: tuple[Array, Array] = jax.lax.fori_loop(0, tiles, step, nothing)
    return result


def _rows(
    query: Float[Array, "batch q heads dim"],
    key: Float[Array, "batch k heads dim"],
    value: Float[Array, "batch k heads dim"],
    lengths: Lengths | None,
    keys_at_once: int,
) -> tuple[Float[Array, "batch q heads dim"], Float[Array, "batch heads q"]]:
    """Some queries against all keys, `keys_at_once` at a time."""
    batch, queries, heads, dim = query.shape
    keys = key.shape[1]
    count = math.ceil(keys / keys_at_once)

    def step(index: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        before, total, acc = state
        start = jnp.minimum(index * keys_at_once, keys - keys_at_once)
        k, v = (jax.lax.dynamic_slice_in_dim(x, start, keys_at_once, 1) for x in (key, value))
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, k, preferred_element_type=jnp.float32)
        scores = scores / math.sqrt(dim)
        position = start + jnp.arange(keys_at_once)
        if lengths is not None:
            seen = (position >= index * keys_at_once) & (position < lengths[:, None])
            scores = jnp.where(seen[:, None, None], scores, MASKED)
        elif keys % keys_at_once:
            scores = jnp.where(position >= index * keys_at_once, scores, MASKED)
        now = jnp.maximum(before, scores.max(axis=-1))
        weights = jnp.exp(scores - now[..., None])
        if lengths is not None:  # where all keys so far are masked, the maximum is masked too
            weights = jnp.where(seen[:, None, None], weights, 0)
        rescale = jnp.exp(before - now)
        mixed = jnp.einsum(
            "bhqk,bkhd->bhqd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
        )
        return now, rescale * total + weights.sum(axis=-1), rescale[..., None] * acc + mixed

    rows = (batch, heads, queries)
    start = (jnp.full(rows, MASKED), jnp.zeros(rows), jnp.zeros((*rows, dim)))
    largest, total, acc = jax.lax.fori_loop(0, count, step, start)
    nothing = total == 0  # no key at all
    total = jnp.where(nothing, 1.0, total)
    logsumexp = jnp.where(nothing, MASKED, largest + jnp.log(total))
    return (acc / total[..., None]).swapaxes(1, 2), logsumexp
