"""The plan of least error for a given saving, by exact dynamic programming.

The error of a skipped step is the distance between its residual and the reused one, in units
of the latter (mean over branches): sqrt(1 + r^2 - 2 r cos a) with the ratio r and the angle a
accumulated since the last computed step. Of a curve without angles that is MagCache's own
|1 - r|. It is weighted by a power of the change of sigma over the step and summed over all
skipped steps.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float, Int

from wanjax.caching.schedule import Schedule
from wanjax.errors import UsageError

# An Euler step moves the latents by the change of sigma times the velocity, but the steps after
# an early error make more of it than those after a late one. Measured: docs/magcache.md.
SIGMA_POWER = 0.25


def asked(
    schedule: Schedule, target_speedup: float | None, skip_steps: int | None
) -> tuple[Int[np.ndarray, " steps"], int]:
    """What skipping each step gains, in evaluations or steps, and how much is asked for."""
    branches = np.array([schedule.num_branches(i) for i in range(schedule.num_steps)])
    if target_speedup is None:
        return np.ones_like(branches), skip_steps or 0
    # rounded up, so that it is never less than asked for
    return branches, math.ceil(int(branches.sum()) * (1 - 1 / target_speedup) - 1e-9)


def refuse(
    schedule: Schedule, target_speedup: float | None, skip_steps: int | None, most: int, limit: str
) -> UsageError:
    """The error where at most `most` can be gained, `limit` says why."""
    if target_speedup is None:
        return UsageError(f"skip_steps={skip_steps}: at most {most}{limit}")
    dense = sum(map(schedule.num_branches, range(schedule.num_steps)))
    best = dense / (dense - most)
    return UsageError(f"target_speedup={target_speedup:g}: at most {best:.2f}{limit}")


def limit_of(K: int) -> str:  # noqa: N803
    return f" with magcache_K={K}; raise magcache_K, lower retention_ratio, or ask for less"


def cheapest_skips(
    ratios: Float[np.ndarray, "steps 2"],
    angles: Float[np.ndarray, "steps 2"],
    schedule: Schedule,
    forced: Bool[np.ndarray, " steps"],
    K: int,  # noqa: N803
    target_speedup: float | None = None,
    skip_steps: int | None = None,
) -> Bool[np.ndarray, "steps 2"]:
    """Skips of least total error: `skip_steps` of them, or just enough for `target_speedup`.

    At most `K` steps in a row are skipped, and none of `forced`, which must hold the first
    and the last step. Raises `UsageError` naming the most that is possible.
    """
    branches = np.array([schedule.num_branches(i) for i in range(schedule.num_steps)])
    gains, wanted = asked(schedule, target_speedup, skip_steps)
    weights = (-np.diff(schedule.sigmas)) ** SIGMA_POWER
    totals, before = _best_paths(ratios, angles, weights, branches, gains, forced, K)
    reachable = np.flatnonzero(np.isfinite(totals[-1]))
    most = int(reachable[-1])
    if wanted > most:
        raise refuse(schedule, target_speedup, skip_steps, most, limit_of(K))
    wanted = int(reachable[reachable >= wanted][0])
    skipped = np.ones(len(ratios), bool)
    step = len(ratios) - 1
    while step >= 0:
        skipped[step] = False
        previous = before[step, wanted]
        wanted -= int(gains[previous + 1 : step].sum())
        step = previous
    return np.repeat(skipped[:, None], 2, axis=1)


def _best_paths(
    ratios: Float[np.ndarray, "steps 2"],
    angles: Float[np.ndarray, "steps 2"],
    weights: Float[np.ndarray, " steps"],
    branches: Int[np.ndarray, " steps"],
    gains: Int[np.ndarray, " steps"],
    forced: Bool[np.ndarray, " steps"],
    K: int,  # noqa: N803
) -> tuple[Float[np.ndarray, "steps gains"], Int[np.ndarray, "steps gains"]]:
    """Least error up to each computed step for each total gain, and the computed step before it.

    A plan is a path through its computed steps; the error between two neighbours on the path
    depends on these two alone. -1 stands before step 0.
    """
    n = len(ratios)
    totals = np.full((n, int(gains.sum()) + 1), np.inf)
    before = np.full(totals.shape, -1)
    totals[0, 0] = 0
    for start in range(n):
        ratio, angle, error, gain = np.ones(2), np.zeros(2), 0.0, 0
        for end in range(start + 1, min(start + K + 1, n - 1) + 1):
            reached = np.full(totals.shape[1], np.inf)
            reached[gain:] = totals[start, : totals.shape[1] - gain] + error
            better = reached < totals[end]
            totals[end, better], before[end, better] = reached[better], start
            if forced[end]:
                break
            ratio, angle = ratio * ratios[end], angle + angles[end]
            error += float(weights[end] * _distance(ratio, angle)[: branches[end]].mean())
            gain += int(gains[end])
    return totals, before


def _distance(
    ratio: Float[np.ndarray, "2"], angle: Float[np.ndarray, "2"]
) -> Float[np.ndarray, "2"]:
    """Between two residuals, in units of the first: their ratio and the angle between them."""
    # (1 - r)^2 + 2 r (1 - cos a): exactly |1 - r| where there is no angle
    distance: Float[np.ndarray, "2"] = np.hypot(1 - ratio, 2 * np.sqrt(ratio) * np.sin(angle / 2))
    return distance
