"""Magnitude curves: how the size of the blocks' residual changes from step to step.

The ratio of step i is the mean over tokens of |residual_i| / |residual_(i-1)|, the residual
being block output minus block input (MagCache, arXiv 2506.09045). A curve carries what it
was measured with, since ratios mean nothing without the noise levels they lie between.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from wanjax.errors import UsageError
from wanjax.files import write_json

FORMAT = "wanjax-curve"
VERSION = 1
_SHIPPED = Path(__file__).parent / "curves"


class CurveError(UsageError):
    """A curve file or list that is unreadable, or that does not fit the run."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Magnitude ratios per step and guidance branch, and what they were measured with.

    `ratios[i]` is (conditional, unconditional), step i over step i-1; the first pair is 1.
    `sigmas` are the noise levels of the calibration, the final 0 included; a bare list of
    ratios has none. What is not known of a measurement is None. `boundary_step` is the index
    of the first low-noise step, None with one expert. `model` is a preset's name where there
    is one, else a folder or Hub id. `spread` (standard deviation over
    tokens, prompts and seeds) and `cosine_distance` are shaped like `ratios`.
    Raises `CurveError` naming the field that is wrong.
    """

    ratios: Float[np.ndarray, "steps 2"]
    sigmas: Float[np.ndarray, "steps+1"] | None = None
    model: str | None = None
    sampler: str | None = None
    flow_shift: float | None = None
    boundary_ratio: float | None = None
    boundary_step: int | None = None
    guidance_scales: tuple[float, ...] | None = None
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    dtype: str | None = None
    attention: str | None = None
    prompts: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    package_version: str | None = None
    source: str | None = None
    notes: str | None = None
    spread: Float[np.ndarray, "steps 2"] | None = None
    cosine_distance: Float[np.ndarray, "steps 2"] | None = None

    def __post_init__(self) -> None:
        for name in ("ratios", "sigmas", "spread", "cosine_distance"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _numbers(name, value))
        _check_ratios(self.ratios)
        for name in ("spread", "cosine_distance"):
            value = getattr(self, name)
            if value is not None and value.shape != self.ratios.shape:
                raise CurveError(f"{name} must be {self.steps} pairs, as ratios is")
        if self.sigmas is not None:
            _check_sigmas(self.sigmas, self.steps)
        _check_boundary(self)

    @property
    def steps(self) -> int:
        return len(self.ratios)

    @property
    def num_experts(self) -> int | None:
        """1 or 2; None for a bare list, which does not say."""
        if self.sigmas is None:
            return None
        return 1 if self.boundary_step is None else 2

    @property
    def phases(self) -> tuple[range, ...]:
        """The steps of each expert: high noise, low noise."""
        if self.boundary_step is None:
            return (range(self.steps),)
        return range(self.boundary_step), range(self.boundary_step, self.steps)

    @classmethod
    def from_list(cls, values: Sequence[float]) -> Curve:
        """A curve from the published form: [cond, uncond, cond, uncond, ...].

        With or without the leading 1.0, 1.0 of step 0 (length 2 steps or 2 steps - 2).
        """
        flat = _numbers("list", values)
        if flat.ndim != 1 or len(flat) % 2 or not len(flat):
            raise CurveError(
                f"a list of ratios has two numbers a step (conditional, unconditional); "
                f"got shape {flat.shape}"
            )
        pairs = flat.reshape(-1, 2)
        if not np.array_equal(pairs[0], (1, 1)):
            pairs = np.concatenate([np.ones((1, 2)), pairs])
        return cls(pairs)

    @classmethod
    def load(cls, path: str | Path) -> Curve:
        """Read a curve file; `path` may also be the name of a curve inside the package."""
        path = _locate(path)
        try:
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
        except OSError as error:
            raise CurveError(f"curve {path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise CurveError(f"curve {path} is truncated or no JSON: {error}") from error
        try:
            return cls(**_fields(content))
        except CurveError as error:
            raise CurveError(f"curve {path}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write the curve as JSON, all of it or nothing."""
        content: dict[str, Any] = {"format": FORMAT, "version": VERSION, "steps": self.steps}
        for field in sorted(dataclasses.fields(self), key=lambda field: field.name in _ARRAYS):
            value = getattr(self, field.name)
            content[field.name] = value.tolist() if isinstance(value, np.ndarray) else value
        write_json(Path(path), content)

    def describe(self) -> str:
        """What the curve was measured with, as far as the fit to a run depends on it."""
        parts = [f"{self.steps} steps"]
        for name in ("flow_shift", "boundary_ratio", "boundary_step"):
            value = getattr(self, name)
            if value is not None:
                parts.append(f"{name}={value:g}")
        return ", ".join(parts)


_ARRAYS = ("sigmas", "ratios", "spread", "cosine_distance")

CurveLike = Curve | str | Path | Sequence[float]


def as_curve(value: CurveLike) -> Curve:
    """A curve from a curve, a list of ratios, a file, or the name of a shipped curve."""
    if isinstance(value, Curve):
        return value
    return Curve.load(value) if isinstance(value, str | Path) else Curve.from_list(value)


def shipped_curves() -> tuple[str, ...]:
    """Names of the curves inside the package."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.json")))


def differences(
    about: Mapping[str, Any], conditions: Mapping[str, Any], what: str = "curve"
) -> tuple[str, ...]:
    """One warning naming what the run has otherwise than the calibration, as `about` tells it."""
    names = ("model", "height", "width", "num_frames", "dtype", "attention")
    parts = [
        f"{name} {conditions[name]} ({what}: {known})"
        for name in names
        if (known := about.get(name)) is not None and conditions.get(name, known) != known
    ]
    measured = "were measured" if what.endswith("s") else "was measured"
    return (f"the {what} {measured} otherwise: {', '.join(parts)}",) if parts else ()


def _locate(path: str | Path) -> Path:
    shipped = _SHIPPED / f"{path}.json"
    return shipped if str(path) in shipped_curves() else Path(path)


def _numbers(name: str, value: Any) -> np.ndarray:
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise CurveError(f"{name} must be numbers, all rows of one length") from error
    if not np.isfinite(array).all():
        raise CurveError(f"{name} holds a value that is not finite")
    array.flags.writeable = False
    return array


def _check_ratios(ratios: np.ndarray) -> None:
    if ratios.ndim != 2 or ratios.shape[1] != 2 or not len(ratios):
        raise CurveError(f"ratios must be a pair per step; got shape {ratios.shape}")
    if (ratios <= 0).any():
        step = int(np.argmax((ratios <= 0).any(axis=1)))
        raise CurveError(f"ratios must be positive; step {step} has {ratios[step].tolist()}")
    if not np.array_equal(ratios[0], (1, 1)):
        raise CurveError(f"ratios must start with [1.0, 1.0]; got {ratios[0].tolist()}")


def _check_sigmas(sigmas: np.ndarray, steps: int) -> None:
    if sigmas.shape != (steps + 1,):
        raise CurveError(
            f"sigmas must be {steps + 1} numbers, one per step and a final 0; "
            f"got shape {sigmas.shape}"
        )
    if (np.diff(sigmas) >= 0).any() or sigmas[0] > 1 or sigmas[-1] != 0:
        raise CurveError("sigmas must fall from at most 1 to 0")


def _check_boundary(curve: Curve) -> None:
    step = curve.boundary_step
    if (step is None) != (curve.boundary_ratio is None):
        raise CurveError(
            "boundary_step and boundary_ratio belong together: both for two experts, else neither"
        )
    if step is not None and not 0 < step < curve.steps:
        raise CurveError(f"boundary_step must lie in 1..{curve.steps - 1}; got {step}")


def _fields(content: Any) -> dict[str, Any]:
    """The constructor's arguments from a file's content."""
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise CurveError(f'format must be "{FORMAT}"')
    if content.get("version") != VERSION:
        raise CurveError(
            f"version {content.get('version')!r} is not known; this release reads {VERSION}"
        )
    fields = {key: value for key, value in content.items() if key not in ("format", "version")}
    steps = fields.pop("steps", None)
    unknown = set(fields) - {field.name for field in dataclasses.fields(Curve)}
    if unknown:
        raise CurveError(f"unknown field {min(unknown)}")
    for name in ("ratios", "sigmas"):
        if fields.get(name) is None:
            raise CurveError(f"{name} is missing")
    for name, value in fields.items():
        _check_type(name, value)
        if value is not None and name in _TUPLES:
            fields[name] = tuple(value)
        elif value is not None and name in _ARRAYS:
            fields[name] = _numbers(name, value)
    if len(fields["ratios"]) != steps:
        raise CurveError(f"ratios must be a list of steps={steps!r} pairs")
    return fields


_TUPLES = ("guidance_scales", "prompts", "seeds")
_NUMBERS = ("flow_shift", "boundary_ratio")
_INTEGERS = ("boundary_step", "height", "width", "num_frames")


def _check_type(name: str, value: Any) -> None:
    kinds: tuple[type, ...] = (str,)
    if name in _ARRAYS or name in _TUPLES:
        kinds = (list,)
    elif name in _INTEGERS:
        kinds = (int,)
    elif name in _NUMBERS:
        kinds = (int, float)
    if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
        raise CurveError(f"{name} must be {' or '.join(k.__name__ for k in kinds)}; got {value!r}")
