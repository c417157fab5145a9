"""UMT5 text encoder: token ids to the context that the transformer attends to.

Chung et al., "UniMax" (arXiv:2304.09151), on top of T5 (arXiv:1910.10683). What
differs from T5: every layer has its own table of relative position biases.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from wanjax.models.configs import UMT5Config
from wanjax.models.layers import Linear, RMSNorm, gelu_tanh, param, scan_layers, stack


class UMT5Encoder(nnx.Module):
    """Embedding, `num_layers` blocks, final norm. No dropout, no biases in any linear."""

    def __init__(self, config: UMT5Config, *, rngs: nnx.Rngs):
        self.config = config
        self.shared = Embedding(config.vocab_size, config.d_model, rngs=rngs)
        self.block = stack(lambda rngs: Block(config, rngs=rngs), config.num_layers, rngs)
        self.final_layer_norm = RMSNorm(config.d_model, eps=config.layer_norm_epsilon, rngs=rngs)

    def __call__(
        self,
        ids: Int[Array, "batch length"],
        mask: Int[Array, "batch length"],
        dtype: DTypeLike | None = None,
    ) -> Float[Array, "batch length d_model"]:
        """Embed token ids.

        `mask` is 1 on tokens and 0 on padding: padding is never attended to, but its own
        rows of the result are not zero. Activations have `dtype`, by default the weights'.
        """
        x = self.shared(ids)
        x = x if dtype is None else x.astype(dtype)
        buckets = relative_position_buckets(ids.shape[1], self.config)
        x = scan_layers(self.block, lambda block, x, _: block(x, mask, buckets), x)
        return self.final_layer_norm(x)


class Embedding(nnx.Module):
    """Rows of a table."""

    def __init__(self, entries: int, features: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.normal(1.0)
        self.weight = param(rngs, (entries, features), ("vocab", "embed"), init)

    def __call__(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch features"]:
        return self.weight[...][ids]


class Block(nnx.Module):
    """Self-attention and gated feed-forward, each on a normalised input, each residual."""

    def __init__(self, config: UMT5Config, *, rngs: nnx.Rngs):
        eps = config.layer_norm_epsilon
        self.attention_norm = RMSNorm(config.d_model, eps=eps, rngs=rngs)
        self.attention = Attention(config, rngs=rngs)
        self.feed_forward_norm = RMSNorm(config.d_model, eps=eps, rngs=rngs)
        self.feed_forward = FeedForward(config, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch length d_model"],
        mask: Int[Array, "batch length"],
        buckets: Int[np.ndarray, "length length"],
    ) -> Float[Array, "batch length d_model"]:
        x = x + self.attention(self.attention_norm(x), mask, buckets)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Attention(nnx.Module):
    """`softmax(q kᵀ + bias) v` per head: no division by the root of the head's size."""

    def __init__(self, config: UMT5Config, *, rngs: nnx.Rngs):
        self.heads = config.num_heads
        width, inner = config.d_model, config.num_heads * config.d_kv
        into, out = ("embed", "heads"), ("heads", "embed")
        self.q = Linear(width, inner, axes=into, use_bias=False, rngs=rngs)
        self.k = Linear(width, inner, axes=into, use_bias=False, rngs=rngs)
        self.v = Linear(width, inner, axes=into, use_bias=False, rngs=rngs)
        self.o = Linear(inner, width, axes=out, use_bias=False, rngs=rngs)
        shape = (config.relative_attention_num_buckets, config.num_heads)
        self.relative_attention_bias = param(rngs, shape, (None, "heads"))

    def __call__(
        self,
        x: Float[Array, "batch length d_model"],
        mask: Int[Array, "batch length"],
        buckets: Int[np.ndarray, "length length"],
    ) -> Float[Array, "batch length d_model"]:
        q, k, v = (
            linear(x).reshape(*x.shape[:2], self.heads, -1) for linear in (self.q, self.k, self.v)
        )
        bias = self.relative_attention_bias[...].astype(jnp.float32)[buckets]
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)
        scores = scores + bias.transpose(2, 0, 1)
        scores = jnp.where(mask[:, None, None, :] > 0, scores, np.finfo(np.float32).min)
        weights = jax.nn.softmax(scores, axis=-1).astype(x.dtype)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
        return self.o(mixed.reshape(*x.shape[:2], -1))


class FeedForward(nnx.Module):
    """`wo(gelu(wi_0 x) * wi_1 x)`, with the tanh form of GELU."""

    def __init__(self, config: UMT5Config, *, rngs: nnx.Rngs):
        width, hidden = config.d_model, config.d_ff
        self.wi_0 = Linear(width, hidden, axes=("embed", "mlp"), use_bias=False, rngs=rngs)
        self.wi_1 = Linear(width, hidden, axes=("embed", "mlp"), use_bias=False, rngs=rngs)
        self.wo = Linear(hidden, width, axes=("mlp", "embed"), use_bias=False, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch length d_model"]
    ) -> Float[Array, "batch length d_model"]:
        return self.wo(gelu_tanh(self.wi_0(x)) * self.wi_1(x))


def relative_position_buckets(length: int, config: UMT5Config) -> Int[np.ndarray, "length length"]:
    """Bucket of each (query, key) pair by `key - query`.

    Half of the buckets are for keys after the query. Of each half the first half holds
    one distance each, the rest grow logarithmically up to `relative_attention_max_distance`;
    farther keys share the last bucket (T5, section 2.1).
    """
    position = np.arange(length, dtype=np.int32)
    relative = position[None, :] - position[:, None]
    half = config.relative_attention_num_buckets // 2
    exact = half // 2
    distance = np.abs(relative)
    # float32 like the reference: the truncation falls on exact integers (distances 16, 32, 64)
    growth = np.log(np.maximum(distance, exact).astype(np.float32) / np.float32(exact))
    span = np.float32(math.log(config.relative_attention_max_distance / exact))
    coarse = exact + (growth / span * np.float32(half - exact)).astype(np.int32)
    bucket: Int[np.ndarray, "length length"] = np.where(
        distance < exact, distance, np.minimum(coarse, half - 1)
    )
    bucket = bucket + half * (relative > 0).astype(np.int32)
    return bucket
