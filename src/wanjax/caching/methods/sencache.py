"""SenCache: reuse the last output while the sample and the time have not moved it too far.

arXiv 2602.24208. How far the sample moves is known during the run alone, so that is when
this method decides, from one number that it reads from the device in a step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from wanjax.caching.curve import differences
from wanjax.caching.plan import (
    REUSE_OUTPUT,
    Decide,
    Plan,
    Schedule,
    Step,
    dense_plan,
)
from wanjax.caching.sensitivities import Sensitivities, SensitivitiesLike, as_sensitivities
from wanjax.errors import UsageError


@dataclass(frozen=True)
class SenCache:
    """Settings of SenCache, and the plan they lead to.

    A step reuses the last guided output while the score

        S = alpha_x * |x - x_ref| + alpha_t * |t - t_ref| / 1000

    is at most `epsilon` and fewer than `max_reuse` steps were reused in a row; x_ref and t_ref
    are sample and timestep of the last computed step, |.| a root mean square, over all videos
    of a batch together. `start` and
    `end` are the shares of the steps before and after which all compute. `sensitivities` are
    a file that `wanjax calibrate` wrote, or a pair [alpha_x, alpha_t]; they make S the change
    of the output that is expected, relative to its size.

    None reproduces maxdiffusion's settings (commit 7cfb8801): both alphas are 1, and the two
    distances, which are already distances from the reference, are summed once more over the
    steps since then. Raises `UsageError` for settings out of range.
    """

    epsilon: float = 0.1
    max_reuse: int = 3
    start: float = 0.3
    end: float = 0.9
    sensitivities: SensitivitiesLike | None = None

    # The configuration's name of each setting.
    keys: ClassVar[Mapping[str, str]] = {
        "epsilon": "sen_cache_epsilon",
        "max_reuse": "sen_cache_max_reuse",
        "start": "sen_cache_start",
        "end": "sen_cache_end",
        "sensitivities": "sen_cache_sensitivities",
    }

    def __post_init__(self) -> None:
        self._require(self.epsilon > 0, "epsilon", "above 0")
        whole = isinstance(self.max_reuse, int) and self.max_reuse >= 1
        self._require(whole, "max_reuse", "a whole number, at least 1")
        self._require(0 <= self.start <= 1, "start", "from 0 to 1")
        self._require(0 <= self.end <= 1, "end", "from 0 to 1")

    def plan(self, schedule: Schedule, conditions: Mapping[str, Any] | None = None) -> Plan:
        """A plan that leaves the steps between `start` and `end` open, to be decided on.

        `conditions` as in `MagCache.plan`. Raises `UsageError` where no step could be reused.
        """
        sensitivities: Sensitivities | None = None
        warnings: tuple[str, ...] = ()
        if self.sensitivities is not None:
            sensitivities = as_sensitivities(self.sensitivities)
            warnings = differences(sensitivities.about, conditions or {}, "sensitivities")
        n = schedule.num_steps
        first, after = int(n * self.start), int(n * self.end)
        always = {0, n - 1, *(phase.start for phase in schedule.phases)}
        open_steps = frozenset(range(first, after)) - always
        if not open_steps:
            raise UsageError(
                f"use_sen_cache: no step of {n} may be reused, as sen_cache_start={self.start:g} "
                f"and sen_cache_end={self.end:g} leave steps {first} to {after - 1}, and the "
                "first step of each expert and the last of all compute; take more steps, or set "
                "these keys"
            )
        rule = _Rule(open_steps, self.epsilon, self.max_reuse, sensitivities)
        return replace(
            dense_plan(schedule),
            method="sen_cache",
            settings=self._settings(),
            warnings=warnings,
            decisions=rule,
            decided="during the run",
        )

    def _settings(self) -> dict[str, Any]:
        """The settings as plain values."""
        given = self.sensitivities
        if isinstance(given, Sensitivities):
            given = str(given.about.get("model"))
        elif isinstance(given, Path):
            given = str(given)
        elif given is not None and not isinstance(given, str):
            given = list(given)
        return {name: getattr(self, name) for name in self.keys} | {"sensitivities": given}

    def _require(self, condition: bool, name: str, allowed: str) -> None:
        if not condition:
            raise UsageError(f"{self.keys[name]} must be {allowed}; got {getattr(self, name)!r}")


@dataclass(frozen=True)
class _Rule:
    """The decisions on the steps that a plan leaves open; see `plan.Decisions`."""

    open_steps: frozenset[int]
    epsilon: float
    max_reuse: int
    sensitivities: Sensitivities | None

    def options(self, step: Step) -> Sequence[Step]:
        return (_reused(step),) if step.index in self.open_steps else ()

    def start(self) -> Decide:
        return _Decider(self)


class _Decider:
    """Decides in one run, from the distances to the last computed step."""

    def __init__(self, rule: _Rule):
        self.rule = rule
        self.reference = 0.0  # timestep of the last computed step
        self.reused = 0  # steps since then, and the distances to it summed up
        self.summed_x = self.summed_t = 0.0

    def __call__(self, step: Step, drift: Callable[[], float]) -> Step:
        if step.index in self.rule.open_steps and self._close_enough(step, drift):
            self.reused += 1
            return _reused(step)
        self.reference, self.reused = step.timestep, 0
        self.summed_x = self.summed_t = 0.0
        return step

    def _close_enough(self, step: Step, drift: Callable[[], float]) -> bool:
        if self.reused == self.rule.max_reuse:
            return False  # without waiting for the device
        dx, dt = drift(), abs(step.timestep - self.reference) / 1000
        if self.rule.sensitivities is None:
            self.summed_x += dx
            self.summed_t += dt
            return self.summed_x + self.summed_t <= self.rule.epsilon
        alpha_x, alpha_t = self.rule.sensitivities.at(self.reference)
        return alpha_x * dx + alpha_t * dt <= self.rule.epsilon


def _reused(step: Step) -> Step:
    return replace(step, actions=(REUSE_OUTPUT,) * len(step.actions))
