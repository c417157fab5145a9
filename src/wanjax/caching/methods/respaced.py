"""Respaced: the sampler takes Forecast's computed steps for its own grid.

Nothing is estimated in between: the sampler, which is itself a multistep forecast, steps straight
from one computed step to the next. The plain rival of `forecast` at the same cost; `fewer-steps`
of `wanjax compare` is the one whose steps lie evenly. See `docs/forecasting.md`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from wanjax.caching.actions import COMPUTE, PASS
from wanjax.caching.method import Chart, Conditions
from wanjax.caching.methods.forecast import Forecast
from wanjax.caching.plan import Plan, make_plan
from wanjax.caching.schedule import Schedule


@dataclass(frozen=True)
class Respaced(Forecast):
    """Forecast's settings, for the plan whose computed steps are taken. Raises as it does."""

    name: ClassVar[str] = "respaced"
    help: ClassVar[str] = "let the sampler step straight between the steps that Forecast computes"

    def plan(self, schedule: Schedule, conditions: Conditions | None = None) -> Plan:
        """See `Method.plan`."""
        made = super().plan(schedule, conditions)
        actions = [(PASS if s.skipped else COMPUTE,) * len(s.actions) for s in made.steps]
        settings = {k: v for k, v in made.settings.items() if k not in ("correct", "weights")}
        passing = make_plan(schedule, actions, self.name, settings, made.warnings)
        return replace(passing, prediction=None)

    def chart(self, plan: Plan) -> Chart | None:
        """Nothing is weighed."""
        return None
