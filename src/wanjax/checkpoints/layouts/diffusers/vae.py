"""Checkpoint names of the VAE (diffusers' `AutoencoderKLWan`)."""

import re

from wanjax.checkpoints.layouts.names import Rule
from wanjax.models.configs import VAEConfig

_LEAVES: list[Rule] = [
    # the convolution behind an upsampling or padding
    (r"(.*)\.resample\.kernel", r"\1.resample.1.weight", "conv2d"),
    (r"(.*)\.resample\.bias", r"\1.resample.1.bias", "copy"),
    # attention works on images, everything else on video
    (r"(.*\.(?:to_qkv|proj))\.kernel", r"\1.weight", "conv2d"),
    (r"(.*\.attentions\.\d+\.norm\.gamma)", r"\1", "gamma2d"),
    (r"(.*\.gamma)", r"\1", "gamma3d"),
    (r"(.*)\.kernel", r"\1.weight", "conv3d"),
    (r"(.*\.bias)", r"\1", "copy"),
]


def rules(config: VAEConfig) -> list[Rule]:
    """The residual form has our names; that of Wan 2.1 numbers the encoder's blocks throughout."""
    moved = {} if config.is_residual else _flat(config)
    below = [
        (re.escape(ours) + pattern, theirs + key, transform)
        for ours, theirs in moved.items()
        for pattern, key, transform in _LEAVES
    ]
    return [*below, *_LEAVES]


def _flat(config: VAEConfig) -> dict[str, str]:
    """Ours to the name in Wan 2.1's form, of the modules which are named otherwise."""
    number, moved = 0, {}
    for level in range(len(config.dim_mult)):
        ours = f"encoder.down_blocks.{level}"
        blocks = [f"{ours}.resnets.{i}" for i in range(config.num_res_blocks)]
        for block in (*blocks, f"{ours}.downsampler"):
            moved[block] = f"encoder.down_blocks.{number}"
            number += 1
        up = f"decoder.up_blocks.{level}"
        moved[f"{up}.upsampler"] = f"{up}.upsamplers.0"  # a list of one
    return moved
