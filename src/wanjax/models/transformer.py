"""The Wan transformer: latents, timestep and context in, flow velocity out.

Architecture as diffusers' `WanTransformer3DModel`. A call has three stages, so that a
skipped step can leave out the middle one:

    tokens, time = model.embed(latents, timestep)
    tokens = model.run_blocks(tokens, time, context, grid)
    velocity = model.head(tokens, time, grid)
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from wanjax.errors import UsageError
from wanjax.models.attention import AttentionKernel, as_choice, attention, is_for_tpu
from wanjax.models.configs import Grid, TransformerConfig
from wanjax.models.layers import (
    LayerNorm,
    Linear,
    RMSNorm,
    gelu_tanh,
    layer_norm,
    map_layers,
    param,
    scan_layers,
    stack,
)
from wanjax.models.rope import apply_rope, rope_tables
from wanjax.parallel.sharding import constrain

_EPS_IMAGE = 1e-5  # of the image embedder's norms, whatever `eps` says
_MAX_PERIOD = 10000.0


class Context(NamedTuple):
    """What the tokens attend to, projected to the model's width once per run and expert."""

    text: Float[Array, "batch text width"]
    image: Float[Array, "batch image width"] | None = None

    def branch(self, index: int | Array, total: int) -> Context:
        """The part of one of `total` guidance branches, which share the batch axis."""
        part: Context = jax.tree.map(lambda x: _part(x, index, total, axis=0), self)
        return part


class KeysValues(NamedTuple):
    """A context's cross-attention keys and values in every layer."""

    text: tuple[Float[Array, "layers batch text heads dim"], Float[Array, "layers ..."]]
    image: tuple[Float[Array, "layers batch image heads dim"], Float[Array, "layers ..."]] | None

    def branch(self, index: int | Array, total: int) -> KeysValues:
        """The part of one of `total` guidance branches, which share the batch axis."""
        part: KeysValues = jax.tree.map(lambda x: _part(x, index, total, axis=1), self)
        return part


def _part(x: Array, index: int | Array, total: int, axis: int) -> Array:
    size = x.shape[axis] // total
    return jax.lax.dynamic_slice_in_dim(x, index * size, size, axis)


class Time(NamedTuple):
    """Timestep embedding, one for all tokens (`n` = 1) or one each.

    With `given` there are two, of which these tokens have the second.
    """

    embedding: Float[Array, "#batch n width"]
    modulation: Float[Array, "#batch n 6 width"]
    given: Bool[Array, " tokens"] | None = None

    def of_tokens(self, values: Float[Array, "#batch n width"]) -> Float[Array, "#batch m width"]:
        """What was made of the embeddings, one for all tokens or one each."""
        if self.given is None:
            return values
        # no gather: a compiler makes a selection part of whatever reads it
        return jnp.where(self.given[:, None], values[:, 1:], values[:, :1])


class WanTransformer(nnx.Module):
    def __init__(
        self, config: TransformerConfig, *, kernel: AttentionKernel = "auto", rngs: nnx.Rngs
    ):
        self.config, kernel = config, as_choice(kernel)
        width, patch = config.width, config.patch_size
        self.patch_embedding = PatchEmbedding(patch, config.in_channels, width, rngs=rngs)
        self.condition_embedder = ConditionEmbedder(config, rngs=rngs)
        self.blocks = stack(lambda r: Block(config, kernel, rngs=r), config.num_layers, rngs)
        patch_volume = patch[0] * patch[1] * patch[2]
        self.proj_out = Linear(
            width, config.out_channels * patch_volume, axes=("embed", None), rngs=rngs
        )
        self.scale_shift_table = _modulation_table(rngs, 2, width)

    def __call__(
        self,
        latents: Float[Array, "batch channels frames height w"],
        timestep: Float[Array, "#batch *n"],
        context: Context,
    ) -> Float[Array, "batch out frames height w"]:
        """Flow velocity of `latents` at `timestep` (0..999, per video or per token)."""
        grid = self.grid(latents.shape)
        tokens, time = self.embed(latents, timestep)
        return self.head(self.run_blocks(tokens, time, context, grid), time, grid)

    def grid(self, latents_shape: tuple[int, ...]) -> Grid:
        """Tokens along frames, rows and columns."""
        return self.config.grid(latents_shape)

    def embed_context(
        self,
        text: Float[Array, "batch text text_dim"],
        image: Float[Array, "images image image_dim"] | None = None,
    ) -> Context:
        """Project text (and image) embeddings; the same for all steps of a run.

        There is an image for each video, or a first and a last one after one another.
        """
        return self.condition_embedder.context(text, image)

    def embed(
        self,
        latents: Float[Array, "batch channels frames height w"],
        timestep: Float[Array, "#batch *n"],
        given_frames: int = 0,
    ) -> tuple[Float[Array, "batch tokens width"], Time]:
        """Tokens of the latents, and the timestep's embedding.

        The first `given_frames` latent frames are without noise, at timestep 0 whatever the
        (one) timestep of the others.
        """
        tokens = constrain(self.patch_embedding(latents), "batch", "tokens", None)
        if not given_frames:
            return tokens, self.condition_embedder.time(timestep, latents.dtype)
        of_frame = tokens.shape[1] // self.grid(latents.shape)[0]
        given = jnp.arange(tokens.shape[1]) < given_frames // self.config.patch_size[0] * of_frame
        both = jnp.stack([timestep, jnp.zeros_like(timestep)], axis=-1)
        return tokens, self.condition_embedder.time(both, latents.dtype)._replace(given=given)

    def modulated_input(
        self, tokens: Float[Array, "batch tokens width"], time: Time
    ) -> Float[Array, "batch tokens width"]:
        """What the first block's self-attention gets: normalised, shifted and scaled by time."""
        table = self.blocks.scale_shift_table[...][0]
        shift, scale = (time.of_tokens(table[:, i] + time.modulation[:, :, i]) for i in (0, 1))
        return layer_norm(tokens, self.config.eps) * (1 + scale) + shift

    def keys_values(self, context: Context) -> KeysValues:
        """Keys and values of `context`, so that no step has to compute them again."""

        def of_layer(block: Block) -> KeysValues:
            return block.attn2.keys_values(context)

        return map_layers(self.blocks, of_layer)

    def run_blocks(
        self,
        tokens: Float[Array, "batch tokens width"],
        time: Time,
        context: Context | KeysValues,
        grid: Grid,
    ) -> Float[Array, "batch tokens width"]:
        """All blocks; cross-attention to a context, or to its keys and values if given."""
        rope = rope_tables(grid, self.config.attention_head_dim)

        def run(block: Block, tokens: Array, keys_values: KeysValues | None) -> Array:
            if keys_values is None:
                assert isinstance(context, Context)
                keys_values = block.attn2.keys_values(context)
            return block(tokens, time, keys_values, rope)

        cached = context if isinstance(context, KeysValues) else None
        return scan_layers(self.blocks, run, tokens, cached)

    def head(
        self, tokens: Float[Array, "batch tokens width"], time: Time, grid: Grid
    ) -> Float[Array, "batch out frames height w"]:
        modulation = self.scale_shift_table[...] + time.embedding.astype(jnp.float32)[:, :, None]
        shift, scale = (time.of_tokens(modulation[:, :, i]) for i in (0, 1))
        x = layer_norm(tokens, self.config.eps) * (1 + scale) + shift
        # named before the latents are put together: they are small, the tokens are not
        x = constrain(self.proj_out(x.astype(tokens.dtype)), "batch", "tokens", None)
        return _unpatchify(x, grid, self.config.patch_size)


class PatchEmbedding(nnx.Module):
    """A convolution whose stride is its kernel: one matrix product per patch."""

    def __init__(
        self, patch_size: tuple[int, int, int], channels: int, width: int, *, rngs: nnx.Rngs
    ):
        self.patch_size = patch_size
        init = nnx.initializers.lecun_normal(in_axis=(0, 1, 2, 3), out_axis=4)
        axes = (None, None, None, None, "embed")
        self.kernel = param(rngs, (*patch_size, channels, width), axes, init)
        self.bias = param(rngs, (width,), ("embed",), nnx.initializers.zeros)

    def __call__(
        self, latents: Float[Array, "batch channels frames height w"]
    ) -> Float[Array, "batch tokens width"]:
        batch, channels, *sizes = latents.shape
        (pt, ph, pw), (f, h, w) = self.patch_size, sizes
        x = latents.reshape(batch, channels, f // pt, pt, h // ph, ph, w // pw, pw)
        x = x.transpose(0, 2, 4, 6, 3, 5, 7, 1).reshape(batch, -1, pt * ph * pw * channels)
        kernel = self.kernel[...].reshape(x.shape[-1], -1)
        return x @ kernel.astype(x.dtype) + self.bias[...].astype(x.dtype)


def _unpatchify(
    x: Float[Array, "batch tokens patch"], grid: Grid, patch_size: tuple[int, int, int]
) -> Float[Array, "batch out frames height w"]:
    (f, h, w), (pt, ph, pw) = grid, patch_size
    x = x.reshape(x.shape[0], f, h, w, pt, ph, pw, -1)
    x = x.transpose(0, 7, 1, 4, 2, 5, 3, 6)
    return x.reshape(*x.shape[:2], f * pt, h * ph, w * pw)


class ConditionEmbedder(nnx.Module):
    """Timestep, text and image embeddings to the model's width."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        width, self.freq_dim = config.width, config.freq_dim
        self.time_embedder = Mlp(config.freq_dim, width, width, keep_float32=True, rngs=rngs)
        self.time_proj = Linear(width, 6 * width, axes=("embed", "mlp"), rngs=rngs)
        self.text_embedder = Mlp(config.text_dim, width, width, rngs=rngs)
        self.image_embedder = nnx.data(
            None if config.image_dim is None else ImageEmbedder(config, rngs=rngs)
        )

    def time(self, timestep: Float[Array, "#batch *n"], dtype: jnp.dtype) -> Time:
        per_token = timestep.reshape(timestep.shape[0], -1).astype(jnp.float32)
        embedding = self.time_embedder(_sinusoid(per_token, self.freq_dim), jax.nn.silu)
        embedding = embedding.astype(dtype)
        modulation = self.time_proj(jax.nn.silu(embedding))
        return Time(embedding, modulation.reshape(*embedding.shape[:2], 6, -1))

    def context(self, text: Array, image: Array | None) -> Context:
        if (image is None) != (self.image_embedder is None):
            raise UsageError(
                "image embeddings are needed by models with image_dim, and by them alone; "
                f"got {'none' if image is None else 'some'}"
            )
        tokens = self.text_embedder(text, gelu_tanh)
        embedder = self.image_embedder
        if image is not None and embedder is not None:
            image = constrain(embedder(image), "batch", None, None)
        return Context(constrain(tokens, "batch", None, None), image)


def _sinusoid(t: Float[Array, "batch n"], dim: int) -> Float[Array, "batch n dim"]:
    half = dim // 2
    angles = t[..., None] * jnp.exp(-jnp.log(_MAX_PERIOD) * jnp.arange(half) / half)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class Mlp(nnx.Module):
    """Two linear layers with an activation between."""

    def __init__(
        self, features: int, hidden: int, out: int, *, keep_float32: bool = False, rngs: nnx.Rngs
    ):
        linear = partial(Linear, keep_float32=keep_float32, rngs=rngs)
        self.linear_1 = linear(features, hidden, axes=("embed", "mlp"))
        self.linear_2 = linear(hidden, out, axes=("mlp", "embed"))

    def __call__(self, x: Float[Array, "*batch features"], activation: Any) -> Array:
        return self.linear_2(activation(self.linear_1(x)))


class ImageEmbedder(nnx.Module):
    """CLIP tokens to the model's width (Wan 2.1 image to video)."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        dim = config.image_dim
        assert dim is not None
        self.norm1 = LayerNorm(dim, eps=_EPS_IMAGE, rngs=rngs)
        self.ff = Mlp(dim, dim, config.width, rngs=rngs)
        self.norm2 = LayerNorm(config.width, eps=_EPS_IMAGE, rngs=rngs)
        length = config.pos_embed_seq_len
        self.pos_embed = nnx.data(
            param(rngs, (1, length, dim), (None, None, None), nnx.initializers.zeros)
            if length is not None
            else None
        )

    def __call__(self, image: Float[Array, "images n dim"]) -> Float[Array, "videos m width"]:
        if self.pos_embed is not None:  # first and last frame, one after the other
            image = image.reshape(-1, 2 * image.shape[1], image.shape[2])
            image = image + self.pos_embed[...].astype(image.dtype)
        x = self.ff(self.norm1(image), lambda x: jax.nn.gelu(x, approximate=False))
        return self.norm2(x)


class Block(nnx.Module):
    """Self-attention, cross-attention and feed-forward; the first and last modulated by time."""

    def __init__(self, config: TransformerConfig, kernel: AttentionKernel, *, rngs: nnx.Rngs):
        width, self.eps = config.width, config.eps
        self.attn1 = SelfAttention(config, kernel, rngs=rngs)
        self.norm2 = LayerNorm(width, eps=config.eps, rngs=rngs)
        self.attn2 = CrossAttention(config, kernel, rngs=rngs)
        self.ffn = Mlp(width, config.ffn_dim, width, rngs=rngs)
        self.scale_shift_table = _modulation_table(rngs, 6, width)

    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        time: Time,
        context: KeysValues,
        rope: tuple[Array, Array],
    ) -> Float[Array, "batch tokens width"]:
        m = self.scale_shift_table[...] + time.modulation.astype(jnp.float32)
        shift1, scale1, gate1, shift2, scale2, gate2 = (
            time.of_tokens(m[:, :, i]) for i in range(6)
        )
        y = self.attn1(self._modulate(x, shift1, scale1), rope)
        x = _add_gated(x, y, gate1)
        x = x + self.attn2(self.norm2(x), context)
        y = self.ffn(self._modulate(x, shift2, scale2), gelu_tanh)
        return constrain(_add_gated(x, y, gate2), "batch", "tokens", None)

    def _modulate(self, x: Array, shift: Array, scale: Array) -> Array:
        return (layer_norm(x, self.eps) * (1 + scale) + shift).astype(x.dtype)


def _add_gated(x: Array, y: Array, gate: Array) -> Array:
    return (x.astype(jnp.float32) + y.astype(jnp.float32) * gate).astype(x.dtype)


def _modulation_table(rngs: nnx.Rngs, rows: int, width: int) -> nnx.Param[Array]:
    init = nnx.initializers.normal(width**-0.5)
    return param(rngs, (1, rows, width), (None, None, "embed"), init, keep_float32=True)


class Attention(nnx.Module):
    """The projections that self- and cross-attention have in common."""

    def __init__(self, config: TransformerConfig, kernel: AttentionKernel, *, rngs: nnx.Rngs):
        width, self.heads, self.kernel = config.width, config.num_attention_heads, kernel
        self.to_q = Linear(width, width, axes=("embed", "heads"), rngs=rngs)
        self.to_k = Linear(width, width, axes=("embed", "heads"), rngs=rngs)
        self.to_v = Linear(width, width, axes=("embed", "heads"), rngs=rngs)
        self.to_out = Linear(width, width, axes=("heads", "embed"), rngs=rngs)
        self.norm_q = RMSNorm(width, eps=config.eps, axes=("heads",), rngs=rngs)
        self.norm_k = RMSNorm(width, eps=config.eps, axes=("heads",), rngs=rngs)


class SelfAttention(Attention):
    def __call__(
        self, x: Float[Array, "batch tokens width"], rope: tuple[Array, Array]
    ) -> Float[Array, "batch tokens width"]:
        tpu = is_for_tpu(self.kernel)
        q = _split_heads(self.norm_q(self.to_q(x)), self.heads)
        k = _split_heads(self.norm_k(self.to_k(x)), self.heads)
        q, k = (apply_rope(y, *rope, by_product=tpu) for y in (q, k))
        v = _split_heads(self.to_v(x), self.heads)
        q, k, v = (constrain(y, "batch", "tokens", "heads", None) for y in (q, k, v))
        return self.to_out(_merge_heads(attention(q, k, v, self.kernel, keys="shared")))


class CrossAttention(Attention):
    """Attention to the text and, with its own softmax, to the image; summed before `to_out`."""

    def __init__(self, config: TransformerConfig, kernel: AttentionKernel, *, rngs: nnx.Rngs):
        super().__init__(config, kernel, rngs=rngs)
        width = config.width
        self.has_image = config.added_kv_proj_dim is not None
        if self.has_image:
            self.add_k_proj = Linear(width, width, axes=("embed", "heads"), rngs=rngs)
            self.add_v_proj = Linear(width, width, axes=("embed", "heads"), rngs=rngs)
            self.norm_added_k = RMSNorm(width, eps=config.eps, axes=("heads",), rngs=rngs)

    def keys_values(self, context: Context) -> KeysValues:
        """Of text and image, each [batch, length, heads, dim]."""
        k, v = self.norm_k(self.to_k(context.text)), self.to_v(context.text)
        text = (self._heads(k), self._heads(v))
        if not self.has_image or context.image is None:
            return KeysValues(text, None)
        k, v = self.norm_added_k(self.add_k_proj(context.image)), self.add_v_proj(context.image)
        return KeysValues(text, (self._heads(k), self._heads(v)))

    def _heads(self, x: Float[Array, "b n width"]) -> Float[Array, "b n heads dim"]:
        return constrain(_split_heads(x, self.heads), "batch", None, "heads", None)

    def __call__(
        self, x: Float[Array, "batch tokens width"], context: KeysValues
    ) -> Float[Array, "batch tokens width"]:
        q = _split_heads(self.norm_q(self.to_q(x)), self.heads)
        y = attention(q, *context.text, self.kernel)
        if context.image is not None:
            y = y + attention(q, *context.image, self.kernel)
        return self.to_out(_merge_heads(y))


def _split_heads(x: Float[Array, "b n width"], heads: int) -> Float[Array, "b n heads dim"]:
    return x.reshape(*x.shape[:-1], heads, -1)


def _merge_heads(x: Float[Array, "b n heads dim"]) -> Float[Array, "b n width"]:
    return x.reshape(*x.shape[:-2], -1)
