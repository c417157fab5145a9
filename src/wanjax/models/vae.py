"""The VAE of Wan 2.1 and of the 14B models of Wan 2.2 (diffusers' `AutoencoderKLWan`).

Causal in time: 1 + 4n frames become 1 + n latent frames, the first one a still image of
its own, and no latent depends on later frames. So a video of any length is encoded and
decoded one chunk after the other (`encode_chunk`, `decode_chunk`, `wanjax.pipeline.vae_stream`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wanjax.models.attention import AttentionKernel, as_choice
from wanjax.models.vae_layers import (
    Cache,
    CausalConv,
    ChannelNorm,
    Downsample,
    MidBlock,
    Past,
    ResidualBlock,
    Upsample,
)

# statistics of the published Wan 2.1 latents, diffusers' defaults
_MEAN: tuple[float, ...] = (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508)
_MEAN += (0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921)
_STD: tuple[float, ...] = (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743)
_STD += (3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160)


@dataclass(frozen=True)
class VAEConfig:
    """The fields of `vae/config.json`."""

    base_dim: int = 96
    decoder_base_dim: int | None = None  # null: base_dim
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attn_scales: tuple[float, ...] = ()
    temperal_downsample: tuple[bool, ...] = (False, True, True)
    dropout: float = 0.0
    latents_mean: tuple[float, ...] = _MEAN
    latents_std: tuple[float, ...] = _STD
    is_residual: bool = False
    in_channels: int = 3
    out_channels: int = 3
    patch_size: int | None = None
    scale_factor_temporal: int = 4
    scale_factor_spatial: int = 8

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VAEConfig:
        """Unknown keys are ignored, missing ones take their defaults.

        Raises ValueError for a form of the VAE other than Wan 2.1's.
        """
        known = {field.name for field in fields(cls)} & values.keys()
        return cls(**{key: _frozen(values[key]) for key in known})

    def __post_init__(self) -> None:
        only = {"is_residual": False, "patch_size": None, "attn_scales": ()}
        for key, allowed in only.items():
            if (value := getattr(self, key)) != allowed:
                raise ValueError(
                    f"vae/config.json: {key}={value!r}, but only {key}={allowed!r}, the Wan 2.1 "
                    "form of the VAE, is implemented; use a Wan 2.1 or Wan 2.2 14B folder"
                )
        lengths = {
            "temperal_downsample": len(self.dim_mult) - 1,
            "latents_mean": self.z_dim,
            "latents_std": self.z_dim,
        }
        for key, length in lengths.items():
            if (given := len(getattr(self, key))) != length:
                raise ValueError(
                    f"vae/config.json: {key} has {given} values, expected {length} "
                    f"for z_dim={self.z_dim} and dim_mult={list(self.dim_mult)}"
                )

    @property
    def temporal_factor(self) -> int:
        """Frames per latent frame, after the first."""
        return 2 ** sum(self.temperal_downsample)

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent pixel in each direction."""
        return 2 ** (len(self.dim_mult) - 1)

    def check_frames(self, frames: int) -> None:
        """Raises ValueError for a number of frames which the VAE cannot encode."""
        factor = self.temporal_factor
        if frames < 1 or (frames - 1) % factor:
            raise ValueError(
                f"num_frames={frames}: must be 1 + a multiple of {factor}, "
                f"such as {1 + frames // factor * factor}"
            )


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class Encoder(nnx.Module):
    """Video to the posterior's mean and log variance, `2 * z_dim` channels."""

    def __init__(self, config: VAEConfig, kernel: AttentionKernel, *, rngs: nnx.Rngs):
        widths = [config.base_dim * mult for mult in (1, *config.dim_mult)]
        self.conv_in = CausalConv(config.in_channels, widths[0], (3, 3, 3), rngs=rngs)
        blocks: list[nnx.Module] = []
        for level, width in enumerate(widths[1:]):
            for i in range(config.num_res_blocks):
                inputs = width if i else widths[level]
                blocks.append(ResidualBlock(inputs, width, rngs=rngs))
            if level < len(config.dim_mult) - 1:
                temporal = config.temperal_downsample[level]
                blocks.append(Downsample(width, temporal=temporal, rngs=rngs))
        self.down_blocks = nnx.List(blocks)
        self.mid_block = MidBlock(widths[-1], kernel, rngs=rngs)
        self.norm_out = ChannelNorm(widths[-1], rngs=rngs)
        self.conv_out = CausalConv(widths[-1], 2 * config.z_dim, (3, 3, 3), rngs=rngs)

    def __call__(self, x: Float[Array, "b T H W rgb"], past: Past) -> Float[Array, "b t h w 2*z"]:
        x = self.conv_in(x, past)
        for block in self.down_blocks:
            x = block(x, past)
        x = self.mid_block(x, past)
        return self.conv_out(jax.nn.silu(self.norm_out(x)), past)


class UpBlock(nnx.Module):
    """`num_res_blocks + 1` residual blocks and, but at the last level, an upsampler."""

    def __init__(
        self, inputs: int, outputs: int, blocks: int, temporal: bool | None, *, rngs: nnx.Rngs
    ):
        widths = [inputs, *[outputs] * blocks]
        self.resnets = nnx.List([ResidualBlock(w, outputs, rngs=rngs) for w in widths])
        self.upsampler = nnx.data(
            None if temporal is None else Upsample(outputs, temporal=temporal, rngs=rngs)
        )

    def __call__(self, x: Float[Array, "b t h w c"], past: Past) -> Float[Array, "b t2 h2 w2 c2"]:
        for resnet in self.resnets:
            x = resnet(x, past)
        return x if self.upsampler is None else self.upsampler(x, past)


class Decoder(nnx.Module):
    """Latents to video, not clamped."""

    def __init__(self, config: VAEConfig, kernel: AttentionKernel, *, rngs: nnx.Rngs):
        base = config.decoder_base_dim or config.base_dim
        widths = [base * mult for mult in reversed(config.dim_mult)]
        self.conv_in = CausalConv(config.z_dim, widths[0], (3, 3, 3), rngs=rngs)
        self.mid_block = MidBlock(widths[0], kernel, rngs=rngs)
        inputs = [widths[0], *(width // 2 for width in widths[:-1])]  # upsamplers halve channels
        temporal = [*reversed(config.temperal_downsample), None]
        self.up_blocks = nnx.List(
            [
                UpBlock(*level, rngs=rngs)
                for level in zip(
                    inputs, widths, [config.num_res_blocks] * len(widths), temporal, strict=True
                )
            ]
        )
        self.norm_out = ChannelNorm(widths[-1], rngs=rngs)
        self.conv_out = CausalConv(widths[-1], config.out_channels, (3, 3, 3), rngs=rngs)

    def __call__(self, x: Float[Array, "b t h w z"], past: Past) -> Float[Array, "b T H W rgb"]:
        x = self.mid_block(self.conv_in(x, past), past)
        for block in self.up_blocks:
            x = block(x, past)
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
        """Mean of the posterior, not normalised. Raises ValueError unless T = 1 + 4n."""
        return self.posterior(video)[0]

    def posterior(
        self, video: Float[Array, "b T H W rgb"]
    ) -> tuple[Float[Array, "b t h w z"], Float[Array, "b t h w z"]]:
        """Mean and log variance of the latents of a whole video."""
        self.config.check_frames(video.shape[1])
        mean, log_variance, _ = self._encode(video, None)
        return mean, log_variance

    def encode_chunk(
        self, video: Float[Array, "b f H W rgb"], cache: Cache | None
    ) -> tuple[Float[Array, "b f2 h w z"], Cache]:
        """Mean latents of the next frames: 1 (`cache=None`) at first, then 4 at a time."""
        mean, _, cache = self._encode(video, cache)
        return mean, cache

    def _encode(
        self, video: Float[Array, "b f H W rgb"], cache: Cache | None
    ) -> tuple[Array, Array, Cache]:
        factor = self.config.spatial_factor
        if video.shape[2] % factor or video.shape[3] % factor:
            raise ValueError(
                f"video of {video.shape[2]}x{video.shape[3]} pixels: height and width must be "
                f"multiples of {factor}"
            )
        past = Past(cache)
        moments = self.quant_conv(self.encoder(video, past), past)
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(log_variance, -30.0, 20.0), past.cache()

    def decode(self, latents: Float[Array, "b t h w z"]) -> Float[Array, "b T H W rgb"]:
        """Video of a whole sequence of latents (not normalised), clamped to [-1, 1]."""
        return self.decode_chunk(latents, None)[0]

    def decode_chunk(
        self, latents: Float[Array, "b f h w z"], cache: Cache | None
    ) -> tuple[Float[Array, "b F H W rgb"], Cache]:
        """Video of the next latents: 1 frame for the very first (`cache=None`), 4 for each other.

        Decoding chunk by chunk equals decoding all at once; the cache does not grow.
        """
        video, cache = self.reconstruct_chunk(latents, cache)
        return jnp.clip(video, -1.0, 1.0), cache

    def reconstruct_chunk(
        self, latents: Float[Array, "b f h w z"], cache: Cache | None
    ) -> tuple[Float[Array, "b F H W rgb"], Cache]:
        """`decode_chunk` before the clamp, which has no gradient outside [-1, 1]."""
        past = Past(cache)
        return self.decoder(self.post_quant_conv(latents, past), past), past.cache()

    def normalize(self, latents: Float[Array, "*batch z"]) -> Float[Array, "*batch z"]:
        """`(latents - latents_mean) / latents_std`: what the transformer works on."""
        mean, std = self._statistics(latents)
        return (latents - mean) / std

    def denormalize(self, latents: Float[Array, "*batch z"]) -> Float[Array, "*batch z"]:
        """Inverse of `normalize`."""
        mean, std = self._statistics(latents)
        return latents * std + mean

    def _statistics(self, like: Array) -> Sequence[Array]:
        return [
            jnp.asarray(values, like.dtype)
            for values in (self.config.latents_mean, self.config.latents_std)
        ]
