"""Forecast: skip steps by forecasting the guided output, on the plan of least expected error.

MagCache repeats the last residual. Along a trajectory the output is smooth, so a forecast from the
last computed steps is far closer; which steps to skip follows from the inner products of the
outputs of dense runs, by dynamic programming. When a step computes after a run of skipped ones,
their forecasts are corrected, as a predictor-corrector method does over one step. A skipped step
costs the sampler's arithmetic alone. See `docs/forecasting.md`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float

from wanjax.caching.curve import (
    Curve,
    CurveLike,
    as_curve,
    average_grams,
    differences,
    gram_of,
)
from wanjax.caching.estimates import Gram, forecasts
from wanjax.caching.method import Calibration, Chart, Conditions, Method, excluded
from wanjax.caching.methods.budget import asked, refuse
from wanjax.caching.methods.forecast_planner import Found, Planner
from wanjax.caching.methods.magcache_rules import forced_steps
from wanjax.caching.plan import Plan, make_plan
from wanjax.caching.resample import carried_inner_products, carried_moves
from wanjax.caching.schedule import Schedule
from wanjax.errors import CurveError, UsageError
from wanjax.settings import setting

Order = Literal[1, 2, "auto"]


@dataclass(frozen=True)
class Forecast(Method):
    """Settings of forecasting, and the plan they lead to.

    `target_speedup` (3 where nothing is said) or `skip_steps` say how much is skipped; `order`
    is the forecast's, 1 linear or 2 quadratic, "auto" the one whose plan costs less; with
    `correct` each run of skipped steps is corrected once the next step has computed. `weights`
    are fitted to the calibrated matrix or Lagrange's. `mag_ratios_base` is the calibration,
    whose file has the inner products beside the curve. Raises `UsageError` for settings out of
    range.
    """

    name: ClassVar[str] = "forecast"
    help: ClassVar[str] = "skip steps by forecasting the output, on the plan of least error"
    calibration: ClassVar[Calibration] = Calibration(
        "velocity", "mag_ratios_base", gram_of, average_grams, growth=True
    )

    target_speedup: float | None = setting(
        None, "ideal speedup; null with skip_steps null: 3", key="target_speedup", low=1
    )
    skip_steps: int | None = setting(None, "so many skipped steps", key="skip_steps", low=0)
    order: Order = setting(
        "auto", "of the forecast: 1 linear, 2 quadratic, auto the better plan", key="forecast_order"
    )
    correct: bool = setting(
        True, "correct skipped steps once the next one has computed", key="forecast_correct"
    )
    weights: Literal["fitted", "lagrange"] = setting(
        "fitted", "to the calibrated matrix, or of a polynomial", key="forecast_weights"
    )
    mag_ratios_base: CurveLike | None = setting(
        None,
        "the calibration: a file, or the name of a shipped one",
        key="mag_ratios_base",
        kinds=(tuple[float, ...], str, type(None)),
        path=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        excluded(target_speedup=self.target_speedup, skip_steps=self.skip_steps)

    def plan(self, schedule: Schedule, conditions: Conditions | None = None) -> Plan:
        """See `Method.plan`. Raises `CurveError` where the calibration has no matrix for it."""
        conditions = conditions or {}
        curve = self._calibrated(conditions.get("model"))
        gram = carried_inner_products(curve, schedule)
        moves = carried_moves(curve, schedule)
        found, order = self._cheapest(schedule, gram, moves)
        made = forecasts(
            schedule,
            found.computed.tolist(),
            order,
            self.correct,
            gram if self.weights == "fitted" else None,
        )
        base = self.mag_ratios_base
        named = str(base) if isinstance(base, str | Path) else curve.model or "list"
        budget = "target_speedup" if self.skip_steps is None else "skip_steps"
        settings = self.described("correct", "weights") | {
            budget: self._target if self.skip_steps is None else self.skip_steps,
            "order": order,
            "calibration": named,
        }
        return make_plan(
            schedule,
            made.actions,
            self.name,
            settings,
            differences(vars(curve), conditions, "calibration"),
            made.corrections,
            curve.prediction(found.cost),
        )

    def chart(self, plan: Plan) -> Chart | None:
        """The forecasts' weights on the computed steps, and what each skip may cost."""
        gram = carried_inner_products(self._calibrated(None), plan.schedule)
        size = np.sqrt(gram.diagonal())
        weights = np.full((plan.schedule.num_steps, plan.num_weights), np.nan)
        errors = np.zeros(plan.schedule.num_steps)
        history: list[int] = []
        for step in plan.steps:
            if step.index in (0, plan.boundary_step):
                history = []
            if not step.skipped:
                history = [step.index, *history]
                continue
            used = step.actions[0].weights
            weights[step.index, : len(used)] = used
            nodes = [step.index, *history[: len(used)]]
            a = np.array([1.0, *(-w for w in used)])
            square = a @ gram[np.ix_(nodes, nodes)] @ a
            errors[step.index] = math.sqrt(max(square, 0.0)) / size[step.index]
        names = ("newest computed step", "the one before", "the one before that")
        lines = dict(zip(names, weights.T, strict=False))
        return Chart(label="forecast's weights", lines=lines, errors=errors)

    @property
    def _target(self) -> float:
        return 3.0 if self.target_speedup is None else self.target_speedup

    def _calibrated(self, model: str | None) -> Curve:
        """The calibration, with its matrix."""
        named = "MODEL" if model is None else model
        fix = (
            "measure one with `wanjax calibrate "
            f"{f'model={named}' if '/' in named else named}` and name the file in mag_ratios_base"
        )
        if self.mag_ratios_base is None:
            raise CurveError(f"use_{self.name}: {named} has no calibration; {fix}")
        curve = as_curve(self.mag_ratios_base)
        if curve.inner_products is None:
            raise CurveError(
                f"use_{self.name}: the calibration {self.mag_ratios_base} has a curve but no inner "
                f"products of outputs; {fix}. Without a calibration of its own take "
                "use_magcache=True, which forecasts on the plan of its curve"
            )
        return curve

    def _cheapest(
        self, schedule: Schedule, gram: Gram, moves: Float[np.ndarray, " steps"]
    ) -> tuple[Found, int]:
        """The plan of least cost over the orders, and its order."""
        target = self._target if self.skip_steps is None else None
        gains, least = asked(schedule, target, self.skip_steps)
        forced = forced_steps(schedule, 0.0)
        found = []
        for order in self._orders(schedule.num_steps):
            problem = (
                *(array.tobytes() for array in (gram, moves, gains, forced)),
                tuple(schedule.phases),
            )
            plan, most = _solved(*problem, order, self.correct, self.weights == "fitted", least)
            if plan is None:
                raise refuse(schedule, target, self.skip_steps, most, _LIMIT)
            found.append((plan, order))
        return min(found, key=lambda plan: plan[0].cost)

    def _orders(self, steps: int) -> list[int]:
        """Those that are planned for: all whose search takes seconds at most."""
        asked = (1, 2) if self.order == "auto" else (self.order,)
        orders = [order for order in asked if steps <= _MOST_STEPS[self.correct, order]]
        if not orders:
            most = max(_MOST_STEPS[self.correct, order] for order in asked)
            fix = "forecast_order=1" if self.correct else "forecast_correct=True"
            raise UsageError(
                f"use_{self.name}: {steps} steps with forecast_order={self.order} and "
                f"forecast_correct={self.correct} take too long to plan: at most {most}; "
                f"take {fix}, or fewer steps"
            )
        return orders


# Steps whose plan is found within seconds, by whether runs are corrected and the order.
_MOST_STEPS = {(True, 1): 1000, (True, 2): 400, (False, 1): 200, (False, 2): 100}


@lru_cache(maxsize=64)
def _solved(
    gram: bytes,
    moves: bytes,
    gains: bytes,
    forced: bytes,
    phases: tuple[range, ...],
    order: int,
    correct: bool,
    fit: bool,
    least: int,
) -> tuple[Found | None, int]:
    """The plan of least cost that gains `least`, if there is one, and the most that any gains.

    A pipeline that is called again plans again, and this takes longer than a small video.
    """
    planner = Planner(
        np.frombuffer(gram).reshape(-1, len(np.frombuffer(moves))),
        np.frombuffer(moves),
        phases,
        np.frombuffer(gains, int),
        np.frombuffer(forced, bool),
        order,
        correct,
        fit,
    )
    return (None if least > planner.most else planner.least(least)), planner.most


_LIMIT = (
    ", as the first step of each expert and the last step compute; ask for less, or take more steps"
)
