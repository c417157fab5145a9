"""MagCache: skip a step while the accumulated change in residual magnitude stays small.

arXiv 2506.09045. Which steps are skipped follows from the curve and the settings alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Bool

from wanjax.caching.actions import COMPUTE, REUSE
from wanjax.caching.curve import (
    Curve,
    CurveLike,
    as_curve,
    average_changes,
    both_branches,
    differences,
)
from wanjax.caching.estimates import forecasts
from wanjax.caching.method import Calibration, Chart, Conditions, Method, excluded
from wanjax.caching.methods.budget import asked, cheapest_skips, limit_of, refuse
from wanjax.caching.methods.forecast_planner import Planner
from wanjax.caching.methods.magcache_rules import (
    accumulated_errors,
    forced_steps,
    official_skips,
    per_phase_skips,
)
from wanjax.caching.plan import Plan, make_plan
from wanjax.caching.resample import (
    Resample,
    angles_for,
    carried_inner_products,
    carried_moves,
    check_fit,
    ratios_for,
)
from wanjax.caching.schedule import Schedule
from wanjax.errors import CurveError, UsageError
from wanjax.settings import setting

Rule = Literal["per_phase", "official"]
Estimate = Literal["repeat", "linear", "quadratic"]
_ORDERS: dict[Estimate, Literal[1, 2]] = {"linear": 1, "quadratic": 2}


@dataclass(frozen=True)
class MagCache(Method):
    """Settings of MagCache, and the plan they lead to.

    `thresh` bounds the accumulated error since the last computed step, `K` the steps skipped
    in a row; the first `retention_ratio` of each expert's steps compute. `mag_ratios_base` is
    the curve: a `Curve`, its file, the name of a shipped one, or a list of ratios.
    `rule`: `per_phase` decides for both guidance branches together and afresh for each
    expert; `official` decides per branch, as the authors' repository does.
    `target_speedup` or `skip_steps` (one of them) replace threshold and rule by the plan of
    least total error that saves as much; `K` and `retention_ratio` hold as before.
    `estimate` is what a skipped step does: `repeat` the residual, as the reference does, or
    forecast the guided output from the last computed ones, by a line or a parabola, and correct
    that once the next step has computed.
    Raises `UsageError` for settings out of range.
    """

    name: ClassVar[str] = "magcache"
    help: ClassVar[str] = "skip steps by MagCache"
    calibration: ClassVar[Calibration] = Calibration(
        "residual", "mag_ratios_base", both_branches, average_changes
    )

    thresh: float = setting(
        0.04, "accumulated error up to which steps are skipped", key="magcache_thresh", low=0
    )
    K: int = setting(2, "most steps skipped in a row", key="magcache_K", low=0)
    retention_ratio: float = setting(
        0.2,
        "share of each expert's first steps that always compute",
        key="retention_ratio",
        low=0,
        high=1,
    )
    mag_ratios_base: CurveLike | None = setting(
        None,
        "the curve: a file, the name of a shipped one, or a list cond,uncond,cond,...",
        key="mag_ratios_base",
        kinds=(tuple[float, ...], str, type(None)),
        path=True,
    )
    resample: Resample = setting(
        "noise_level", "how a curve is carried to other steps or shifts", key="magcache_resample"
    )
    rule: Rule = setting(
        "per_phase",
        "both branches together and per expert, or as the authors' code",
        key="magcache_rule",
    )
    estimate: Estimate = setting(
        "repeat",
        "repeat the residual, or forecast the output by a line or a parabola",
        key="magcache_estimate",
    )
    target_speedup: float | None = setting(
        None,
        "instead of the threshold: least error at this ideal speedup",
        key="target_speedup",
        low=1,
    )
    skip_steps: int | None = setting(
        None,
        "instead of the threshold: least error with so many skipped steps",
        key="skip_steps",
        low=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        excluded(target_speedup=self.target_speedup, skip_steps=self.skip_steps)

    @property
    def has_budget(self) -> bool:
        return self.target_speedup is not None or self.skip_steps is not None

    def curve(self, model: str | None = None) -> Curve:
        """The curve of `mag_ratios_base`. Raises `CurveError` where there is none."""
        if self.mag_ratios_base is None:
            named = "MODEL" if model is None else model
            argument = f"model={named}" if "/" in named else named
            raise CurveError(
                f"use_magcache: {named} has no magnitude curve; measure one with "
                f"`wanjax calibrate {argument}` and name the file in mag_ratios_base"
            )
        return as_curve(self.mag_ratios_base)

    def plan(self, schedule: Schedule, conditions: Conditions | None = None) -> Plan:
        """See `Method.plan`. Raises `CurveError` where the curve does not fit the schedule."""
        conditions = conditions or {}
        curve = self.curve(conditions.get("model"))
        warnings = check_fit(curve, schedule, self.resample) + differences(vars(curve), conditions)
        planner = self._planner(curve, schedule)
        skipped = self._skips(curve, schedule, planner, bool(conditions.get("image")))
        refused = skipped & forced_steps(schedule, 0)[:, None]
        if refused.any():
            steps = ", ".join(map(str, np.flatnonzero(refused.any(axis=1))))
            warnings += (f"rule {self.rule} would skip step {steps}, which every plan computes",)
        skipped = skipped & ~refused
        settings = self._settings(curve)
        if self._order is not None:
            return self._forecast(curve, schedule, planner, skipped, settings, warnings)
        actions = [
            tuple(REUSE if skip else COMPUTE for skip in skipped[i, : schedule.num_branches(i)])
            for i in range(schedule.num_steps)
        ]
        return make_plan(schedule, actions, "magcache", settings, warnings)

    @property
    def _order(self) -> Literal[1, 2] | None:
        """Of the forecast; None where the residual is repeated."""
        return _ORDERS.get(self.estimate)

    def _forecast(
        self,
        curve: Curve,
        schedule: Schedule,
        planner: Planner | None,
        skipped: Bool[np.ndarray, "steps 2"],
        settings: dict[str, Any],
        warnings: tuple[str, ...],
    ) -> Plan:
        """The plan that forecasts the steps which both branches skip, corrected after each run."""
        order, computed = self._order, ~skipped[:, 0]
        assert order is not None
        two = [schedule.num_branches(i) == 2 for i in range(schedule.num_steps)]
        apart = np.flatnonzero((skipped[:, 0] != skipped[:, 1]) & two)
        if len(apart):
            steps = ", ".join(map(str, apart))
            raise UsageError(
                f"magcache_estimate={self.estimate}: rule official skips one branch alone in step "
                f"{steps}, and a forecast is of both; take magcache_estimate=repeat, or "
                "magcache_rule=per_phase"
            )
        # a curve's plan has no matrix to fit to: its weights are Lagrange's wherever it is used
        gram = planner.gram if planner is not None and self.has_budget else None
        made = forecasts(schedule, computed.tolist(), order, correct=True, gram=gram)
        prediction = None if planner is None else curve.prediction(planner.cost(computed.tolist()))
        return make_plan(
            schedule, made.actions, "magcache", settings, warnings, made.corrections, prediction
        )

    def _planner(self, curve: Curve, schedule: Schedule) -> Planner | None:
        """Forecast's, within this method's limits, where outputs are forecast and known."""
        known = curve.inner_products is not None and self.resample == "noise_level"
        if not known or self._order is None:
            return None
        gains, _ = asked(schedule, self.target_speedup, self.skip_steps)
        return Planner(
            carried_inner_products(curve, schedule),
            carried_moves(curve, schedule),
            schedule.phases,
            gains,
            forced_steps(schedule, self.retention_ratio),
            self._order,
            fit=self.has_budget,
            longest=self.K,
        )

    def _skips(
        self, curve: Curve, schedule: Schedule, planner: Planner | None, image: bool
    ) -> Bool[np.ndarray, "steps 2"]:
        ratios = ratios_for(curve, schedule, self.resample)
        if self.has_budget:
            budget = (self.target_speedup, self.skip_steps)
            if planner is not None:
                _, least = asked(schedule, *budget)
                if least > planner.most:
                    raise refuse(schedule, *budget, planner.most, limit_of(self.K))
                return np.repeat(~planner.least(least).computed[:, None], 2, axis=1)
            forced = forced_steps(schedule, self.retention_ratio)
            angles = angles_for(curve, schedule, self.resample)
            return cheapest_skips(ratios, angles, schedule, forced, self.K, *budget)
        settings = (schedule, self.thresh, self.K, self.retention_ratio)
        if self.rule == "official":
            return official_skips(ratios, *settings, image)
        return per_phase_skips(ratios, *settings)

    def chart(self, plan: Plan) -> Chart:
        """The curve, and the error accumulated at each step since the last computed one."""
        ratios = ratios_for(self.curve(), plan.schedule, self.resample)
        computes = [[a.computes for a in (s.actions[0], s.actions[-1])] for s in plan.steps]
        errors = accumulated_errors(ratios, plan.schedule, ~np.array(computes))
        # the first step of a phase has no ratio to a step of its own expert
        ratios = ratios.copy()
        ratios[[phase.start for phase in plan.schedule.phases]] = np.nan
        return Chart(
            label="magnitude ratio",
            lines={"conditional": ratios[:, 0], "unconditional": ratios[:, 1]},
            errors=errors.max(axis=1),
            threshold=None if self.has_budget else self.thresh,
        )

    def _settings(self, curve: Curve) -> dict[str, Any]:
        """The settings that acted, as plain values."""
        used = ["estimate", "K", "retention_ratio", "resample"]
        if self.has_budget:
            used.append("skip_steps" if self.target_speedup is None else "target_speedup")
        else:
            used += ["thresh", "rule"]
        base = self.mag_ratios_base
        name = str(base) if isinstance(base, str | Path) else curve.model or "list"
        return self.described(*used) | {"curve": name}
