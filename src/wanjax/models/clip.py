"""CLIP vision tower: an image to the tokens that Wan 2.1's image-to-video models attend to.

Radford et al. (arXiv:2103.00020), ViT-H/14 in the published folders. Wan reads the
hidden states before the last layer, so neither that layer nor what follows is here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wanjax.errors import CheckpointError
from wanjax.models.attention import AttentionKernel, as_choice, attention
from wanjax.models.configs import Activation, CLIPVisionConfig
from wanjax.models.layers import LayerNorm, Linear, param, scan_layers, stack


def _quick_gelu(x: Array) -> Array:
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "quick_gelu": _quick_gelu,
}


class CLIPVisionModel(nnx.Module):
    """Patch embedding, class token, positions, norm, and all layers but the last."""

    def __init__(
        self, config: CLIPVisionConfig, *, kernel: AttentionKernel = "auto", rngs: nnx.Rngs
    ):
        self.config, kernel = config, as_choice(kernel)
        width = config.hidden_size
        tokens = (config.image_size // config.patch_size) ** 2 + 1
        normal = nnx.initializers.normal(width**-0.5)
        self.patch_embedding = PatchEmbedding(config, rngs=rngs)
        self.class_embedding = param(rngs, (width,), ("embed",), normal)
        self.position_embedding = param(rngs, (tokens, width), (None, "embed"), normal)
        self.pre_layrnorm = LayerNorm(width, eps=config.layer_norm_eps, rngs=rngs)  # sic
        self.layers = stack(
            lambda rngs: Layer(config, kernel, rngs=rngs), config.num_hidden_layers - 1, rngs
        )

    def __call__(
        self, pixel_values: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch tokens hidden_size"]:
        """Hidden states after the last layer but one; the class token comes first.

        `pixel_values` are normalised as `wanjax.media.clip_processor` does and square, of the
        config's `image_size` (`CheckpointError` otherwise).
        """
        size = self.config.image_size
        if pixel_values.shape[1:3] != (size, size):
            raise CheckpointError(
                f"image of height and width {pixel_values.shape[1:3]}; this image encoder "
                f"takes {size} by {size}: check crop_size of preprocessor_config.json"
            )
        x = self.patch_embedding(pixel_values)
        first = jnp.broadcast_to(self.class_embedding[...].astype(x.dtype), (len(x), 1, x.shape[2]))
        x = jnp.concatenate([first, x], axis=1) + self.position_embedding[...].astype(x.dtype)
        return scan_layers(self.layers, lambda layer, x, _: layer(x), self.pre_layrnorm(x))


class PatchEmbedding(nnx.Module):
    """Convolution without bias whose stride is its kernel: one product per patch."""

    def __init__(self, config: CLIPVisionConfig, *, rngs: nnx.Rngs):
        self.patch = config.patch_size
        shape = (self.patch, self.patch, config.num_channels, config.hidden_size)
        self.kernel = param(rngs, shape, (None, None, None, "embed"))

    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch patches hidden_size"]:
        batch, height, width, channels = images.shape
        rows, columns, p = height // self.patch, width // self.patch, self.patch
        x = images[:, : rows * p, : columns * p].reshape(batch, rows, p, columns, p, channels)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, -1)
        kernel = self.kernel[...].astype(x.dtype)
        return x @ kernel.reshape(-1, kernel.shape[-1])


class Layer(nnx.Module):
    """Self-attention and MLP, each on a normalised input, each residual."""

    def __init__(self, config: CLIPVisionConfig, kernel: AttentionKernel, *, rngs: nnx.Rngs):
        width, eps = config.hidden_size, config.layer_norm_eps
        self.layer_norm1 = LayerNorm(width, eps=eps, rngs=rngs)
        self.self_attn = Attention(config, kernel, rngs=rngs)
        self.layer_norm2 = LayerNorm(width, eps=eps, rngs=rngs)
        self.mlp = MLP(config, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch tokens hidden_size"]
    ) -> Float[Array, "batch tokens hidden_size"]:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Attention(nnx.Module):
    """`softmax(q kᵀ / sqrt(head size)) v` per head, over all tokens."""

    def __init__(self, config: CLIPVisionConfig, kernel: AttentionKernel, *, rngs: nnx.Rngs):
        self.heads, self.kernel = config.num_attention_heads, kernel
        width = config.hidden_size
        self.q_proj = Linear(width, width, axes=("embed", "heads"), rngs=rngs)
        self.k_proj = Linear(width, width, axes=("embed", "heads"), rngs=rngs)
        self.v_proj = Linear(width, width, axes=("embed", "heads"), rngs=rngs)
        self.out_proj = Linear(width, width, axes=("heads", "embed"), rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch tokens hidden_size"]
    ) -> Float[Array, "batch tokens hidden_size"]:
        q, k, v = (
            linear(x).reshape(*x.shape[:2], self.heads, -1)
            for linear in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = attention(q, k, v, self.kernel)
        return self.out_proj(mixed.reshape(x.shape))


class MLP(nnx.Module):
    """`fc2(act(fc1 x))`."""

    def __init__(self, config: CLIPVisionConfig, *, rngs: nnx.Rngs):
        width, hidden = config.hidden_size, config.intermediate_size
        self.activation = ACTIVATIONS[config.hidden_act]
        self.fc1 = Linear(width, hidden, axes=("embed", "mlp"), rngs=rngs)
        self.fc2 = Linear(hidden, width, axes=("mlp", "embed"), rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch tokens hidden_size"]
    ) -> Float[Array, "batch tokens hidden_size"]:
        return self.fc2(self.activation(self.fc1(x)))
