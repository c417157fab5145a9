"""The VAE of Wan, both forms of diffusers' `AutoencoderKLWan`.

That of Wan 2.1 and of the 14B models of Wan 2.2 divides height and width by 8. That of Wan 2.2's
5B model (`is_residual`) takes patches of 2x2 pixels, so that it divides them by 16, and adds to
every level its input (`vae_shortcuts`).

Causal in time: 1 + 4n frames become 1 + n latent frames, the first one a still image of
its own, and no latent depends on later frames. So a video of any length passes one chunk
after the other: 1 frame at first, then 4 at a time. In space there are two parts: at the
latents' resolution (`*_middle`) whole frames, above it (`*_stripe`) stripes of rows, see
`vae_stripes`. `wanjax.pipeline.vae_stream` runs them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from wanjax.errors import UsageError
from wanjax.models.attention import AttentionKernel, as_choice
from wanjax.models.configs import VAEConfig
from wanjax.models.vae_layers import (
    Cache,
    CausalConv,
    ChannelNorm,
    Downsample,
    MidBlock,
    Past,
    ResidualBlock,
    Stripe,
    Upsample,
)
from wanjax.models.vae_shortcuts import average_down, patchify, repeat_up, unpatchify
from wanjax.models.vae_stripes import Layer, decoder_stripes, encoder_stripes

Block = Callable[[Array, Past], Array]
Latents = Float[Array | np.ndarray, "*batch z"]


class DownBlock(nnx.Module):
    """`num_res_blocks` residual blocks and, but at the last level, a downsampler."""

    def __init__(
        self, inputs: int, outputs: int, blocks: int, temporal: bool | None, *, rngs: nnx.Rngs
    ):
        widths = [inputs, *[outputs] * (blocks - 1)]
        self.resnets = nnx.List([ResidualBlock(w, outputs, rngs=rngs) for w in widths])
        self.downsampler = nnx.data(
            None if temporal is None else Downsample(outputs, temporal=temporal, rngs=rngs)
        )


class Encoder(nnx.Module):
    """Video to the posterior's mean and log variance, `2 * z_dim` channels."""

    def __init__(self, config: VAEConfig, kernel: AttentionKernel, *, rngs: nnx.Rngs):
        self.config = config
        widths = [config.base_dim * mult for mult in (1, *config.dim_mult)]
        self.conv_in = CausalConv(config.in_channels, widths[0], (3, 3, 3), rngs=rngs)
        temporal = [*config.temperal_downsample, None]
        self.down_blocks = nnx.List(
            [
                DownBlock(inputs, width, config.num_res_blocks, times, rngs=rngs)
                for inputs, width, times in zip(widths[:-1], widths[1:], temporal, strict=True)
            ]
        )
        self.mid_block = MidBlock(widths[-1], kernel, rngs=rngs)
        self.norm_out = ChannelNorm(widths[-1], rngs=rngs)
        self.conv_out = CausalConv(widths[-1], 2 * config.z_dim, (3, 3, 3), rngs=rngs)

    def reduce(
        self, x: Float[Array, "b T H W c"], past: Past, stripe: Stripe
    ) -> Float[Array, "b t rows w c2"]:
        """Whole frames (of patches, where the form has such) to rows at the latents' resolution."""
        blocks: list[Block] = [self.conv_in]
        for level in self.down_blocks[:-1]:
            assert level.downsampler is not None
            blocks += [*level.resnets, level.downsampler]
        return _in_stripe([x], past, stripe, blocks, encoder_stripes(self.config))

    def middle(self, x: Float[Array, "b t h w c"], past: Past) -> Float[Array, "b t h w moments"]:
        before = x
        for block in self.down_blocks[-1].resnets:
            x = block(x, past)
        if self.config.is_residual:
            x = x + average_down(before, x.shape[-1], 1, 1)
        x = self.mid_block(x, past)
        return self.conv_out(jax.nn.silu(self.norm_out(x)), past)


def _in_stripe(
    start: Sequence[Array],
    past: Past,
    stripe: Stripe,
    blocks: Sequence[Block],
    layers: Sequence[Layer],
) -> Array:
    """The last layer's rows of a stripe; `start` are whole frames, last what the first block takes.

    What comes before that is for the shortcut of a level which began there.
    """
    held = [stripe.cut(x, layers[0]) for x in start]
    for block, layer in zip(blocks, layers[1:], strict=True):
        x = stripe.cut(block(held[-1], past), layer)
        if layer.shortcut:
            aside = _resampled(held[-layer.shortcut], layer, past.first)
            x = x + stripe.cut(aside, layer)
        held.append(x)
    return held[-1]


def _resampled(x: Array, layer: Layer, first: bool) -> Array:
    """A level's input at the size of its last `layer`'s result."""
    times = 2 if layer.temporal else 1
    if layer.kind == "down":
        return average_down(x, layer.outputs, times, 2)
    return repeat_up(x, layer.outputs, times, first)


class UpBlock(nnx.Module):
    """`num_res_blocks + 1` residual blocks and, but at the last level, an upsampler."""

    def __init__(
        self,
        inputs: int,
        width: int,
        blocks: int,
        temporal: bool | None,
        outputs: int,
        *,
        rngs: nnx.Rngs,
    ):
        widths = [inputs, *[width] * blocks]
        self.resnets = nnx.List([ResidualBlock(w, width, rngs=rngs) for w in widths])
        self.upsampler = nnx.data(
            None if temporal is None else Upsample(width, outputs, temporal=temporal, rngs=rngs)
        )


class Decoder(nnx.Module):
    """Latents to video (or patches of it), not clamped."""

    def __init__(self, config: VAEConfig, kernel: AttentionKernel, *, rngs: nnx.Rngs):
        self.config = config
        base = config.decoder_base_dim or config.base_dim
        widths = [base * mult for mult in reversed(config.dim_mult)]
        self.conv_in = CausalConv(config.z_dim, widths[0], (3, 3, 3), rngs=rngs)
        self.mid_block = MidBlock(widths[0], kernel, rngs=rngs)
        # the upsamplers of Wan 2.1 halve channels
        outputs = [width // (1 if config.is_residual else 2) for width in widths]
        temporal = [*reversed(config.temperal_downsample), None]
        levels = zip([widths[0], *outputs], widths, temporal, outputs, strict=False)
        blocks = config.num_res_blocks
        self.up_blocks = nnx.List(
            [
                UpBlock(inputs, width, blocks, times, made, rngs=rngs)
                for inputs, width, times, made in levels
            ]
        )
        self.norm_out = ChannelNorm(widths[-1], rngs=rngs)
        self.conv_out = CausalConv(widths[-1], config.out_channels, (3, 3, 3), rngs=rngs)

    def middle(self, x: Float[Array, "b t h w z"], past: Past) -> Float[Array, "b t h w c"]:
        before = x = self.mid_block(self.conv_in(x, past), past)
        for resnet in self.up_blocks[0].resnets:
            x = resnet(x, past)
        return jnp.concatenate([before, x], axis=-1) if self.config.is_residual else x

    def enlarge(
        self, x: Float[Array, "b t h w c"], past: Past, stripe: Stripe
    ) -> Float[Array, "b T rows W rgb"]:
        """Whole frames at the latents' resolution to a stripe's rows of pixels or patches."""
        blocks: list[Block] = []
        for before, level in itertools.pairwise(self.up_blocks):
            assert before.upsampler is not None
            blocks += [before.upsampler, *level.resnets]
        start = jnp.split(x, 2, axis=-1) if self.config.is_residual else [x]
        return _in_stripe(start, past, stripe, [*blocks, self._out], decoder_stripes(self.config))

    def _out(self, x: Float[Array, "b t h w c"], past: Past) -> Float[Array, "b t h w rgb"]:
        return self.conv_out(jax.nn.silu(self.norm_out(x)), past)


class WanVAE(nnx.Module):
    """Video in [-1, 1] to latents and back, in the dtype of the input.

    Sizes: T = 1 + temporal_factor * (t - 1), H = spatial_factor * h, W = spatial_factor * w.
    """

    def __init__(self, config: VAEConfig, *, kernel: AttentionKernel = "auto", rngs: nnx.Rngs):
        self.config = config
        kernel = as_choice(kernel)
        self.encoder = Encoder(config, kernel, rngs=rngs)
        self.quant_conv = CausalConv(2 * config.z_dim, 2 * config.z_dim, (1, 1, 1), rngs=rngs)
        self.post_quant_conv = CausalConv(config.z_dim, config.z_dim, (1, 1, 1), rngs=rngs)
        self.decoder = Decoder(config, kernel, rngs=rngs)

    def encode(self, video: Float[Array, "b T H W rgb"]) -> Float[Array, "b t h w z"]:
        """Mean of the posterior, not normalised. Raises `UsageError` unless T = 1 + 4n."""
        return self.posterior(video)[0]

    def posterior(
        self, video: Float[Array, "b T H W rgb"]
    ) -> tuple[Float[Array, "b t h w z"], Float[Array, "b t h w z"]]:
        """Mean and log variance of the latents of a whole video."""
        self.config.check_frames(video.shape[1])
        whole = Stripe.whole(self.latent_rows(video.shape))
        features, _ = self.encode_stripe(video, None, whole)
        past = Past(None)
        moments = self.quant_conv(self.encoder.middle(features, past), past)
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(log_variance, -30.0, 20.0)

    def encode_stripe(
        self, video: Float[Array, "b f H W rgb"], cache: Cache | None, stripe: Stripe
    ) -> tuple[Float[Array, "b f2 rows w c"], Cache]:
        """A stripe of what `encode_middle` takes, from the next frames, which are whole.

        1 frame (`cache=None`) at first, then 4 at a time; chunk by chunk equals all at once.
        """
        past, patches = Past(cache), patchify(video, self.config.patch)
        return self.encoder.reduce(patches, past, stripe), past.cache()

    def encode_middle(
        self, features: Float[Array, "b t h w c"], cache: Cache | None
    ) -> tuple[Float[Array, "b t h w z"], Cache]:
        """Mean latents of the next frames; with a cache of zeros those of the first."""
        past = Past(cache)
        moments = self.quant_conv(self.encoder.middle(features, past), past)
        return moments[..., : self.config.z_dim], past.cache()

    def latent_rows(self, shape: Sequence[int]) -> int:
        """Rows of the latents of a video of this shape, `[b, T, H, W, rgb]`.

        Raises ValueError for a size which the VAE cannot encode.
        """
        factor = self.config.spatial_factor
        if shape[2] % factor or shape[3] % factor:
            raise UsageError(
                f"video of {shape[2]}x{shape[3]} pixels: height and width must be "
                f"multiples of {factor}"
            )
        return shape[2] // factor

    def decode(self, latents: Float[Array, "b t h w z"]) -> Float[Array, "b T H W rgb"]:
        """Video of a whole sequence of latents (not normalised), clamped to [-1, 1]."""
        return jnp.clip(self.reconstruct(latents), -1.0, 1.0)

    def reconstruct(self, latents: Float[Array, "b t h w z"]) -> Float[Array, "b T H W rgb"]:
        """`decode` before the clamp, which has no gradient outside [-1, 1]."""
        features, _ = self.decode_middle(latents, None)
        patches = self.decoder.enlarge(features, Past(None), Stripe.whole(latents.shape[2]))
        return unpatchify(patches, self.config.patch)

    def decode_middle(
        self, latents: Float[Array, "b t h w z"], cache: Cache | None
    ) -> tuple[Float[Array, "b t h w c"], Cache]:
        """What `decode_stripe` takes, of the next latents; the first ones' cache may be zeros."""
        past = Past(cache)
        return self.decoder.middle(self.post_quant_conv(latents, past), past), past.cache()

    def decode_stripe(
        self, features: Float[Array, "b t h w c"], cache: Cache | None, stripe: Stripe
    ) -> tuple[Float[Array, "b T rows W rgb"], Cache]:
        """A stripe of the next frames: 1 for the very first (`cache=None`), 4 for each other.

        Chunk by chunk equals all at once; the cache does not grow.
        """
        past = Past(cache)
        rows = unpatchify(self.decoder.enlarge(features, past, stripe), self.config.patch)
        return jnp.clip(rows, -1.0, 1.0), past.cache()

    def normalize(self, latents: Latents) -> Latents:
        """`(latents - latents_mean) / latents_std`: what the transformer works on."""
        mean, std = self._statistics(latents)
        return (latents - mean) / std

    def denormalize(self, latents: Latents) -> Latents:
        """Inverse of `normalize`."""
        mean, std = self._statistics(latents)
        return latents * std + mean

    def _statistics(self, like: Latents) -> Sequence[np.ndarray]:
        return [
            np.asarray(values, like.dtype)
            for values in (self.config.latents_mean, self.config.latents_std)
        ]
