"""How a model's output changes with the sample and with the time: what SenCache goes by."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


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


def _rms(x: Float[Array, "batch z t h w"]) -> Float[Array, "batch"]:
    return jnp.sqrt(jnp.mean(jnp.square(x), axis=(1, 2, 3, 4)))
