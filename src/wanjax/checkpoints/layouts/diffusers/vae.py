"""Checkpoint names of the VAE (diffusers' `AutoencoderKLWan`, Wan 2.1 form)."""

from wanjax.checkpoints.mapping import Rule

RULES: list[Rule] = [
    # diffusers has a list of one upsampler, and the convolution behind an upsampling or padding
    (r"(.*)\.upsampler\.resample\.kernel", r"\1.upsamplers.0.resample.1.weight", "conv2d"),
    (r"(.*)\.upsampler\.resample\.bias", r"\1.upsamplers.0.resample.1.bias", "copy"),
    (r"(.*)\.upsampler\.time_conv\.kernel", r"\1.upsamplers.0.time_conv.weight", "conv3d"),
    (r"(.*)\.upsampler\.time_conv\.bias", r"\1.upsamplers.0.time_conv.bias", "copy"),
    (r"(.*)\.resample\.kernel", r"\1.resample.1.weight", "conv2d"),
    (r"(.*)\.resample\.bias", r"\1.resample.1.bias", "copy"),
    # attention works on images, everything else on video
    (r"(.*\.(?:to_qkv|proj))\.kernel", r"\1.weight", "conv2d"),
    (r"(.*\.attentions\.\d+\.norm\.gamma)", r"\1", "gamma2d"),
    (r"(.*\.gamma)", r"\1", "gamma3d"),
    (r"(.*)\.kernel", r"\1.weight", "conv3d"),
    (r"(.*\.bias)", r"\1", "copy"),
]
