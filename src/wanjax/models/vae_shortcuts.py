"""What the VAE of Wan 2.2 has besides layers with parameters: patches and levels' shortcuts.

Each level of its encoder and decoder (residual blocks and a change of resolution) adds its input,
brought to its result's size by means or by repetition (diffusers' `AvgDown3D`, `DupUp3D`). Pixels
enter and leave as patches, folded into the channels.
"""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def average_down(
    x: Float[Array, "b t h w c"], channels: int, times: int, factor: int
) -> Float[Array, "b t2 h2 w2 {channels}"]:
    """`x` with time, height and width divided and its means as so many channels.

    The `times * factor**2` values of a cell follow the channel; neighbours in that order, as many
    as it takes, become one by their mean. A clip that starts with the video's first frame has a
    zero frame before it.
    """
    before = -x.shape[1] % times
    x = jnp.pad(x, ((0, 0), (before, 0), (0, 0), (0, 0), (0, 0)))
    batch, frames, height, width, inputs = x.shape
    t, h, w = frames // times, height // factor, width // factor
    x = x.reshape(batch, t, times, h, factor, w, factor, inputs)
    x = x.transpose(0, 1, 3, 5, 7, 2, 4, 6)
    means: Array = x.reshape(batch, t, h, w, channels, -1).mean(axis=-1)
    return means


def repeat_up(
    x: Float[Array, "b t h w c"], channels: int, times: int, first: bool
) -> Float[Array, "b t2 2*h 2*w {channels}"]:
    """The inverse of `average_down` by a factor of two: every value as often as it was averaged.

    The video's `first` frame becomes one frame.
    """
    batch, frames, height, width, inputs = x.shape
    cell = times * 4
    taken = np.arange(channels * cell).reshape(channels, times, 2, 2) // (channels * cell // inputs)
    # channels stay the last axis all along: other orders cost a device that pads the last axes
    parts = [
        x[..., taken[:, time, row, column]]
        for time, row, column in itertools.product(range(times), range(2), range(2))
    ]
    y = jnp.stack(parts).reshape(times, 2, 2, batch, frames, height, width, channels)
    y = y.transpose(3, 4, 0, 5, 1, 6, 2, 7)
    y = y.reshape(batch, frames * times, 2 * height, 2 * width, channels)
    return y[:, times - 1 :] if first else y


def patchify(x: Float[Array, "b t h w c"], size: int) -> Float[Array, "b t h2 w2 c2"]:
    """Squares of `size` pixels to one with more channels: by colour, then column, then row."""
    batch, frames, height, width, channels = x.shape
    x = x.reshape(batch, frames, height // size, size, width // size, size, channels)
    x = x.transpose(0, 1, 2, 4, 6, 5, 3)
    return x.reshape(*x.shape[:4], -1)


def unpatchify(x: Float[Array, "b t h w c"], size: int) -> Float[Array, "b t h2 w2 c2"]:
    """Inverse of `patchify`."""
    batch, frames, height, width, _ = x.shape
    x = x.reshape(batch, frames, height, width, -1, size, size)
    x = x.transpose(0, 1, 2, 6, 3, 5, 4)
    return x.reshape(batch, frames, height * size, width * size, -1)
