"""MagCache's rules: which steps to skip, given the ratios between the steps."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from wanjax.caching.schedule import Schedule


def forced_steps(schedule: Schedule, retention_ratio: float) -> Bool[np.ndarray, " steps"]:
    """Steps that compute whatever their error: the first of each phase, and the run's last."""
    forced = np.zeros(schedule.num_steps, bool)
    forced[-1] = True
    for phase in schedule.phases:
        forced[phase.start : phase.start + max(1, int(len(phase) * retention_ratio))] = True
    return forced


def per_phase_skips(
    ratios: Float[np.ndarray, "steps 2"],
    schedule: Schedule,
    thresh: float,
    K: int,  # noqa: N803
    retention_ratio: float,
) -> Bool[np.ndarray, "steps 2"]:
    """One decision for both branches, afresh in each phase (as maxdiffusion has it).

    A phase without guidance is decided by the conditional ratios.
    """
    forced = forced_steps(schedule, retention_ratio)
    skipped = np.zeros((schedule.num_steps, 2), bool)
    for phase in schedule.phases:
        steps = slice(phase.start, phase.stop)
        branches = schedule.num_branches(phase.start)
        skipped[steps] = _walk(ratios[steps, :branches], forced[steps], thresh, K)[:, None]
    return skipped


def official_skips(
    ratios: Float[np.ndarray, "steps 2"],
    schedule: Schedule,
    thresh: float,
    K: int,  # noqa: N803
    retention_ratio: float,
    image: bool,
) -> Bool[np.ndarray, "steps 2"]:
    """A decision per branch, the accumulators running on across the boundary.

    As MagCache4Wan2.1 and MagCache4Wan2.2 of github.com/Zehong-Ma/MagCache decide, at commit
    df81cb18. May skip steps that no plan can, such as the last one.
    """
    forced = _official_forced(schedule, retention_ratio, image)
    branches = [_walk(ratios[:, b : b + 1], forced[:, b], thresh, K) for b in range(2)]
    return np.stack(branches, axis=1)


def accumulated_errors(
    ratios: Float[np.ndarray, "steps 2"],
    schedule: Schedule,
    skipped: Bool[np.ndarray, "steps 2"],
) -> Float[np.ndarray, "steps 2"]:
    """Error accumulated since the last computed step if the step is, or were, skipped.

    0 on the first step of each phase, which has nothing to reuse.
    """
    errors = np.zeros_like(ratios)
    starts = {phase.start for phase in schedule.phases}
    change, error = np.ones(2), np.zeros(2)
    for i in range(schedule.num_steps):
        if i not in starts:
            change = change * ratios[i]
            errors[i] = error = error + np.abs(1 - change)
        computed = ~skipped[i]
        change, error = np.where(computed, 1, change), np.where(computed, 0, error)
    return errors


def _walk(
    ratios: Float[np.ndarray, "steps branches"],
    forced: Bool[np.ndarray, " steps"],
    thresh: float,
    K: int,  # noqa: N803
) -> Bool[np.ndarray, " steps"]:
    """Skip while the error of every branch stays below `thresh`, at most K steps in a row.

    The error is the sum of |1 - accumulated ratio| since the last computed step. Forced
    steps compute and leave the accumulators as they are.
    """
    skipped = np.zeros(len(ratios), bool)
    change, error, in_a_row = 1.0, 0.0, 0
    for i in np.flatnonzero(~forced):
        change = change * ratios[i]
        error = error + np.abs(1 - change)
        skipped[i] = (error < thresh).all() and in_a_row < K
        if skipped[i]:
            in_a_row += 1
        else:
            change, error, in_a_row = 1.0, 0.0, 0
    return skipped


def _official_forced(
    schedule: Schedule, retention_ratio: float, image: bool
) -> Bool[np.ndarray, "steps 2"]:
    """Retention of the official code, which counts forward passes, two a step."""
    count = np.arange(2 * schedule.num_steps)
    total, split = 2 * schedule.num_steps, 2 * (schedule.boundary_step or 0)
    if schedule.boundary_step is None:
        forced = count < int(total * retention_ratio)
    elif image:  # the high-noise expert is never cached
        forced = count < int(split + (total - split) * retention_ratio)
    else:
        low = (count >= split) & (count <= split + (total - split) * retention_ratio)
        forced = (count < int(split * retention_ratio)) | low
    return forced.reshape(-1, 2)
