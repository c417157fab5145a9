"""How strongly a model's output answers to its inputs: what SenCache goes by."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float
from pydantic import AfterValidator, Field

from wanjax.caching.curve import FORMAT as CALIBRATION
from wanjax.caching.curve import Curve
from wanjax.caching.measured import Measured, Sigmas, array_of
from wanjax.caching.schedule import Schedule
from wanjax.errors import CurveError, SensitivityError, UsageError
from wanjax.files import read_json, read_own, write_json
from wanjax.validation import Number, checked, named

FORMAT = "wanjax-sensitivities"
VERSION = 1
_ARRAYS = ("timesteps", "alpha_x", "alpha_t")

_Timesteps = Annotated[list[Annotated[Number, Field(ge=0, le=1000)]], Field(min_length=1)]
_Alphas = list[Annotated[Number, Field(ge=0)]]


@checked(SensitivityError, kw_only=True)
class _About(Measured):
    sigmas: Sigmas | None = None


def _known(about: Mapping[str, Any]) -> Mapping[str, Any]:
    _About(**about)
    return about


@checked(SensitivityError, eq=False)
class Sensitivities:
    """Relative change of the guided output v per unit of change of the sample x and the time.

    At each of `timesteps` (falling, 0..999), `alpha_x` = |dv| / |v| / |dx| at a fixed timestep
    and `alpha_t` = |dv| / |v| / |dt| at a fixed sample, |.| being root mean squares and t the
    timestep over 1000. `about` tells what they were measured with, as a `Curve`'s fields do.
    Raises `SensitivityError` for values that cannot be.
    """

    timesteps: Annotated[Float[np.ndarray, " steps"], array_of(_Timesteps)]
    alpha_x: Annotated[Float[np.ndarray, " steps"], array_of(_Alphas)]
    alpha_t: Annotated[Float[np.ndarray, " steps"], array_of(_Alphas)]
    about: Annotated[Mapping[str, Any], AfterValidator(_known)] = dataclasses.field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        for name in ("alpha_x", "alpha_t"):
            if len(getattr(self, name)) != len(self.timesteps):
                raise ValueError(f"{name} must have a number for each of the timesteps")
        if (np.diff(self.timesteps) > 0).any():
            raise ValueError("timesteps must fall")

    def at(self, timestep: float) -> tuple[float, float]:
        """(alpha_x, alpha_t) of the nearest timestep, as SenCache's authors take them."""
        nearest = int(np.argmin(np.abs(self.timesteps - timestep)))
        return float(self.alpha_x[nearest]), float(self.alpha_t[nearest])

    @classmethod
    def load(cls, path: str | Path) -> Sensitivities:
        """Read a file of `wanjax calibrate`, or one that `save` has written.

        Raises `SensitivityError`.
        """
        path = Path(path).expanduser()
        if read_json(path, SensitivityError).get("format") == CALIBRATION:
            try:
                return cls.of(Curve.load(path))
            except CurveError as error:
                raise SensitivityError(str(error)) from error
        content = read_own(path, FORMAT, VERSION, SensitivityError)
        arrays = {name: content.pop(name) for name in _ARRAYS if name in content}
        with named(path):
            return cls(**arrays, about=content)

    @classmethod
    def of(cls, calibration: Curve) -> Sensitivities:
        """Those that a calibration measured. Raises `SensitivityError` where it did not."""
        timesteps, alpha_x, alpha_t = (
            calibration.timesteps,
            calibration.alpha_x,
            calibration.alpha_t,
        )
        if timesteps is None or alpha_x is None or alpha_t is None:
            raise SensitivityError(
                "this calibration has no sensitivities; measure them with "
                "`wanjax calibrate use_sen_cache=True`"
            )
        known = {f.name: getattr(calibration, f.name) for f in dataclasses.fields(Measured)}
        return cls(timesteps, alpha_x, alpha_t, about=known)

    def save(self, path: str | Path) -> None:
        """Write them as JSON, all of it or nothing."""
        arrays = {name: getattr(self, name).tolist() for name in _ARRAYS}
        write_json(Path(path), {"format": FORMAT, "version": VERSION, **self.about, **arrays})


SensitivitiesLike = Sensitivities | str | Path | Sequence[float]


def as_sensitivities(value: SensitivitiesLike) -> Sensitivities:
    """Sensitivities from themselves, a file, or the pair [alpha_x, alpha_t] for all steps."""
    if isinstance(value, Sensitivities):
        return value
    if isinstance(value, str | Path):
        return Sensitivities.load(value)
    if len(value) != 2:
        raise SensitivityError(
            f"sen_cache_sensitivities={list(value)}: a list is [alpha_x, alpha_t]; "
            "sensitivities of each step go in a file, which `wanjax calibrate` writes"
        )
    return Sensitivities(np.zeros(1), np.asarray(value[:1]), np.asarray(value[1:]))


def average_sensitivities(
    runs: Sequence[Float[np.ndarray, "steps 3"]], schedule: Schedule
) -> dict[str, Any]:
    """Sensitivities' fields from dense runs' changes: by the sample, how far it moved, by the time.

    Those of a step are measured on the way to the next one; see `sampling.change.output_change`.
    """
    by_sample, moved, by_time = np.moveaxis(np.stack(runs), -1, 0)
    timesteps = np.array(schedule.timesteps)
    later = np.concatenate([_later(phase) for phase in schedule.phases])
    passed = np.maximum(timesteps[later - 1] - timesteps[later], 1) / 1000  # many steps: same time
    return {
        "timesteps": timesteps,
        "alpha_x": (by_sample / moved)[:, later].mean(axis=0),
        "alpha_t": by_time[:, later].mean(axis=0) / passed,
    }


def _later(phase: range) -> list[int]:
    """The next step of the same expert; its last step takes what the one before has."""
    if len(phase) < 2:
        raise UsageError("an expert has one step alone: nothing to calibrate; take more steps")
    return [min(i + 1, phase[-1]) for i in phase]
