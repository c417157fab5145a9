"""The authors' names of the VAE, both forms."""

from wanjax.checkpoints.layouts.names import Names
from wanjax.models.configs import VAEConfig

_RESIDUAL = {
    "residual.0": "norm1",
    "residual.2": "conv1",
    "residual.3": "norm2",
    "residual.6": "conv2",
    "shortcut": "conv_shortcut",
}
_RESAMPLE = {"resample.1": "resample.1", "time_conv": "time_conv"}


def names(config: VAEConfig) -> Names:
    """Of all modules, which are numbered otherwise in each form."""
    found = {"conv1": "quant_conv", "conv2": "post_quant_conv"}
    for side in ("encoder", "decoder"):
        found |= {
            f"{side}.conv1": f"{side}.conv_in",
            f"{side}.head.0": f"{side}.norm_out",
            f"{side}.head.2": f"{side}.conv_out",
        }
        for number, resnet in ((0, 0), (2, 1)):
            _add(found, f"{side}.middle.{number}", f"{side}.mid_block.resnets.{resnet}", _RESIDUAL)
        attention = {name: name for name in ("norm", "to_qkv", "proj")}
        _add(found, f"{side}.middle.1", f"{side}.mid_block.attentions.0", attention)
    _levels(found, config, "encoder.downsamples", "encoder.down_blocks", config.num_res_blocks)
    _levels(found, config, "decoder.upsamples", "decoder.up_blocks", config.num_res_blocks + 1)
    return found


def _levels(
    found: dict[str, str], config: VAEConfig, original: str, diffusers: str, resnets: int
) -> None:
    """Of each level its residual blocks and, but of the last, what changes the resolution.

    Wan 2.1's encoder is numbered throughout in diffusers, too; its decoder is not.
    """
    flat, up = not config.is_residual, "up" in diffusers
    number = 0
    for level in range(len(config.dim_mult)):
        last = level == len(config.dim_mult) - 1
        for block in range(resnets + (not last)):
            ours = (
                f"{original}.{number}"
                if flat
                else (f"{original}.{level}.{original.split('.')[1]}.{block}")
            )
            if flat and not up:
                theirs = f"{diffusers}.{number}"
            elif block < resnets:
                theirs = f"{diffusers}.{level}.resnets.{block}"
            elif up:
                theirs = f"{diffusers}.{level}.upsampler" + "s.0" * flat
            else:
                theirs = f"{diffusers}.{level}.downsampler"
            _add(found, ours, theirs, _RESIDUAL if block < resnets else _RESAMPLE)
            number += 1


def _add(found: dict[str, str], ours: str, theirs: str, inside: Names) -> None:
    found |= {f"{ours}.{x}": f"{theirs}.{y}" for x, y in inside.items()}
