"""How strongly a model's output answers to its inputs: what SenCache goes by."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wanjax.caching.plan import Schedule
from wanjax.errors import UsageError
from wanjax.files import write_json

if TYPE_CHECKING:  # at run time it costs a third of the start-up
    from jaxtyping import Float

FORMAT = "wanjax-sensitivities"
VERSION = 1
_ARRAYS = ("timesteps", "alpha_x", "alpha_t")


class SensitivityError(UsageError):
    """A file or list of sensitivities that is unreadable."""


@dataclass(frozen=True, eq=False)
class Sensitivities:
    """Relative change of the guided output v per unit of change of the sample x and the time.

    At each of `timesteps` (falling, 0..999), `alpha_x` = |dv| / |v| / |dx| at a fixed timestep
    and `alpha_t` = |dv| / |v| / |dt| at a fixed sample, |.| being root mean squares and t the
    timestep over 1000. `about` tells what they were measured with, as a `Curve`'s fields do.
    Raises `SensitivityError` for values that cannot be.
    """

    timesteps: Float[np.ndarray, " steps"]
    alpha_x: Float[np.ndarray, " steps"]
    alpha_t: Float[np.ndarray, " steps"]
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in _ARRAYS:
            try:
                values = np.array(getattr(self, name), np.float64)
            except (TypeError, ValueError) as error:
                raise SensitivityError(f"{name} must be a list of numbers") from error
            if values.ndim != 1 or len(values) != len(self.timesteps) or not len(values):
                raise SensitivityError(f"{name} must have a number for each of the timesteps")
            if not np.isfinite(values).all() or (values < 0).any():
                raise SensitivityError(f"{name} must be finite and at least 0")
            object.__setattr__(self, name, values)

    def at(self, timestep: float) -> tuple[float, float]:
        """(alpha_x, alpha_t) of the nearest timestep, as SenCache's authors take them."""
        nearest = int(np.argmin(np.abs(self.timesteps - timestep)))
        return float(self.alpha_x[nearest]), float(self.alpha_t[nearest])

    @classmethod
    def load(cls, path: str | Path) -> Sensitivities:
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise SensitivityError(
                f"sensitivities {path} cannot be read: {error.strerror}"
            ) from error
        except ValueError as error:
            raise SensitivityError(f"sensitivities {path} are no JSON: {error}") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise SensitivityError(f'sensitivities {path}: format must be "{FORMAT}"')
        if content.get("version") != VERSION:
            raise SensitivityError(
                f"sensitivities {path}: version {content.get('version')!r} is not known; this "
                f"release reads {VERSION}"
            )
        arrays = {name: content.pop(name, None) for name in _ARRAYS}
        about = {key: content[key] for key in content if key not in ("format", "version")}
        try:
            return cls(**arrays, about=about)
        except SensitivityError as error:
            raise SensitivityError(f"sensitivities {path}: {error}") from error

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
    return Sensitivities(np.zeros(1), np.array([value[0]]), np.array([value[1]]))


def average_sensitivities(
    runs: Sequence[Float[np.ndarray, "steps 3"]],
    about: Mapping[str, Any],
    schedule: Schedule,
) -> Sensitivities:
    """The mean sensitivities of dense runs' changes: by the sample, how far it moved, by the time.

    Those of a step are measured on the way to the next one; see `sampling.change.output_change`.
    """
    by_sample, moved, by_time = np.moveaxis(np.stack(runs), -1, 0)
    timesteps = np.array(schedule.timesteps)
    later = np.concatenate([_later(phase) for phase in schedule.phases])
    passed = np.maximum(timesteps[later - 1] - timesteps[later], 1) / 1000  # many steps: same time
    return Sensitivities(
        timesteps,
        alpha_x=(by_sample / moved)[:, later].mean(axis=0),
        alpha_t=by_time[:, later].mean(axis=0) / passed,
        about=about,
    )


def _later(phase: range) -> list[int]:
    """The next step of the same expert; its last step takes what the one before has."""
    if len(phase) < 2:
        raise UsageError("an expert has one step alone: nothing to calibrate; take more steps")
    return [min(i + 1, phase[-1]) for i in phase]
