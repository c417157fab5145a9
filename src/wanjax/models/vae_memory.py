"""How much device memory the VAE takes in stripes, and how high a stripe may be. No JAX.

Arithmetic from the layers, within 15 % of what XLA compiles at 720x1280: caches, results and
parameters are counted, what a layer holds while it runs follows the measurements in
`docs/vae_memory.md`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from wanjax.models.vae_stripes import (
    Form,
    Layer,
    cache_shapes,
    decoder_middle,
    decoder_stripes,
    encoder_middle,
    encoder_stripes,
    share_of,
    stripe_starts,
    window_rows,
)

Direction = Literal["decode", "encode"]


@dataclass(frozen=True)
class Size:
    """A video: pixels, frames, videos at a time, bytes of a number.

    `lanes`: what a device rounds channels up to while it computes, 128 on a TPU.
    """

    height: int
    width: int
    frames: int
    batch: int = 1
    item_bytes: int = 4
    lanes: int = 1


@dataclass(frozen=True)
class Stripes:
    """Rows of latents in a stripe, the number of stripes, and the most bytes held at once."""

    rows: int
    count: int
    peak_bytes: int


def choose_stripes(
    config: Form, direction: Direction, size: Size, budget: int, devices: int = 1
) -> Stripes:
    """The fewest stripes of equal height that fit `budget` bytes of a device, parameters included.

    Each of the `devices` has as many. Raises ValueError where not even one of one row fits.
    """
    of = size.height // config.spatial_factor
    share = share_of(of, devices)
    for count in range(1, share + 1):
        rows = -(-share // count)
        peak = peak_bytes(config, direction, size, rows)
        if peak <= budget:
            return Stripes(rows, len(stripe_starts(rows, of)), peak)
    raise ValueError(
        f"VAE {direction} of {size.height}x{size.width}, {size.frames} frames: needs "
        f"{peak / 2**30:.1f} GiB even in stripes of one row, {budget / 2**30:.1f} GiB are free; "
        "choose a smaller height, width or number of videos at a time"
    )


def peak_bytes(config: Form, direction: Direction, size: Size, rows: int) -> int:
    """The most bytes held at once with stripes of `rows` rows of latents."""
    decode = direction == "decode"
    middle, layers = (
        (decoder_middle(config), decoder_stripes(config))
        if decode
        else (encoder_middle(config), encoder_stripes(config))
    )
    of, width = (side // config.spatial_factor for side in (size.height, size.width))
    t = 1 + (size.frames - 1) // config.temporal_factor
    between = layers[0].inputs if decode else layers[-1].outputs
    features = t * size.batch * of * width * between * size.item_bytes
    scores = 2 * size.batch * (of * width) ** 2 * size.item_bytes
    held = 4 * parameter_count(config) + features
    whole = running_bytes(middle, size, of, width, of) + scores
    peak: int = held + max(whole, running_bytes(layers, size, of, width, rows))
    return peak


def parameter_count(config: Form) -> int:
    """Of encoder and decoder, without biases and norms."""
    both = (decoder_middle, decoder_stripes, encoder_middle, encoder_stripes)
    layers = [layer for part in both for layer in part(config)]
    attention = [part(config)[-2].outputs for part in (decoder_middle, encoder_middle)]
    return sum(map(_parameters, layers)) + sum(4 * width**2 for width in attention)


def _parameters(layer: Layer) -> int:
    inputs, outputs = layer.inputs, layer.outputs
    match layer.kind:
        case "conv":
            return 27 * inputs * outputs
        case "residual":
            shortcut = 0 if inputs == outputs else inputs * outputs
            return 27 * (inputs + outputs) * outputs + shortcut
        case "up":
            return 9 * inputs * outputs + (6 * inputs**2 if layer.temporal else 0)
        case "down":
            return 9 * inputs * outputs + (3 * inputs**2 if layer.temporal else 0)
        case "input":
            return 0


def running_bytes(layers: Sequence[Layer], size: Size, of: int, width: int, rows: int) -> int:
    """Cache, input and result of a chunk, and what the largest layer holds while it runs.

    For a stripe of `rows` of the latents' `of` rows and `width` columns.
    """
    shapes = cache_shapes(layers, size.batch, of, width, rows)
    cache = size.item_bytes * sum(map(math.prod, shapes))
    ends = 2 * sum(
        size.item_bytes * size.batch * math.prod(_shape(layer, of, width, rows, layer.outputs))
        for layer in (layers[0], layers[-1])
    )
    working = max(
        _working(before, layer, size, of, width, rows)
        + _aside(layers, number, size, of, width, rows)
        for number, (before, layer) in enumerate(itertools.pairwise(layers))
    )
    return cache + ends + working


def _aside(layers: Sequence[Layer], number: int, size: Size, of: int, width: int, rows: int) -> int:
    """Bytes held for the shortcut of the level to which the layer after `number` belongs."""
    for end in range(number + 1, len(layers)):
        if layers[end].shortcut:
            start = max(end - layers[end].shortcut, 0)
            if start > number:
                return 0
            result = layers[end]
            held = [(layers[start], layers[start].outputs)]
            if end == number + 1:  # it is being brought to the size of the result
                held.append((result, result.outputs))
            return sum(_held(at, channels, size, of, width, rows) for at, channels in held)
    return 0


def _working(before: Layer, layer: Layer, size: Size, of: int, width: int, rows: int) -> int:
    """Bytes held while a layer runs.

    A convolution's input and result are held twice, once as it wants them laid out.
    """
    place = size, of, width, rows
    taken = _held(before, layer.inputs, *place)
    if layer.kind == "up":
        # rows and columns are repeated before they are cut to what is needed
        repeated = taken * 4 * layer.frames // before.frames
        result = repeated * _rounded(layer.outputs, size) // _rounded(layer.inputs, size)
        cut = _held(layer, layer.outputs, *place) if rows < of else 0
        return 2 * repeated + result + taken + cut
    wider = max(layer.inputs, layer.outputs)
    padded, result = _held(before, wider, *place, 2), _held(before, layer.outputs, *place)
    return taken + 2 * padded + 2 * result


def _held(
    at: Layer, channels: int, size: Size, of: int, width: int, rows: int, frames: int = 0
) -> int:
    """Bytes of what a layer gives, or so many channels of it, with `frames` more."""
    f, h, w, c = _shape(at, of, width, rows, _rounded(channels, size))
    return (f + frames) * h * w * c * size.batch * size.item_bytes


def _rounded(channels: int, size: Size) -> int:
    return -(-channels // size.lanes) * size.lanes


def _shape(layer: Layer, of: int, width: int, rows: int, channels: int) -> tuple[int, ...]:
    return (
        layer.frames,
        window_rows(rows, of, layer.scale, layer.margin),
        width * layer.scale,
        channels,
    )
