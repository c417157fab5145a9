"""Muon for matrices and Adam for all else, with one schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import loop
import optax
import optax.contrib
from jaxtyping import Array, Float


def muon(
    lr: float,
    adam_lr: float,
    total: Float[Array, ""],
    matrices: Callable[[Any], Any],
    *,
    warm_up: int,
) -> optax.GradientTransformation:
    """Over `total` steps, of which `warm_up` rise; `lr` and `adam_lr` are the peak rates.

    `matrices` gives Muon's dimensions of every parameter, None for those of Adam.
    """

    def schedule(peak: float) -> optax.Schedule:
        return lambda step: peak * loop.cosine(step, total, warm_up, floor=0.02)

    by_muon = optax.contrib.muon(
        schedule(lr),
        consistent_rms=0.2,
        adam_b2=0.99,
        adam_learning_rate=schedule(adam_lr),
        muon_weight_dimension_numbers=matrices,
    )
    return optax.chain(optax.clip_by_global_norm(1.0), by_muon)
