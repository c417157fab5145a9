"""The plan of least error for a given saving, by exact dynamic programming.

The error of a skipped step is the distance between its residual and the reused one, in units
of the latter (mean over branches): sqrt(1 + r^2 - 2 r cos a) with the ratio r and the angle a
accumulated since the last computed step. Of a curve without angles that is MagCache's own
|1 - r|. It is weighted by a power of the change of sigma over the step and summed over all
skipped steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from wanjax.caching.schedule import Schedule
from wanjax.errors import UsageError

# An Euler step moves the latents by the change of sigma times the velocity, but the steps after
# an early error make more of it than those after a late one. Measured: docs/magcache.md.
SIGMA_POWER = 0.25
_SHORT = 8  # skipped steps in a row that are tried first


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
    if wanted > (most := _most(gains, forced, K)):
        raise refuse(schedule, target_speedup, skip_steps, most, limit_of(K))
    unit = int(np.gcd.reduce(gains))
    gains, wanted = gains // unit, -(-wanted // unit)
    weights = (-np.diff(schedule.sigmas)) ** SIGMA_POWER
    problem = _Problem(ratios, angles, weights, branches, gains, forced, wanted)
    # the best of short runs comes fast, and long ones that cost as much need not be looked at
    short = min(K, _SHORT)
    while _most(gains, forced, short) < wanted:
        short = min(K, 2 * short)
    found = problem.solve(short)
    if short < K:
        longer = problem.solve(K, found.error if found.gain == wanted else np.inf)
        found = min(found, longer, key=lambda each: (each.gain, each.error))
    return np.repeat(found.skipped[:, None], 2, axis=1)


def _most(gains: Int[np.ndarray, " steps"], forced: Bool[np.ndarray, " steps"], K: int) -> int:  # noqa: N803
    """What can be gained at all."""
    before = np.concatenate([[0], np.cumsum(gains)])  # each step
    best = np.zeros(len(gains), np.int64)
    first = 0  # the earliest computed step that may stand before
    for end in range(1, len(gains)):
        starts = np.arange(max(first, end - K - 1), end)
        best[end] = (best[starts] - before[starts + 1]).max() + before[end]
        first = end if forced[end] else first
    return int(best[-1])


class _Found(NamedTuple):
    error: float  # infinity where there is none
    gain: int
    skipped: Bool[np.ndarray, " steps"]


@dataclass(frozen=True, eq=False)
class _Problem:
    """A plan is a path through its computed steps; the error between two neighbours on the path
    depends on these two alone."""

    ratios: Float[np.ndarray, "steps 2"]
    angles: Float[np.ndarray, "steps 2"]
    weights: Float[np.ndarray, " steps"]
    branches: Int[np.ndarray, " steps"]
    gains: Int[np.ndarray, " steps"]
    forced: Bool[np.ndarray, " steps"]
    wanted: int

    def solve(
        self,
        K: int,  # noqa: N803
        bound: float = np.inf,
    ) -> _Found:
        """The skipped steps of least error that gain just enough, if that is below `bound`.

        Kept are the totals that can still come to what is wanted, or to one more: leaving a skip
        out of a plan loses no more than two.
        """
        n, most = len(self.ratios), self.wanted + 1
        totals, before = np.full((n, most + 1), np.inf), np.full((n, most + 1), -1)
        totals[0, 0] = 0
        gained = np.concatenate([[0], np.cumsum(self.gains)])  # at most, before each step
        for start in range(n - 1):
            low = max(0, self.wanted - int(gained[-1] - gained[start + 1]))
            high = min(most, int(gained[start]))
            if low > high or not np.isfinite(floor := totals[start, low : high + 1].min()):
                continue
            errors, gains = self._runs(start, K)
            for end, (error, gain) in enumerate(zip(errors, gains, strict=True), start + 1):
                stop = min(high, most - gain) + 1
                if floor + error >= bound or stop <= low:
                    break
                reached = totals[start, low:stop] + error
                target = slice(low + gain, stop + gain)
                better = reached < totals[end, target]
                totals[end, target][better] = reached[better]
                before[end, target][better] = start
        gain = self.wanted if np.isfinite(totals[-1, self.wanted]) else most
        return _Found(float(totals[-1, gain]), gain, self._path(before, gain))

    def _runs(self, start: int, K: int) -> tuple[list[float], list[int]]:  # noqa: N803
        """Error and gain of skipping all steps between `start` and each later one, in turn."""
        stop = min(start + K + 1, len(self.ratios) - 1)
        ahead = np.flatnonzero(self.forced[start + 1 : stop + 1])
        stop = start + 1 + int(ahead[0]) if len(ahead) else stop
        between = slice(start + 1, stop)
        ratio = np.cumprod(self.ratios[between], axis=0)
        distances = _distance(ratio, np.cumsum(self.angles[between], axis=0))
        means = np.where(self.branches[between] == 2, distances.mean(axis=1), distances[:, 0])
        errors = np.cumsum(self.weights[between] * means)
        return [0.0, *errors.tolist()], [0, *np.cumsum(self.gains[between]).tolist()]

    def _path(
        self, before: Int[np.ndarray, "steps gains"], total: int
    ) -> Bool[np.ndarray, " steps"]:
        skipped = np.ones(len(self.ratios), bool)
        step = len(self.ratios) - 1
        while step >= 0:
            skipped[step] = False
            previous = int(before[step, total])
            total -= int(self.gains[previous + 1 : step].sum())
            step = previous
        return skipped


def _distance(
    ratio: Float[np.ndarray, "steps 2"], angle: Float[np.ndarray, "steps 2"]
) -> Float[np.ndarray, "steps 2"]:
    """Between two residuals, in units of the first: their ratio and the angle between them."""
    # (1 - r)^2 + 2 r (1 - cos a): exactly |1 - r| where there is no angle
    distance: Float[np.ndarray, "steps 2"] = np.hypot(
        1 - ratio, 2 * np.sqrt(ratio) * np.sin(angle / 2)
    )
    return distance
