"""SenCache: reuse the last output while the sample and the time have not moved it too far.

arXiv 2602.24208. How far the sample moves is known during the run alone, so that is when
this method decides, from one number that it reads from the device in a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from wanjax.caching.actions import REUSE_OUTPUT, Keeps
from wanjax.caching.curve import differences
from wanjax.caching.method import Calibration, Conditions, Method
from wanjax.caching.plan import Plan, Step, dense_plan
from wanjax.caching.schedule import Schedule
from wanjax.caching.sensitivities import (
    Sensitivities,
    SensitivitiesLike,
    as_sensitivities,
    average_sensitivities,
)
from wanjax.errors import UsageError
from wanjax.settings import setting


@dataclass(frozen=True)
class SenCache(Method):
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

    name: ClassVar[str] = "sen_cache"
    help: ClassVar[str] = "reuse outputs by SenCache, which decides during the run"
    calibration: ClassVar[Calibration] = Calibration(
        "output", "sen_cache_sensitivities", np.stack, average_sensitivities
    )

    epsilon: float = setting(
        0.1, "expected change up to which an output is reused", key="sen_cache_epsilon", above=0
    )
    max_reuse: int = setting(3, "most steps reused in a row", key="sen_cache_max_reuse", low=1)
    start: float = setting(
        0.3, "share of the first steps that always compute", key="sen_cache_start", low=0, high=1
    )
    end: float = setting(
        0.9, "share of the steps after which all compute", key="sen_cache_end", low=0, high=1
    )
    sensitivities: SensitivitiesLike | None = setting(
        None,
        "file of `wanjax calibrate`, or alpha_x,alpha_t; null: 1 each",
        key="sen_cache_sensitivities",
        kinds=(tuple[float, ...], str, type(None)),
    )

    def plan(self, schedule: Schedule, conditions: Conditions | None = None) -> Plan:
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
            method=self.name,
            settings=self._settings(),
            warnings=warnings,
            decisions=rule,
            decided="during the run",
        )

    def _settings(self) -> dict[str, Any]:
        """The settings as plain values."""
        given = self.sensitivities
        about = given.about.get("model") if isinstance(given, Sensitivities) else None
        return self.described() | ({"sensitivities": about} if about else {})


def distance_to_last_computed(sight: Any) -> Any:
    """Root mean square distance of the sample to that of the last computed step."""
    return ((sight.sample - sight.samples[0]) ** 2).mean() ** 0.5


@dataclass(frozen=True)
class _State:
    """The last computed step's timestep, the steps reused since, and their distances to it."""

    reference: float = 0.0
    reused: int = 0
    summed_x: float = 0.0
    summed_t: float = 0.0


@dataclass(frozen=True)
class _Rule:
    """The decisions on the steps that a plan leaves open; see `plan.Decisions`."""

    open_steps: frozenset[int]
    epsilon: float
    max_reuse: int
    sensitivities: Sensitivities | None

    keeps: ClassVar[Keeps] = Keeps(samples=1)
    probe = staticmethod(distance_to_last_computed)

    def options(self, step: Step) -> Sequence[Step]:
        return (step.instead(REUSE_OUTPUT),) if step.index in self.open_steps else ()

    def start(self) -> _State:
        return _State()

    def decide(self, state: _State, step: Step, read: Callable[[], Any]) -> tuple[Step, _State]:
        # at the most reused in a row: without waiting for the device
        if step.index in self.open_steps and state.reused < self.max_reuse:
            dx, dt = float(read()), abs(step.timestep - state.reference) / 1000
            x, t = state.summed_x + dx, state.summed_t + dt
            if self._score(state.reference, (dx, dt), (x, t)) <= self.epsilon:
                return step.instead(REUSE_OUTPUT), replace(
                    state, reused=state.reused + 1, summed_x=x, summed_t=t
                )
        return step, _State(reference=step.timestep)

    def _score(
        self, reference: float, now: tuple[float, float], summed: tuple[float, float]
    ) -> float:
        if self.sensitivities is None:
            return sum(summed)
        alpha_x, alpha_t = self.sensitivities.at(reference)
        return alpha_x * now[0] + alpha_t * now[1]
