"""How block residuals and outputs change from step to step: what calibrations record."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_EPS = 1e-8


def residual_change(
    residual: Float[Array, "rows tokens width"],
    previous: Float[Array, "rows tokens width"],
) -> Float[Array, "rows 3"]:
    """Of each row: mean over tokens of ||r|| / ||r_previous||, its spread, and cosine distance.

    The ratio is MagCache's gamma (arXiv 2506.09045, equation 3); the spread is the standard
    deviation over tokens, the distance `1 - cos(r, r_previous)`, a mean over tokens.
    """
    r, p = residual.astype(jnp.float32), previous.astype(jnp.float32)
    norm, norm_before = jnp.linalg.norm(r, axis=-1), jnp.linalg.norm(p, axis=-1)
    ratio = norm / (norm_before + _EPS)
    cosine = jnp.sum(r * p, axis=-1) / (norm * norm_before + _EPS)
    return jnp.stack([ratio.mean(-1), ratio.std(-1), 1 - cosine.mean(-1)], axis=-1)


def output_change(
    before: Float[Array, "batch z t h w"],
    between: Float[Array, "batch z t h w"],
    now: Float[Array, "batch z t h w"],
    sample_before: Float[Array, "batch z t h w"],
    sample: Float[Array, "batch z t h w"],
) -> Float[Array, "batch 3"]:
    """Per video: |between - before|, |sample - sample_before| and |now - between|.

    The outputs are those of (sample_before, t_before), (sample, t_before) and (sample, t). |.|
    is a root mean square, relative to that of `before` for outputs. So the first two tell the
    sensitivity to the sample and the third the one to the time, by finite differences as in
    `sensitivity_calculation.py` of github.com/vita-epfl/SenCache.
    """
    size = _rms(before)
    moved = _rms(sample - sample_before)
    return jnp.stack([_rms(between - before) / size, moved, _rms(now - between) / size], axis=-1)


def _rms(x: Float[Array, "batch z t h w"]) -> Float[Array, " batch"]:
    return jnp.sqrt(jnp.mean(jnp.square(x), axis=(1, 2, 3, 4)))


_ELEMENTS = 2**16  # of a video's latents; all of them in small ones


def sampled_elements(
    velocity: Float[Array, "batch z t h w"],
) -> Float[Array, "batch elements"]:
    """The same elements of each video, chosen at random once and for all.

    Their inner products between steps stand for those of the whole, in bounded memory.
    """
    flat = velocity.reshape(len(velocity), -1)
    size = flat.shape[1]
    if size <= _ELEMENTS:
        return flat
    return flat[:, np.sort(np.random.default_rng(0).choice(size, _ELEMENTS, replace=False))]
