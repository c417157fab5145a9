"""Muon for matrices and Adam for all else, with one schedule; and a step of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import loop
import optax
import optax.contrib
from flax import nnx
from jaxtyping import Array, Float, Int

# Parameters, their moving average, and the optimizer's moments.
Trained = tuple[nnx.State, nnx.State, Any]


def untrained(params: nnx.State, optimizer: optax.GradientTransformation) -> Trained:
    """Before the first step."""
    return params, jax.tree.map(jnp.copy, params), optimizer.init(params)


def descend(
    loss: Callable[[nnx.State], tuple[Array, Array]],
    optimizer: optax.GradientTransformation,
    trained: Trained,
    step: Int[Array, ""],
    total: Float[Array, ""],
) -> tuple[Trained, Array]:
    """One update by the gradient of `loss`; also returns what that reports beside."""
    params, average, moments = trained
    gradient, told = jax.grad(loss, has_aux=True)(params)
    updates, moments = optimizer.update(gradient, moments, params)
    params = optax.apply_updates(params, updates)
    return (params, loop.moving_average(average, params, step, total), moments), told


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
