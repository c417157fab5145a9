"""EasyCache: skip while the output is expected to have changed little since it was computed.

arXiv 2507.02860. How much the output answers to the sample is taken from the last two computed
steps, so that nothing has to be calibrated; how far the sample moves is known during the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from wanjax.caching.actions import REUSE_OFFSET, Keeps
from wanjax.caching.method import Conditions, Method
from wanjax.caching.plan import Plan, Step, dense_plan
from wanjax.caching.schedule import Schedule
from wanjax.errors import UsageError
from wanjax.settings import setting


@dataclass(frozen=True)
class EasyCache(Method):
    """Settings of EasyCache, and the plan they lead to.

    A step adds to the accumulated error

        k * |x - x_before| / |v|,   k = |v - v'| / |x_v - x_v'|

    where |.| is a mean of absolute values, v and v' are the conditional outputs of the last two
    computed steps, at the samples x_v and x_v', and x_before is the sample of the step before.
    While the error stays below `thresh` the step is skipped: its output is the sample plus what
    the last computed output had over its sample. The first `start` steps, the first two of each
    expert, which tell k, and the run's last compute.

    None stands for the authors' values: with one expert thresh 0.05 and start 10, with two
    0.06 and 7 (EasyCache4Wan2.1 at commit 51278044 and the authors' file for Wan 2.2). Each
    expert has an error and a k of its own. All videos of a batch are decided on together.
    """

    name: ClassVar[str] = "easycache"
    help: ClassVar[str] = "skip steps by EasyCache, which decides during the run"

    thresh: float | None = setting(
        None,
        "accumulated change of the output up to which steps are skipped; null: 0.05 with one "
        "expert, 0.06 with two",
        key="easycache_thresh",
        above=0,
    )
    start: int | None = setting(
        None,
        "first steps that always compute; null: 10 with one expert, 7 with two",
        key="easycache_start",
        low=0,
    )

    def plan(self, schedule: Schedule, conditions: Conditions | None = None) -> Plan:
        """A plan that leaves open what may be skipped. Raises `UsageError` where nothing may."""
        two = schedule.num_experts == 2
        thresh = self.thresh if self.thresh is not None else 0.06 if two else 0.05
        start = self.start if self.start is not None else 7 if two else 10
        always = {*range(start), schedule.num_steps - 1}
        always |= {i for phase in schedule.phases for i in phase[:2]}
        open_steps = frozenset(range(schedule.num_steps)) - always
        if not open_steps:
            raise UsageError(
                f"use_easycache: no step of {schedule.num_steps} may be skipped, as the first "
                f"{start} compute (easycache_start), the first two of each expert and the last; "
                "take more steps, or lower easycache_start"
            )
        return replace(
            dense_plan(schedule),
            method=self.name,
            settings={"thresh": thresh, "start": start},
            decisions=_Rule(open_steps, thresh),
            decided="during the run",
        )


def changes(sight: Any) -> Any:
    """How far the sample moved in the last step, relative to what the output then makes of it.

    `moved` is |x - x_before| / |v|; the last two computed steps give k as `output` / `sample`.
    """
    output, output_before = sight.branches[0][0], sight.branches[1][0]  # conditional
    return {
        "moved": abs(sight.sample - sight.previous).mean() / abs(output).mean(),
        "output": abs(output - output_before).mean(),
        "sample": abs(sight.samples[0] - sight.samples[1]).mean(),
    }


@dataclass(frozen=True)
class _Rule:
    """The decisions on the steps that a plan leaves open; the state is the accumulated error."""

    open_steps: frozenset[int]
    thresh: float

    keeps: ClassVar[Keeps] = Keeps(outputs=1, samples=2, branches=2, previous=1)
    probe = staticmethod(changes)

    def options(self, step: Step) -> Sequence[Step]:
        return (step.instead(REUSE_OFFSET),) if step.index in self.open_steps else ()

    def start(self) -> float:
        return 0.0

    def decide(self, state: float, step: Step, read: Callable[[], Any]) -> tuple[Step, float]:
        if step.index not in self.open_steps:
            return step, 0.0
        seen = read()
        error = state + float(seen["moved"] * seen["output"] / seen["sample"])
        return (step.instead(REUSE_OFFSET), error) if error < self.thresh else (step, 0.0)
