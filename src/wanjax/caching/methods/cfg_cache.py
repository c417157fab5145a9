"""CFG cache: on some steps the conditional branch alone runs, the other is predicted from it.

FasterCache's part for classifier-free guidance (arXiv 2410.19355, section 3.3): the low and
high frequencies of the difference between the two outputs change little over some steps, so
that of the last computed step stands in for it. See `sampling.predict` for the formula.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from wanjax.caching.actions import COMPUTE, Action, predict
from wanjax.caching.method import Conditions, Method
from wanjax.caching.plan import Plan, make_plan
from wanjax.caching.schedule import Schedule
from wanjax.errors import UsageError
from wanjax.settings import setting


@dataclass(frozen=True)
class CFGCache(Method):
    """Settings of the CFG cache, and the plan they lead to.

    From step `start` on, every `interval`-th step computes both branches and the steps
    between them predict the unconditional one, up to but without step `end`. `weight` scales
    the frequencies that matter most: the low ones in the run's first half, the high ones in
    its second; the others have weight 1. With two experts the low-noise one alone is cached,
    which counts as the second half. None and the defaults stand for the values that
    maxdiffusion has (commit 7cfb8801): start after a third of the steps; end after nine
    tenths from a height of 720 on, else with the last step (one expert: the last two).
    Raises `UsageError` for settings out of range.
    """

    name: ClassVar[str] = "cfg_cache"
    help: ClassVar[str] = "predict the unconditional branch in some steps (FasterCache)"

    interval: int = setting(
        5, "steps from one that computes both branches to the next", key="cfg_cache_interval", low=2
    )
    start: int | None = setting(
        None,
        "first step that may be predicted; null: a third of the steps",
        key="cfg_cache_start",
        low=0,
    )
    end: int | None = setting(
        None,
        "first step that no longer may; null: nine tenths from height 720 on, else near the last",
        key="cfg_cache_end",
        low=0,
    )
    weight: float = setting(
        1.2,
        "of the low (first half) or high (second half) frequencies of what is added",
        key="cfg_cache_weight",
        low=0,
    )

    def plan(self, schedule: Schedule, conditions: Conditions | None = None) -> Plan:
        """The plan for `schedule`; of `conditions` it goes by the `height` in pixels.

        Raises `UsageError` with the reason where no step can be predicted.
        """
        phase = schedule.phases[-1]
        if schedule.num_branches(phase.start) == 1 or schedule.boundary_step == schedule.num_steps:
            raise UsageError(_nothing_to_predict(schedule))
        start, end = self._range(schedule, (conditions or {}).get("height", 0))
        # the first step of the phase computes, and so does the run's last
        candidates = range(max(phase.start + 1, start), min(end, schedule.num_steps - 1))
        predicted = {i for i in candidates if (i - start) % self.interval}
        if not predicted:
            raise UsageError(
                f"use_cfg_cache: no step of {schedule.num_steps} is left to predict, as "
                f"cfg_cache_start is {start}, cfg_cache_end {end}, every {self.interval}th step "
                f"between them computes, and so do step {phase.start} and the last; take more "
                "steps, or set these keys"
            )
        low_until = schedule.num_steps // 2
        if schedule.boundary_step is not None:
            low_until = schedule.boundary_step
        actions = [
            (COMPUTE, self._prediction(i < low_until)) if i in predicted
            else (COMPUTE,) * schedule.num_branches(i)
            for i in range(schedule.num_steps)
        ]  # fmt: skip
        settings = self.described() | {"start": start, "end": end}
        return make_plan(schedule, actions, self.name, settings)

    def _prediction(self, first_half: bool) -> Action:
        return predict(self.weight, 1.0) if first_half else predict(1.0, self.weight)

    def _range(self, schedule: Schedule, height: int) -> tuple[int, int]:
        """The first step that may be predicted, and the first that no longer may."""
        n = schedule.num_steps
        before_last = 2 if schedule.boundary_step is None else 1
        end = int(0.9 * n) if height >= 720 else n - before_last
        return (
            int(n / 3) if self.start is None else self.start,
            end if self.end is None else self.end,
        )


def _nothing_to_predict(schedule: Schedule) -> str:
    if schedule.boundary_step == schedule.num_steps:
        return (
            "use_cfg_cache: it acts on the low-noise expert, which has no step in this run; "
            "lower flow_shift, raise boundary_ratio or take more steps"
        )
    key = "guidance_scale" if schedule.boundary_step is None else "guidance_scale_low"
    return (
        f"use_cfg_cache: with {key}={schedule.guidance_scales[-1]:g} guidance is off and there is "
        f"no unconditional output to predict; set {key} above 1"
    )
