"""The VAE's frames cut into stripes of rows: which rows each layer needs. No JAX.

At the latents' resolution the VAE looks at whole frames (attention sees all pixels of one).
Above it, where nearly all memory and time go, a layer looks a few rows up and down, so a
stripe of rows can be computed alone from its own rows and a margin of neighbours: exactly,
without blending. A stripe goes through all frames before the next one starts, so that only
one stripe's cache is alive.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Kind = Literal["input", "conv", "residual", "up", "down"]
Form = Any  # `wanjax.models.vae.VAEConfig`, whose module needs JAX


@dataclass(frozen=True)
class Layer:
    """A layer and what of its result is needed; the first of a sequence is the input itself.

    A result has `scale` rows (and columns) for each of the latents, and `frames` frames for
    each latent frame but the first. `margin` rows on either side of a stripe's own must be
    right for the layers that follow. `shortcut`: where a level of a residual form ends, the
    result so many layers before is its input, which is added.
    """

    kind: Kind
    inputs: int
    outputs: int
    scale: int = 1
    frames: int = 1
    temporal: bool = False
    margin: int = 0
    shortcut: int = 0

    def margin_before(self) -> int:
        """Rows on either side that must be right in what this layer takes."""
        match self.kind:
            case "conv":
                return self.margin + 1
            case "residual":
                return self.margin + 2
            case "up":  # rows are repeated, then a convolution looks one to either side
                return (self.margin + 2) // 2
            case "down":  # row i comes of 2i to 2i + 2; even, so that stripes start at whole rows
                return 2 * self.margin + 2
            case "input":
                return self.margin


def window_rows(height: int, of: int, scale: int, margin: int) -> int:
    """Rows held of a stripe of `height` of the latents' `of` rows, with its margins.

    All stripes of one height hold equally many: at the frame's edge the window moves inwards
    (`Stripe.cut`).
    """
    return min(height * scale + 2 * margin, of * scale)


@functools.cache
def decoder_middle(config: Form) -> tuple[Layer, ...]:
    """The decoder's layers at the latents' resolution, on whole frames."""
    width = _decoder_widths(config)[0]
    layers = [Layer("input", config.z_dim, config.z_dim), Layer("conv", config.z_dim, width)]
    return (*layers, *[Layer("residual", width, width)] * (2 + config.num_res_blocks + 1))


@functools.cache
def decoder_stripes(config: Form) -> tuple[Layer, ...]:
    """The decoder's layers above the latents' resolution, from the first upsampler on.

    Of a residual form the input has the channels of two: what the first level's upsampler takes,
    and that level's own input.
    """
    widths = _decoder_widths(config)
    between = widths[0] * (2 if config.is_residual else 1)
    layers = [Layer("input", between, between)]
    level_layers = config.num_res_blocks + 2  # and the upsampler
    for level, outputs in enumerate(widths[1:]):
        temporal = config.temperal_downsample[-1 - level]
        scale, frames = 2 * layers[-1].scale, layers[-1].frames * (2 if temporal else 1)
        inputs = widths[level] // (1 if config.is_residual else 2)
        shortcut = (level_layers if level else 2) if config.is_residual else 0
        layers.append(
            Layer("up", widths[level], inputs, scale, frames, temporal, shortcut=shortcut)
        )
        for width in (inputs, *[outputs] * config.num_res_blocks):
            layers.append(Layer("residual", width, outputs, scale, frames))
    last = layers[-1]
    layers.append(Layer("conv", widths[-1], config.out_channels, last.scale, last.frames))
    return _with_margins(layers)


@functools.cache
def encoder_stripes(config: Form) -> tuple[Layer, ...]:
    """The encoder's layers above the latents' resolution, to the last downsampler.

    The input are pixels, or patches of them where the form has such.
    """
    widths = [config.base_dim * mult for mult in (1, *config.dim_mult)]
    scale, frames = 2 ** len(config.temperal_downsample), config.temporal_factor
    rgb = config.in_channels
    layers = [Layer("input", rgb, rgb, scale, frames), Layer("conv", rgb, widths[0], scale, frames)]
    for level, temporal in enumerate(config.temperal_downsample):
        outputs = widths[level + 1]
        for width in (widths[level], *[outputs] * (config.num_res_blocks - 1)):
            layers.append(Layer("residual", width, outputs, scale, frames))
        scale, frames = scale // 2, frames // (2 if temporal else 1)
        shortcut = config.num_res_blocks + 1 if config.is_residual else 0
        layers.append(Layer("down", outputs, outputs, scale, frames, temporal, shortcut=shortcut))
    return _with_margins(layers)


@functools.cache
def encoder_middle(config: Form) -> tuple[Layer, ...]:
    """The encoder's layers at the latents' resolution, on whole frames."""
    inputs, width = (config.base_dim * mult for mult in (1, *config.dim_mult)[-2:])
    widths = (inputs, *[width] * (config.num_res_blocks - 1 + 2))
    residuals = [Layer("residual", before, width) for before in widths]
    return (
        Layer("input", inputs, inputs),
        *residuals,
        Layer("conv", width, 2 * config.z_dim),
    )


def _decoder_widths(config: Form) -> list[int]:
    base = config.decoder_base_dim or config.base_dim
    return [base * mult for mult in reversed(config.dim_mult)]


def _with_margins(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """A stripe's own rows are needed of the last layer, of the others what follows looks at.

    Layers of one scale hold the rows which the first of them needs: a little more than the
    later ones do, but a compiler for TPUs searches long for the best way to do each shape of
    convolution, and so there are few shapes. Even, so that a stride of two steps on the same
    rows as in the whole frame.
    """
    needed = [layers[-1]]
    for layer in reversed(layers[:-1]):
        needed.append(replace(layer, margin=needed[-1].margin_before()))
    needed.reverse()
    widest: dict[int, int] = {}
    for layer in needed[:-1]:
        margin = layer.margin + layer.margin % 2
        widest[layer.scale] = max(widest.get(layer.scale, 0), margin)
    return (*(replace(x, margin=widest[x.scale]) for x in needed[:-1]), needed[-1])


def cache_shapes(
    layers: Sequence[Layer], batch: int, of: int, width: int, height: int | None = None
) -> list[tuple[int, int, int, int, int]]:
    """What the layers keep of earlier frames, in the order in which they run.

    For a stripe of `height` (None: all) of the latents' `of` rows and `width` columns.
    """
    shapes = []
    for before, layer in itertools.pairwise(layers):
        rows = window_rows(height or of, of, before.scale, before.margin)
        columns = width * before.scale
        if layer.kind in ("conv", "residual") or (layer.kind == "up" and layer.temporal):
            shapes.append((batch, 2, rows, columns, layer.inputs))
        if layer.kind == "residual":
            shapes.append((batch, 2, rows, columns, layer.outputs))
        if layer.kind == "down" and layer.temporal:  # its rows are halved before time is
            shapes.append((batch, 1, rows // 2, columns // 2, layer.outputs))
    return shapes


def frames_remembered(layers: Sequence[Layer]) -> int:
    """How many earlier frames of the pixels' rate can show in a result, at most."""
    finest = max(layer.frames for layer in layers)
    frames = 0
    for before, layer in itertools.pairwise(layers):
        looks = {"conv": 2, "residual": 4, "up": 2, "down": 2}[layer.kind]
        frames += looks * finest // before.frames
    return frames


def stripe_starts(height: int, of: int) -> list[int]:
    """First rows of as many stripes as cover `of` rows; the last one overlaps another."""
    return [min(first, of - height) for first in range(0, of, height)]


def share_of(of: int, devices: int) -> int:
    """Rows in a stripe where each device has one."""
    return -(-of // devices)


def rounds(height: int, of: int, devices: int) -> list[list[int]]:
    """First rows of the stripes that devices compute at once, round after round.

    Devices for which no rows are left do the last stripe once more.
    """
    starts = stripe_starts(height, of)
    starts += starts[-1:] * (-len(starts) % devices)
    return [starts[i : i + devices] for i in range(0, len(starts), devices)]
