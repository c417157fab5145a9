"""Scaled dot-product attention, and which kernel computes it."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Kernel = Literal["auto", "xla", "chunked", "cudnn"]

# Above this many scores per head the score matrix is not held whole.
_MAX_SCORES = 2**26
_QUERY_CHUNK = 1024


def attention(
    query: Float[Array, "batch q heads dim"],
    key: Float[Array, "batch k heads dim"],
    value: Float[Array, "batch k heads dim"],
    kernel: Kernel = "auto",
) -> Float[Array, "batch q heads dim"]:
    """`softmax(q k^T / sqrt(dim)) v`, every query attending to every key.

    `xla` holds the scores of all queries at once, `chunked` those of 1,024 queries at a
    time, `cudnn` is the fused kernel of NVIDIA GPUs (bfloat16). `auto` takes `cudnn` where
    it can, else `xla` for short and `chunked` for long sequences.
    """
    if kernel == "auto":
        kernel = _choose(query, key)
    if kernel == "chunked":
        return _chunked(query, key, value)
    return jax.nn.dot_product_attention(query, key, value, implementation=kernel)


def _choose(
    query: Array | jax.ShapeDtypeStruct, key: Array | jax.ShapeDtypeStruct
) -> Literal["xla", "chunked", "cudnn"]:
    if jax.default_backend() == "gpu" and query.dtype == jnp.bfloat16:
        return "cudnn"
    return "xla" if query.shape[1] * key.shape[1] <= _MAX_SCORES else "chunked"


def _chunked(query: Array, key: Array, value: Array) -> Array:
    """Attention over blocks of queries, one after the other."""
    batch, length, heads, dim = query.shape
    count = -(-length // _QUERY_CHUNK)
    padded = jnp.pad(query, ((0, 0), (0, count * _QUERY_CHUNK - length), (0, 0), (0, 0)))
    blocks = padded.reshape(batch, count, _QUERY_CHUNK, heads, dim).swapaxes(0, 1)
    out: Array = jax.lax.map(
        lambda block: jax.nn.dot_product_attention(block, key, value, implementation="xla"), blocks
    )
    return out.swapaxes(0, 1).reshape(batch, -1, heads, dim)[:, :length]
