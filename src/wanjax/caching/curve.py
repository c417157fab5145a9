"""Magnitude curves: how the size of the blocks' residual changes from step to step.

The ratio of step i is the mean over tokens of |residual_i| / |residual_(i-1)|, the residual
being block output minus block input (MagCache, arXiv 2506.09045). A curve carries what it
was measured with, since ratios mean nothing without the noise levels they lie between.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float
from pydantic import Field, GetPydanticSchema

from wanjax.caching.drawing import Line, lines_svg
from wanjax.caching.measured import Measured, Sigmas, array_of
from wanjax.caching.plan import Prediction
from wanjax.caching.schedule import Schedule
from wanjax.errors import CurveError
from wanjax.files import read_own, without_home, write_json
from wanjax.validation import Number, Positive, checked, named, validate

FORMAT = "wanjax-curve"
VERSION = 1
_SHIPPED = Path(__file__).parent / "curves"


def _pairs(kind: Any) -> GetPydanticSchema:
    return array_of(Annotated[list[tuple[kind, kind]], Field(min_length=1)])


def _matrix(kind: Any) -> GetPydanticSchema:
    return array_of(list[list[kind]])


_PER_STEP = (
    "spread", "cosine_distance", "inner_products", "inner_products_spread", "growth", "timesteps",
    "alpha_x", "alpha_t",
)  # fmt: skip
_Spread = Annotated[Number, Field(ge=0)]
_Distance = Annotated[Number, Field(ge=-0.001, le=2.001)]  # 0 to 2 but for rounding


@checked(CurveError, eq=False)
class Curve(Measured):
    """Magnitude ratios per step and guidance branch, and what they were measured with.

    `ratios[i]` is (conditional, unconditional), step i over step i-1; the first pair is 1.
    `sigmas` are the noise levels of the calibration, the final 0 included; a bare list of
    ratios has none. `spread` (standard deviation over tokens, prompts and seeds) and
    `cosine_distance` are shaped like `ratios`. A calibration may have measured more, for other
    methods: `inner_products` of the guided outputs of any two steps, a mean over elements, and
    their spread over videos (`caching.estimates`), and the `growth` of an error of each step
    until the end; `alpha_x` and `alpha_t` at `timesteps`
    (`caching.sensitivities`). `psnr_line` (intercept, slope) says what a predicted error e of the
    final latents comes to in frames: intercept - slope 20 log10 e decibels. Raises `CurveError`
    naming the field that is wrong.
    """

    ratios: Annotated[Float[np.ndarray, "steps 2"], _pairs(Positive)]
    sigmas: Sigmas | None = None
    spread: Annotated[Float[np.ndarray, "steps 2"], _pairs(_Spread)] | None = None
    cosine_distance: Annotated[Float[np.ndarray, "steps 2"], _pairs(_Distance)] | None = None
    inner_products: Annotated[Float[np.ndarray, "steps steps"], _matrix(Number)] | None = None
    inner_products_spread: Annotated[Float[np.ndarray, "steps steps"], _matrix(Number)] | None = (
        None
    )
    psnr_line: tuple[Number, Positive] | None = None
    growth: Annotated[Float[np.ndarray, " steps"], array_of(list[Positive])] | None = None
    timesteps: Annotated[Float[np.ndarray, " steps"], array_of(list[_Spread])] | None = None
    alpha_x: Annotated[Float[np.ndarray, " steps"], array_of(list[_Spread])] | None = None
    alpha_t: Annotated[Float[np.ndarray, " steps"], array_of(list[_Spread])] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not np.array_equal(self.ratios[0], (1, 1)):
            raise ValueError(f"ratios[0]={self.ratios[0].tolist()}: must be [1.0, 1.0]")
        lengths = {"sigmas": self.steps + 1} | dict.fromkeys(_PER_STEP, self.steps)
        for name, length in lengths.items():
            value = getattr(self, name)
            if value is not None and len(value) != length:
                raise ValueError(f"{name} must have {length} entries for {self.steps} ratios")
        if self.sigmas is not None and ((np.diff(self.sigmas) >= 0).any() or self.sigmas[-1] != 0):
            raise ValueError("sigmas must fall from at most 1 to 0")
        for name in ("inner_products", "inner_products_spread"):
            value = getattr(self, name)
            if value is not None and value.shape != (self.steps, self.steps):
                raise ValueError(f"{name} must be {self.steps} rows of {self.steps}")
        if self.boundary_step is not None and self.boundary_step >= self.steps:
            raise ValueError(f"boundary_step={self.boundary_step}: must lie in 1..{self.steps - 1}")

    def __repr__(self) -> str:
        """In a line: what it was measured with, its range, what else it holds."""
        extent = f"ratios {self.ratios.min():.3f} to {self.ratios.max():.3f}"
        more = [n for n in ("inner_products", "growth", "alpha_x") if getattr(self, n) is not None]
        held = f", with {', '.join(more)}" if more else ""
        return f"Curve({self.model or 'a list'}: {self.describe()}, {extent}{held})"

    def _repr_svg_(self) -> str:
        """The ratios over the steps, but those of 1 by definition: an expert's first."""
        ratios = self.ratios.copy()
        ratios[[phase.start for phase in self.phases]] = np.nan
        lines = [
            Line("conditional", ratios[:, 0]),
            Line("unconditional", ratios[:, 1], dashed=True),
        ]
        title = f"{self.model or 'a list of ratios'}: {self.describe()}"
        return lines_svg(lines, f"magnitude ratio, {title}", self.boundary_step)

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

    def prediction(self, cost: float) -> Prediction:
        """What an expected squared error of the final latents comes to."""
        error = math.sqrt(cost)
        if self.psnr_line is None or not error:
            return Prediction(error)
        intercept, slope = self.psnr_line
        return Prediction(error, intercept - slope * 20 * math.log10(error))

    @classmethod
    def from_list(cls, values: Sequence[float]) -> Curve:
        """A curve from the published form: [cond, uncond, cond, uncond, ...].

        With or without the leading 1.0, 1.0 of step 0 (length 2 steps or 2 steps - 2).
        """
        flat = validate(_FLAT, values, "ratios", CurveError)
        if len(flat) % 2 or not len(flat):
            raise CurveError(
                "a list of ratios has two numbers a step (conditional, unconditional); "
                f"got {len(flat)} in all"
            )
        pairs = flat.reshape(-1, 2)
        if not np.array_equal(pairs[0], (1, 1)):
            pairs = np.concatenate([np.ones((1, 2)), pairs])
        return cls(pairs)

    @classmethod
    def load(cls, path: str | Path) -> Curve:
        """Read a curve file; `path` may also be the name of a curve inside the package."""
        path = _locate(path)
        if not path.exists():
            known = ", ".join(shipped_curves())
            raise CurveError(f"curve {path}: no such file, and none of the package's: {known}")
        content = read_own(path, FORMAT, VERSION, CurveError)
        steps = content.pop("steps", None)
        with named(path):
            curve = cls(**content)
            if curve.sigmas is None:
                raise CurveError("sigmas is missing")
            if curve.steps != steps:
                raise CurveError(f"steps={steps!r}: must be {curve.steps}, as many as the ratios")
        return curve

    def save(self, path: str | Path) -> None:
        """Write the curve as JSON, all of it or nothing."""
        content: dict[str, Any] = {"format": FORMAT, "version": VERSION, "steps": self.steps}
        for field in dataclasses.fields(self):
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


_FLAT = Annotated[np.ndarray, array_of(list[Positive])]

CurveLike = Curve | str | Path | Sequence[float]


def as_curve(value: CurveLike) -> Curve:
    """A curve from a curve, a list of ratios, a file, or the name of a shipped curve."""
    if isinstance(value, Curve):
        return value
    return Curve.load(value) if isinstance(value, str | Path) else Curve.from_list(value)


def both_branches(
    rows: Sequence[Float[np.ndarray, "branches 3"]],
) -> Float[np.ndarray, "steps branches 3"]:
    """The changes of a run in one array; where a phase has no guidance its branch stands twice."""
    branches = max(len(row) for row in rows)
    return np.stack([row if len(row) == branches else np.repeat(row, branches, 0) for row in rows])


def average_changes(
    runs: Sequence[Float[np.ndarray, "steps branches 3"]], schedule: Schedule
) -> dict[str, Any]:
    """A curve's fields from dense runs' changes: ratio, its spread over tokens, cosine distance.

    The curve's spread is over tokens, prompts and seeds together.
    """
    ratio, spread, distance = np.moveaxis(np.stack(runs), -1, 0)
    mean = ratio.mean(axis=0)
    spread = np.sqrt((spread**2).mean(axis=0) + ratio.var(axis=0))
    distance = distance.mean(axis=0)
    for first in (phase.start for phase in schedule.phases):
        # nothing comes before the first step, and across the boundary two networks would compare
        mean[first], spread[first], distance[first] = 1.0, 0.0, 0.0
    pairs = [np.broadcast_to(x, (schedule.num_steps, 2)) for x in (mean, spread, distance)]
    return dict(zip(("ratios", "spread", "cosine_distance"), pairs, strict=True))


def gram_of(
    rows: Sequence[Float[np.ndarray, " elements"]],
) -> Float[np.ndarray, "steps steps"]:
    """Inner products of a run's outputs between its steps, a mean over elements."""
    outputs = np.stack(rows)
    gram: Float[np.ndarray, "steps steps"] = outputs @ outputs.T / outputs.shape[1]
    return gram


def average_grams(
    runs: Sequence[Float[np.ndarray, "steps steps"]], schedule: Schedule
) -> dict[str, Any]:
    """The inner products of outputs, and their spread over prompts and seeds."""
    grams = np.stack(runs)
    return {"inner_products": grams.mean(axis=0), "inner_products_spread": grams.std(axis=0)}


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
        if (known := without_home(about.get(name))) is not None
        and conditions.get(name, known) != known
    ]
    measured = "were measured" if what.endswith("s") else "was measured"
    return (f"the {what} {measured} otherwise: {', '.join(parts)}",) if parts else ()


def _locate(path: str | Path) -> Path:
    shipped = _SHIPPED / f"{path}.json"
    return shipped if str(path) in shipped_curves() else Path(path).expanduser()
