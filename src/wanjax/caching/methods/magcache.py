"""MagCache: skip a step while the accumulated change in residual magnitude stays small.

arXiv 2506.09045. Which steps are skipped follows from the curve and the settings alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from jaxtyping import Bool

from wanjax.caching.curve import Curve, CurveLike, as_curve, differences
from wanjax.caching.methods.budget import cheapest_skips
from wanjax.caching.methods.magcache_rules import forced_steps, official_skips, per_phase_skips
from wanjax.caching.plan import COMPUTE, REUSE, Plan, Schedule, make_plan
from wanjax.caching.resample import Resample, angles_for, check_fit, ratios_for
from wanjax.errors import UsageError

Rule = Literal["per_phase", "official"]


@dataclass(frozen=True)
class MagCache:
    """Settings of MagCache, and the plan they lead to.

    `thresh` bounds the accumulated error since the last computed step, `K` the steps skipped
    in a row; the first `retention_ratio` of each expert's steps compute. `mag_ratios_base` is
    the curve: a `Curve`, its file, the name of a shipped one, or a list of ratios.
    `rule`: `per_phase` decides for both guidance branches together and afresh for each
    expert; `official` decides per branch, as the authors' repository does.
    `target_speedup` or `skip_steps` (one of them) replace threshold and rule by the plan of
    least total error that saves as much; `K` and `retention_ratio` hold as before.
    Raises `UsageError` for settings out of range.
    """

    thresh: float = 0.04
    K: int = 2
    retention_ratio: float = 0.2
    mag_ratios_base: CurveLike | None = None
    resample: Resample = "noise_level"
    rule: Rule = "per_phase"
    target_speedup: float | None = None
    skip_steps: int | None = None

    # The configuration's name of each setting.
    keys: ClassVar[Mapping[str, str]] = {
        "thresh": "magcache_thresh",
        "K": "magcache_K",
        "retention_ratio": "retention_ratio",
        "mag_ratios_base": "mag_ratios_base",
        "resample": "magcache_resample",
        "rule": "magcache_rule",
        "target_speedup": "target_speedup",
        "skip_steps": "skip_steps",
    }

    def __post_init__(self) -> None:
        self._require(self.thresh >= 0, "thresh", "at least 0")
        self._require(isinstance(self.K, int) and self.K >= 0, "K", "a whole number, at least 0")
        self._require(0 <= self.retention_ratio <= 1, "retention_ratio", "from 0 to 1")
        for name, values in (("resample", get_args(Resample)), ("rule", get_args(Rule))):
            self._require(getattr(self, name) in values, name, " or ".join(values))
        speedup, skips = self.target_speedup, self.skip_steps
        self._require(speedup is None or speedup >= 1, "target_speedup", "at least 1")
        self._require(skips is None or skips >= 0, "skip_steps", "at least 0")
        if self.has_budget and None not in (speedup, skips):
            raise UsageError("target_speedup and skip_steps exclude one another: give one")

    @property
    def has_budget(self) -> bool:
        return self.target_speedup is not None or self.skip_steps is not None

    def curve(self) -> Curve:
        """The curve of `mag_ratios_base`."""
        if self.mag_ratios_base is None:
            raise UsageError(
                "MagCache needs a curve: measure one with `wanjax calibrate`, or name a curve "
                "file in mag_ratios_base"
            )
        return as_curve(self.mag_ratios_base)

    def plan(self, schedule: Schedule, conditions: Mapping[str, Any] | None = None) -> Plan:
        """The plan for `schedule`.

        `conditions` are facts of the run: `model`, `height`, `width`, `num_frames`, `dtype`,
        `attention`, which may differ from the curve's (a warning), and `image`, whether it is
        image to video. Raises `CurveError` where the curve does not fit the schedule.
        """
        conditions = conditions or {}
        curve = self.curve()
        warnings = check_fit(curve, schedule, self.resample) + differences(vars(curve), conditions)
        skipped = self._skips(curve, schedule, bool(conditions.get("image")))
        refused = skipped & forced_steps(schedule, 0)[:, None]
        if refused.any():
            steps = ", ".join(map(str, np.flatnonzero(refused.any(axis=1))))
            warnings += (f"rule {self.rule} would skip step {steps}, which every plan computes",)
        skipped = skipped & ~refused
        actions = [
            tuple(REUSE if skip else COMPUTE for skip in skipped[i, : schedule.num_branches(i)])
            for i in range(schedule.num_steps)
        ]
        return make_plan(schedule, actions, "magcache", self._settings(curve), warnings)

    def _skips(self, curve: Curve, schedule: Schedule, image: bool) -> Bool[np.ndarray, "steps 2"]:
        ratios = ratios_for(curve, schedule, self.resample)
        if self.has_budget:
            forced = forced_steps(schedule, self.retention_ratio)
            return cheapest_skips(
                ratios,
                angles_for(curve, schedule, self.resample),
                schedule,
                forced,
                self.K,
                self.target_speedup,
                self.skip_steps,
            )
        settings = (schedule, self.thresh, self.K, self.retention_ratio)
        if self.rule == "official":
            return official_skips(ratios, *settings, image)
        return per_phase_skips(ratios, *settings)

    def _settings(self, curve: Curve) -> dict[str, Any]:
        """The settings that acted, as plain values."""
        used = ["K", "retention_ratio", "resample"]
        if self.has_budget:
            used.append("skip_steps" if self.target_speedup is None else "target_speedup")
        else:
            used += ["thresh", "rule"]
        base = self.mag_ratios_base
        name = str(base) if isinstance(base, str | Path) else curve.model or "list"
        return {key: getattr(self, key) for key in used} | {"curve": name}

    def _require(self, condition: bool, name: str, allowed: str) -> None:
        if not condition:
            raise UsageError(f"{self.keys[name]} must be {allowed}; got {getattr(self, name)!r}")
