"""The unconditional model output predicted from the conditional one, by frequency."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float


def predict_unconditional(
    conditional: Float[Array, "batch z t h w"],
    computed: Float[Array, "2 batch z t h w"],
    weights: Float[Array, "2"],
) -> Float[Array, "batch z t h w"]:
    """`c + F^-1(w * F(u0 - c0))`: FasterCache's CFG cache (arXiv 2410.19355, section 3.3).

    `computed` are the conditional and unconditional outputs (c0, u0) of one and the same
    computed step; `weights` (low, high) scale the two bands of their difference's 2D
    frequencies over rows and columns.
    """
    difference = computed[1] - computed[0]
    height, width = difference.shape[-2:]
    spectrum = jnp.fft.rfft2(difference)
    scale = jnp.where(low_frequencies(height, width), weights[0], weights[1])
    return conditional + jnp.fft.irfft2(spectrum * scale, s=(height, width))


def low_frequencies(height: int, width: int) -> Bool[np.ndarray, "height half_width"]:
    """The lowest quarter of the frequencies in each direction of a real 2D transform."""
    half = width // 2 + 1
    rows = np.abs(np.fft.fftfreq(height, 1 / height)) < height // 4
    columns = np.arange(half) < (width // 2 + 1) // 4
    low: Bool[np.ndarray, "height half_width"] = rows[:, None] & columns[None]
    return low
