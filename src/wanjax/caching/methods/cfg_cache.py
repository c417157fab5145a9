"""CFG cache: on some steps the conditional branch alone runs, the other is predicted from it.

FasterCache's part for classifier-free guidance (arXiv 2410.19355, section 3.3): the low and
high frequencies of the difference between the two outputs change little over some steps, so
that of the last computed step stands in for it. See `sampling.predict` for the formula.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from wanjax.caching.plan import COMPUTE, PREDICT, Plan, Schedule, make_plan
from wanjax.errors import UsageError


@dataclass(frozen=True)
class CFGCache:
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

    interval: int = 5
    start: int | None = None
    end: int | None = None
    weight: float = 1.2

    # The configuration's name of each setting.
    keys: ClassVar[Mapping[str, str]] = {
        "interval": "cfg_cache_interval",
        "start": "cfg_cache_start",
        "end": "cfg_cache_end",
        "weight": "cfg_cache_weight",
    }

    def __post_init__(self) -> None:
        for name, low in (("interval", 2), ("start", 0), ("end", 0)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < low):
                raise UsageError(
                    f"{self.keys[name]} must be a whole number, at least {low}; got {value!r}"
                )
        if self.weight < 0:
            raise UsageError(f"cfg_cache_weight must be at least 0; got {self.weight!r}")

    def plan(self, schedule: Schedule, conditions: Mapping[str, Any] | None = None) -> Plan:
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
        actions = [
            (COMPUTE, PREDICT) if i in predicted else (COMPUTE,) * schedule.num_branches(i)
            for i in range(schedule.num_steps)
        ]
        low_until = schedule.num_steps // 2
        if schedule.boundary_step is not None:
            low_until = schedule.boundary_step
        weights = [
            ((self.weight, 1.0) if i < low_until else (1.0, self.weight)) if i in predicted
            else (0.0, 0.0)
            for i in range(schedule.num_steps)
        ]  # fmt: skip
        settings = {"interval": self.interval, "start": start, "end": end, "weight": self.weight}
        return make_plan(schedule, actions, "cfg_cache", settings, weights=weights)

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
