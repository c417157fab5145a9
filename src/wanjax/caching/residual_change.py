"""How a block residual changes from one step to the next: what MagCache's curve records."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

_EPS = 1e-8


def residual_change(
    residual: Float[Array, "branches batch tokens width"],
    previous: Float[Array, "branches batch tokens width"],
) -> Float[Array, "branches batch 3"]:
    """Per video: mean over tokens of ||r|| / ||r_previous||, its spread, and cosine distance.

    The ratio is MagCache's gamma (arXiv 2506.09045, equation 3); the spread is the standard
    deviation over tokens, the distance `1 - cos(r, r_previous)`, a mean over tokens.
    """
    r, p = residual.astype(jnp.float32), previous.astype(jnp.float32)
    norm, norm_before = jnp.linalg.norm(r, axis=-1), jnp.linalg.norm(p, axis=-1)
    ratio = norm / (norm_before + _EPS)
    cosine = jnp.sum(r * p, axis=-1) / (norm * norm_before + _EPS)
    return jnp.stack([ratio.mean(-1), ratio.std(-1), 1 - cosine.mean(-1)], axis=-1)
