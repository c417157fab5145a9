"""Weights that estimate a skipped step's output from computed ones, and what a correction moves.

Between computed steps the guided output v is smooth along the steps, so that a skipped one is

    v_i ~ sum_k w_k v_(j_k),   sum_k w_k = 1

over the last computed steps j_k (a forecast) or over one computed step on either side (an
interpolation, known once the next computed step is there). The weights are Lagrange's in the step
index, or those that make the expected error least, which follows from the inner products
G[i, j] = <v_i, v_j> of dense runs: the error of weights w is a^T G a with a = (1, -w).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from wanjax.caching.actions import COMPUTE, Action
from wanjax.caching.schedule import Schedule

Gram = Float[np.ndarray, "steps steps"]
# Pulls fitted weights to Lagrange's, relative to the mean square of the outputs: a matrix of few
# runs is noisy. 1e-3 and 1e-5 gave the same closeness.
RIDGE = 1e-3
# How much of a correction of the sample the output of that step follows: 0 as if the output
# stayed, 1 as if the denoised sample did. Measured per step on the bundled models it lies on both
# sides of 1; taking the measured ones was no closer than 1/2 (docs/forecasting.md).
RESPONSE = 0.5


Weights = Float[np.ndarray, "nodes *steps"]


def lagrange(nodes: Sequence[int], i: Any) -> Weights:
    """Weights of the polynomial through `nodes`, at step `i` (or at several)."""
    x, at = np.asarray(nodes, np.float64), np.asarray(i, np.float64)
    weights = np.ones((len(x), *at.shape))
    for a in range(len(x)):
        for b in range(len(x)):
            if a != b:
                weights[a] *= (at - x[b]) / (x[a] - x[b])
    return weights


def fitted(gram: Gram, nodes: Sequence[int], i: Any) -> Weights:
    """Weights with sum one of least expected error, pulled to Lagrange's a little."""
    usual = lagrange(nodes, i)
    if len(usual) == 1:
        return usual
    chosen = list(nodes)
    inner = gram[np.ix_(chosen, chosen)]
    ridge = RIDGE * np.trace(inner) / len(inner)
    # with sum one: the last weight is what the others leave
    free = gram[:, chosen[:-1]] - gram[:, chosen[-1:]]
    differences = free[chosen[:-1]] - free[chosen[-1]]
    pull = ridge * (np.eye(len(differences)) + 1)
    slope = free[i].T - free[chosen].T @ usual
    moved = np.linalg.solve(differences + pull, slope)
    weights: Weights = usual + np.concatenate([moved, -moved.sum(axis=0, keepdims=True)])
    return weights


def weights_at(gram: Gram | None, nodes: Sequence[int], i: Any) -> Weights:
    """Fitted weights where there is a matrix, else Lagrange's."""
    return lagrange(nodes, i) if gram is None else fitted(gram, nodes, i)


@dataclass(frozen=True)
class Estimates:
    """What each step does: its actions, and the corrections of computed steps by index."""

    actions: Sequence[Sequence[Action]]
    corrections: Mapping[int, tuple[tuple[float, ...], ...]] = field(default_factory=dict)


def forecasts(
    schedule: Schedule,
    computed: Sequence[bool],
    order: int,
    correct: bool,
    gram: Gram | None = None,
    response: float = RESPONSE,
) -> Estimates:
    """Forecast the steps that are not `computed` by polynomials of `order` at most.

    The history is of one expert's making: at the start of a phase, which must compute, it is
    shorter. With `correct` the step that computes after a run of skipped ones makes their
    forecasts good (see `correction`).
    """
    actions: list[tuple[Action, ...]] = []
    corrections: dict[int, tuple[tuple[float, ...], ...]] = {}
    for phase in schedule.phases:
        history: list[int] = []  # computed steps, newest first
        run: dict[int, Weights] = {}  # forecast weights since then
        for i in phase:
            if computed[i]:
                if run and correct:
                    corrections[i] = correction(schedule, i, history, run, gram, response)
                history, run = [i, *history[:order]], {}
                action = COMPUTE
            else:
                run[i] = weights_at(gram, history, i)
                action = Action("forecast", "output", tuple(map(float, run[i])))
            actions.append((action,) * schedule.num_branches(i))
    return Estimates(actions, corrections)


def correction(
    schedule: Schedule,
    k: int,
    history: Sequence[int],
    run: Mapping[int, Weights],
    gram: Gram | None,
    response: float,
) -> tuple[tuple[float, ...], ...]:
    """What to add to the sampler's state and to the output of step `k`, which follows a run.

    A row for each of (x, x', m', m'', v), with weights over the output of step k and those of
    `history`. The run's outputs, forecast with the weights `run`, are bracketed now: they are
    interpolated between the computed step before the run and k. The sampler is linear in the
    outputs, so the state moves by what each of them passes on, times its change. The output v of
    step k was computed at a sample that moves by dx only now; v itself follows by
    `response` dx / sigma, which is what leaves x - sigma v in place where `response` is 1.
    """
    rows = np.zeros((4, 1 + len(history)))
    for i, forecast in run.items():
        after, before = weights_at(gram, (k, history[0]), i)
        change = np.concatenate([[after], -forecast])
        change[1] += before
        rows += np.outer(passed_on(schedule, i, k), change)
    # v + share dx, where dx is itself linear in the output that results
    share = response / schedule.sigmas[k]
    followed = np.concatenate([[1.0], share * rows[0, 1:]]) / (1 - share * rows[0, 0])
    rows = np.outer(rows[:, 0], followed) + np.pad(rows[:, 1:], ((0, 0), (1, 0)))
    followed[0] -= 1.0
    return tuple(tuple(map(float, row)) for row in (*rows, followed))


def passed_on(schedule: Schedule, i: int, k: int) -> Float[np.ndarray, "4"]:
    """How (x, x', m', m'') before step `k` change with the output of step i < k.

    All outputs in between are held; see `schedulers.SamplerTable` for the sampler's step.
    """
    state: Float[np.ndarray, "4"] = schedule.maps[i, :, 4]
    for step in range(i + 1, k):
        state = schedule.maps[step, :, :4] @ state
    return state
