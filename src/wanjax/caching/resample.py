"""A curve's ratios and angles for another schedule than the one it was measured on."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from jaxtyping import Float

from wanjax.caching.curve import Curve
from wanjax.caching.schedule import EXPERT_NAMES, Schedule
from wanjax.errors import CurveError

Resample = Literal["noise_level", "nearest"]
_SIGMA_TOLERANCE = 1e-4  # rounding in the file, and samplers that differ in the first sigma


def ratios_for(
    curve: Curve, schedule: Schedule, resample: Resample = "noise_level"
) -> Float[np.ndarray, "steps 2"]:
    """The ratios between the neighbouring steps of `schedule`; the first pair is 1.

    `noise_level`: the logarithms of the ratios, summed along the calibration, are the log
    magnitude as a function of noise level, per expert; it is interpolated and differenced.
    The ratio across the boundary compares two networks and takes no part in this.
    `nearest`: the ratios of the nearest step index, as in MagCache's own code.
    On the schedule of the calibration both give the curve as it is.
    """
    if same_schedule(curve, schedule):
        return curve.ratios
    ratios: Float[np.ndarray, "steps 2"] = np.exp(
        _resampled(curve, np.log(curve.ratios), schedule, resample)
    )
    return ratios


def angles_for(
    curve: Curve, schedule: Schedule, resample: Resample = "noise_level"
) -> Float[np.ndarray, "steps 2"]:
    """The angles between the residuals of neighbouring steps of `schedule`, in radians.

    From the curve's cosine distances, as `ratios_for` has the ratios; 0 where the curve
    has none.
    """
    if curve.cosine_distance is None:
        return np.zeros((schedule.num_steps, 2))
    angles: Float[np.ndarray, "calibrated 2"] = np.arccos(np.clip(1 - curve.cosine_distance, -1, 1))
    if same_schedule(curve, schedule):
        return angles
    return _resampled(curve, angles, schedule, resample)


def carried_inner_products(curve: Curve, schedule: Schedule) -> Float[np.ndarray, "steps steps"]:
    """The calibration's inner products between the steps of `schedule`.

    Between calibrated steps an output is taken to lie on the line, in log-SNR, between those of
    its neighbours, of the same expert. Raises `CurveError` as `check_fit` does.
    """
    assert curve.inner_products is not None
    if same_schedule(curve, schedule):
        return curve.inner_products
    check_fit(curve, schedule, "noise_level")
    shares = _shares(curve, schedule)
    carried: Float[np.ndarray, "steps steps"] = shares @ curve.inner_products @ shares.T
    return carried


def carried_growth(curve: Curve, schedule: Schedule) -> Float[np.ndarray, " steps"]:
    """How much an error of each step of `schedule` grows until the end; 1 where nobody measured."""
    if curve.growth is None:
        return np.ones(schedule.num_steps)
    if same_schedule(curve, schedule):
        return curve.growth
    growth: Float[np.ndarray, " steps"] = np.exp(_shares(curve, schedule) @ np.log(curve.growth))
    return growth


def carried_moves(curve: Curve, schedule: Schedule) -> Float[np.ndarray, " steps"]:
    """What an error of each step's output, of size one, comes to in the final latents."""
    moves: Float[np.ndarray, " steps"] = -np.diff(schedule.sigmas) * carried_growth(curve, schedule)
    return moves


def _shares(curve: Curve, schedule: Schedule) -> Float[np.ndarray, "steps calibrated"]:
    """Each step's place between calibrated ones of its expert, linear in log-SNR."""
    assert curve.sigmas is not None
    shares = np.zeros((schedule.num_steps, curve.steps))
    sigmas = np.array(schedule.sigmas)
    for phase in schedule.phases:
        known = _calibrated_phase(curve, schedule, phase)
        x = log_snr(curve.sigmas[known.start : known.stop])
        at = log_snr(sigmas[phase.start : phase.stop])
        for column, one in zip(known, np.eye(len(known)), strict=True):
            shares[phase.start : phase.stop, column] = np.interp(at, x, one)
    return shares


def _resampled(
    curve: Curve,
    changes: Float[np.ndarray, "calibrated 2"],
    schedule: Schedule,
    resample: Resample,
) -> Float[np.ndarray, "steps 2"]:
    """Changes from step to step, which add up along a run, for the steps of `schedule`."""
    if resample == "nearest" or curve.sigmas is None:
        indices = np.round(np.linspace(0, curve.steps - 1, schedule.num_steps)).astype(int)
        return np.concatenate([np.zeros((1, 2)), changes[indices[1:]]])
    result = np.zeros((schedule.num_steps, 2))
    sigmas = np.array(schedule.sigmas)
    for phase in schedule.phases:
        known = _calibrated_phase(curve, schedule, phase)
        sums = _sums(curve.sigmas, changes, known, sigmas[phase.start : phase.stop])
        result[phase.start + 1 : phase.stop] = np.diff(sums, axis=0)
    return result


def check_fit(curve: Curve, schedule: Schedule, resample: Resample) -> tuple[str, ...]:
    """Warnings about using `curve` for `schedule`.

    Raises `CurveError` where the curve says nothing about steps that the run asks about:
    other experts, a boundary elsewhere, noise levels outside the calibrated ones.
    """
    if curve.num_experts is None:
        return _list_warnings(curve, schedule)
    if curve.num_experts != schedule.num_experts:
        raise CurveError(
            f"the curve has {curve.num_experts} expert(s) and the model {schedule.num_experts}; "
            "take the model's own curve, or measure one with `wanjax calibrate`"
        )
    if same_schedule(curve, schedule):
        return ()
    if resample == "nearest":
        _check_nearest(curve, schedule)
    else:
        for phase in schedule.phases:
            _check_range(curve, schedule, phase)
    return ()


def same_schedule(curve: Curve, schedule: Schedule) -> bool:
    """Whether the curve was measured at these very steps (taken as such for a bare list)."""
    if curve.steps != schedule.num_steps:
        return False
    if curve.sigmas is None:
        return True
    close = np.allclose(curve.sigmas, schedule.sigmas, rtol=0, atol=_SIGMA_TOLERANCE)
    return close and curve.boundary_step == schedule.boundary_step


def _calibrated_phase(curve: Curve, schedule: Schedule, phase: range) -> range:
    """The calibration's steps of the expert that runs `phase`."""
    return curve.phases[schedule.experts[phase.start]]


def log_snr(sigmas: Float[np.ndarray, " steps"]) -> Float[np.ndarray, " steps"]:
    """Log of the signal-to-noise ratio, with the samplers' first sigma of about 1 cut off."""
    sigmas = np.minimum(sigmas, 1 - 1e-4)  # samplers start at 1 or just below: the same here
    log_snr: Float[np.ndarray, " steps"] = np.log1p(-sigmas) - np.log(sigmas)
    return log_snr


def _sums(
    calibrated: Float[np.ndarray, " levels"],
    changes: Float[np.ndarray, "levels-1 2"],
    known: range,
    sigmas: Float[np.ndarray, " steps"],
) -> Float[np.ndarray, "steps 2"]:
    """The changes summed from an expert's first calibrated step (of `known`) up to `sigmas`.

    Linear in log-SNR between calibrated steps, where leaving out every other step of the
    published curves is recovered best, and beyond them with the slope of the last interval.
    """
    x = log_snr(calibrated[known.start : known.stop])
    y = changes[known.start : known.stop].copy()
    y[0] = 0
    y = np.cumsum(y, axis=0)
    at = log_snr(sigmas)
    result = np.stack([np.interp(at, x, branch) for branch in y.T], axis=1)
    if len(x) > 1:
        beyond = at > x[-1]
        slope = (y[-1] - y[-2]) / (x[-1] - x[-2])
        result[beyond] = y[-1] + (at[beyond, None] - x[-1]) * slope
    return result


def _check_nearest(curve: Curve, schedule: Schedule) -> None:
    """The switch must fall into the same fraction of the steps as in the calibration."""
    if curve.boundary_step is None or schedule.boundary_step is None:
        return
    steps = schedule.num_steps
    # the calibration saw it after step boundary_step - 1 and no later than boundary_step
    first = math.floor((curve.boundary_step - 1) * steps / curve.steps) + 1
    last = math.ceil(curve.boundary_step * steps / curve.steps)
    if not first <= schedule.boundary_step <= last:
        raise CurveError(
            f"with flow_shift={schedule.flow_shift} and boundary_ratio={schedule.boundary_ratio} "
            f"the low-noise expert starts at step {schedule.boundary_step} of {steps}; "
            f"the curve ({curve.describe()}) allows step {first}{f' to {last}' * (last > first)}; "
            f"{_fix(curve, schedule)}, or take magcache_resample=noise_level"
        )


def _check_range(curve: Curve, schedule: Schedule, phase: range) -> None:
    """Every step that might be skipped lies at most one calibrated interval outside."""
    assert curve.sigmas is not None
    known = _calibrated_phase(curve, schedule, phase)
    levels = curve.sigmas[known.start : known.stop]
    top = levels[0] + (levels[0] - levels[min(1, len(levels) - 1)])
    bottom = levels[-1] - (levels[max(-2, -len(levels))] - levels[-1])
    for i in phase[1:]:
        last_of_run = i == schedule.num_steps - 1
        if not last_of_run and not bottom <= schedule.sigmas[i] <= top:
            expert = EXPERT_NAMES[schedule.experts[i]] + "-noise expert"
            raise CurveError(
                f"the curve ({curve.describe()}) knows the "
                f"{expert if schedule.num_experts == 2 else 'model'} at noise levels "
                f"{levels[0]:.3f} to {levels[-1]:.3f}; with flow_shift={schedule.flow_shift} and "
                f"boundary_ratio={schedule.boundary_ratio} step {i} lies at "
                f"{schedule.sigmas[i]:.3f}; {_fix(curve, schedule)}"
            )


def _fix(curve: Curve, schedule: Schedule) -> str:
    known = {"flow_shift": curve.flow_shift, "boundary_ratio": curve.boundary_ratio}
    other = [
        f"{name}={value:g}"
        for name, value in known.items()
        if value is not None and value != getattr(schedule, name)
    ]
    again = "measure a curve for these settings with `wanjax calibrate`"
    return f"set {' '.join(other)}, or {again}" if other else again


def _list_warnings(curve: Curve, schedule: Schedule) -> tuple[str, ...]:
    warnings = []
    if curve.steps != schedule.num_steps:
        warnings.append(
            f"the list of ratios has {curve.steps} steps and the run {schedule.num_steps}; without "
            "noise levels it is resampled by nearest index (a curve file would carry them)"
        )
    if schedule.num_experts == 2:
        warnings.append(
            "a list of ratios does not say where its expert switch lies; it is taken to be "
            f"step {schedule.boundary_step} of {schedule.num_steps}"
        )
    return tuple(warnings)
