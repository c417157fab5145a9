"""How strongly a model's output answers to its inputs: what SenCache goes by."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from wanjax.errors import UsageError
from wanjax.files import write_json

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
            values = _numbers(name, getattr(self, name))
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
        about = {
            key: value
            for key, value in content.items()
            if key not in ("format", "version", *_ARRAYS)
        }
        try:
            arrays = {name: _numbers(name, content.get(name)) for name in _ARRAYS}
            return cls(**arrays, about=about)
        except SensitivityError as error:
            raise SensitivityError(f"sensitivities {path}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write them as JSON, all of it or nothing."""
        arrays = {name: getattr(self, name).tolist() for name in _ARRAYS}
        write_json(Path(path), {"format": FORMAT, "version": VERSION, **self.about, **arrays})


def _numbers(name: str, values: Any) -> np.ndarray:
    try:
        return np.array(values, np.float64)
    except (TypeError, ValueError) as error:
        raise SensitivityError(f"{name} must be a list of numbers") from error


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
