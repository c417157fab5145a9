"""The unconditional model output predicted from the conditional one, by frequency."""

from __future__ import annotations

import jax
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
    low, high = weights
    scaled: Array = high * difference + (low - high) * low_frequencies(difference)
    return conditional + scaled


def low_frequencies(x: Float[Array, "*batch h w"]) -> Float[Array, "*batch h w"]:
    """The lowest quarter of the frequencies in each direction of a 2D Fourier transform.

    By the matrices that transform, cut and transform back: they are small, and XLA's
    transform on CPU refuses the layouts that arrays have on a mesh.
    """
    height, width = x.shape[-2:]
    rows = _projection(np.abs(np.fft.fftfreq(height, 1 / height)) < height // 4)
    columns = _projection(np.abs(np.fft.fftfreq(width, 1 / width)) < (width // 2 + 1) // 4)
    highest = jax.lax.Precision.HIGHEST  # the weights act on a difference of outputs
    return jnp.einsum("ih,...hw,jw->...ij", rows, x, columns, precision=highest)


def _projection(kept: Bool[np.ndarray, " n"]) -> Float[np.ndarray, "n n"]:
    """Onto the frequencies `kept`, each with its negative: real, computed in float64."""
    transform = np.fft.fft(np.eye(len(kept)), axis=0)
    projection: Float[np.ndarray, "n n"] = np.fft.ifft(kept[:, None] * transform, axis=0).real
    return projection.astype(np.float32)
