"""What shapes each model: the fields of its `config.json`, checked. No JAX."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from wanjax.errors import CheckpointError, UsageError
from wanjax.validation import (
    Depth,
    EvenSize,
    Flag,
    Fraction,
    FromJSON,
    Number,
    Positive,
    Size,
    Whole,
    checked,
)

Grid = tuple[int, int, int]
Activation = Literal["gelu", "quick_gelu"]

# statistics of the published Wan 2.1 latents, diffusers' defaults
_MEAN: tuple[float, ...] = (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508)
_MEAN += (0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921)
_STD: tuple[float, ...] = (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743)
_STD += (3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160)


@checked(CheckpointError)
class TransformerConfig(FromJSON):
    """The fields of `transformer/config.json` that shape the model.

    Raises `CheckpointError` for what cannot be, and for other architectures.
    """

    patch_size: tuple[Size, Size, Size] = (1, 2, 2)
    num_attention_heads: Size = 40
    attention_head_dim: EvenSize = 128
    in_channels: Size = 16
    out_channels: Size = 16
    text_dim: Size = 4096
    freq_dim: EvenSize = 256
    ffn_dim: Size = 13824
    num_layers: Depth = 40
    cross_attn_norm: Literal[True] = True
    qk_norm: Literal["rms_norm_across_heads"] = "rms_norm_across_heads"
    eps: Fraction = 1e-6
    image_dim: Size | None = None
    added_kv_proj_dim: Size | None = None
    rope_max_seq_len: Size = 1024
    pos_embed_seq_len: EvenSize | None = None

    def __post_init__(self) -> None:
        if self.added_kv_proj_dim != (None if self.image_dim is None else self.width):
            raise ValueError(
                f"added_kv_proj_dim={self.added_kv_proj_dim}: must be {self.width}, the model's "
                f"width, where there is an image_dim, else null; image_dim={self.image_dim}"
            )
        if self.pos_embed_seq_len is not None and self.image_dim is None:
            raise ValueError("pos_embed_seq_len is of image embeddings, and needs an image_dim")

    @property
    def width(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    def grid(self, latents_shape: tuple[int, ...]) -> Grid:
        """Tokens of latents along frames, rows and columns."""
        sizes = zip(latents_shape[-3:], self.patch_size, strict=True)
        frames, rows, columns = (size // patch for size, patch in sizes)
        return frames, rows, columns


@checked(CheckpointError)
class UMT5Config(FromJSON):
    """Fields of `text_encoder/config.json`; the defaults are those of UMT5-XXL.

    Keys of the decoder or of training are ignored. Raises `CheckpointError` for what cannot
    be, and for text encoders of another kind.
    """

    vocab_size: Size = 256384
    d_model: Size = 4096
    d_kv: Size = 64
    d_ff: Size = 10240
    num_layers: Depth = 24
    num_heads: Size = 64
    relative_attention_num_buckets: Annotated[EvenSize, Field(ge=4)] = 32
    relative_attention_max_distance: Size = 128
    layer_norm_epsilon: Fraction = 1e-6
    feed_forward_proj: Literal["gated-gelu"] = "gated-gelu"

    def __post_init__(self) -> None:
        if self.relative_attention_max_distance <= (
            near := self.relative_attention_num_buckets // 4
        ):
            raise ValueError(
                f"relative_attention_max_distance={self.relative_attention_max_distance}: must be "
                f"above {near}, a quarter of relative_attention_num_buckets"
            )


@checked(CheckpointError)
class VAEConfig(FromJSON):
    """The fields of `vae/config.json`.

    Raises `CheckpointError` for what cannot be, and for forms that no Wan model has.
    """

    base_dim: Size = 96
    decoder_base_dim: Size | None = None  # null: base_dim
    z_dim: Size = 16
    dim_mult: Annotated[tuple[Size, ...], Field(min_length=1, max_length=6)] = (1, 2, 4, 4)
    num_res_blocks: Annotated[Whole, Field(ge=1, le=8)] = 2
    attn_scales: tuple[Number, ...] = ()
    temperal_downsample: tuple[Flag, ...] = (False, True, True)
    dropout: Annotated[Number, Field(ge=0, le=1)] = 0.0
    latents_mean: tuple[Number, ...] = _MEAN
    latents_std: tuple[Positive, ...] = _STD
    is_residual: Flag = False
    in_channels: Size = 3
    out_channels: Size = 3
    patch_size: Size | None = None
    scale_factor_temporal: Size = 4
    scale_factor_spatial: Size = 8

    def __post_init__(self) -> None:
        if self.attn_scales:
            raise ValueError(
                f"attn_scales={list(self.attn_scales)}: must be empty, as in all VAEs of Wan"
            )
        for key in ("in_channels", "out_channels"):
            if getattr(self, key) != (channels := 3 * self.patch**2):
                raise ValueError(
                    f"{key}={getattr(self, key)}: must be {channels}, the colours of a patch, "
                    f"for patch_size={self.patch_size}"
                )
        lengths = {
            "temperal_downsample": len(self.dim_mult) - 1,
            "latents_mean": self.z_dim,
            "latents_std": self.z_dim,
        }
        for key, length in lengths.items():
            if (given := len(getattr(self, key))) != length:
                raise ValueError(
                    f"{key} has {given} values, expected {length} "
                    f"for z_dim={self.z_dim} and dim_mult={list(self.dim_mult)}"
                )
        if self.is_residual:
            self._check_shortcuts()

    def _check_shortcuts(self) -> None:
        """A level's input must come to its result's channels by means, or by repetition."""
        cells = [8 if temporal else 4 for temporal in self.temperal_downsample]
        mults = self.dim_mult
        down = zip((1, *mults[:-1]), mults, [*cells, 1], strict=True)
        up = zip((*mults[2:], mults[-1]), mults[1:], cells, strict=True)
        if any(before * cell % after for before, after, cell in down) or any(
            after * cell % before for before, after, cell in up
        ):
            raise ValueError(
                f"dim_mult={list(self.dim_mult)}: with is_residual, each level's width must divide "
                "the one before times the pixels that it joins"
            )

    @property
    def patch(self) -> int:
        """Pixels of a patch in each direction."""
        return self.patch_size or 1

    @property
    def temporal_factor(self) -> int:
        """Frames per latent frame, after the first."""
        factor: int = 2 ** sum(self.temperal_downsample)
        return factor

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent pixel in each direction."""
        factor: int = self.patch * 2 ** (len(self.dim_mult) - 1)
        return factor

    def check_frames(self, frames: int) -> None:
        """Raises `UsageError` for a number of frames which the VAE cannot encode."""
        factor = self.temporal_factor
        if frames < 1 or (frames - 1) % factor:
            raise UsageError(
                f"num_frames={frames}: must be 1 + a multiple of {factor}, "
                f"such as {1 + frames // factor * factor}"
            )


@checked(CheckpointError)
class CLIPVisionConfig(FromJSON):
    """Fields of `image_encoder/config.json`; the defaults are those of ViT-H/14.

    Raises `CheckpointError` for what cannot be.
    """

    hidden_size: Size = 1280
    intermediate_size: Size = 5120
    num_hidden_layers: Annotated[Depth, Field(ge=2)] = 32  # of which the last is not used
    num_attention_heads: Size = 16
    num_channels: Size = 3
    image_size: Size = 224
    patch_size: Size = 14
    hidden_act: Activation = "gelu"
    layer_norm_eps: Fraction = 1e-5

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size}: must be a multiple of "
                f"num_attention_heads={self.num_attention_heads}"
            )
        if self.patch_size > self.image_size:
            raise ValueError(
                f"patch_size={self.patch_size}: must be at most image_size={self.image_size}"
            )
