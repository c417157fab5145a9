"""What a caching method is: settings that declare themselves, and a plan that follows from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float

from wanjax.caching.plan import Plan
from wanjax.caching.schedule import Schedule
from wanjax.errors import UsageError
from wanjax.settings import parse

# The names of the plan's facts that a calibration may have been measured under others than these.
Conditions = Mapping[str, Any]

# What a dense run can measure in each step: how the residual changed, or the guided output
# (`sampling.change`), and elements of the guided output itself.
Measure = Literal["residual", "output", "velocity"]

Rows = Sequence[Float[np.ndarray, "..."]]  # what was measured in each step of a run
Fields = Mapping[str, Any]  # of a calibration's file, which is a `Curve`


@dataclass(frozen=True)
class Calibration:
    """What a method needs calibrated.

    Dense runs measure `quantity` in each step (a `Measure`); `reduce` makes of a
    run's rows what is kept of it, `average` of all runs and their schedule the fields of the
    file; `key` is the configuration's key that takes the file. With `growth` it is also measured
    what becomes of a step's error until the end (`evaluate.growth`).
    """

    quantity: Measure
    key: str
    reduce: Callable[[Rows], Float[np.ndarray, "..."]]
    average: Callable[[Rows, Schedule], Fields]
    growth: bool = False


@dataclass(frozen=True)
class Chart:
    """What decided a plan, for its picture: values per step, and the settings' limit on them.

    `lines` are curves over the steps by name; `errors` what a skip costs or would have cost.
    """

    label: str
    lines: Mapping[str, Float[np.ndarray, " steps"]]
    errors: Float[np.ndarray, " steps"]
    threshold: float | None = None


class Method:
    """A caching method: a subclass is a frozen dataclass whose fields are made by `setting`.

    `name` is its name in the registry, in plans and in its key `use_NAME`; `help` that key's
    line of help. `given` are the settings that the constructor got, the others may still take
    a configuration's values (`completed`). Raises `UsageError` for settings out of range.
    """

    name: ClassVar[str]
    help: ClassVar[str]
    calibration: ClassVar[Calibration | None] = None

    given: frozenset[str]

    def __new__(cls, *args: Any, **values: Any) -> Method:
        self = super().__new__(cls)
        names = [field.name for field in settings_of(cls)]
        object.__setattr__(self, "given", frozenset([*names[: len(args)], *values]))
        return self

    def __post_init__(self) -> None:
        for field in settings_of(type(self)):
            if field.metadata["kinds"] is None:  # else the method itself says what it can be
                value = parse(type(self), field, getattr(self, field.name), text=False)
                object.__setattr__(self, field.name, value)

    def plan(self, schedule: Schedule, conditions: Conditions | None = None) -> Plan:
        """The plan for `schedule`.

        `conditions` are facts of the run: `model`, `height`, `width`, `num_frames`, `dtype`,
        `attention`, and `image`, whether it is image to video. Raises `UsageError` where the
        method cannot work.
        """
        raise NotImplementedError

    def chart(self, plan: Plan) -> Chart | None:
        """What decided `plan`, where that can be drawn."""
        return None

    def completed(self, config: Any) -> Method:
        """The method with a configuration's values for the settings that it was not given."""
        given = {name: getattr(self, name) for name in self.given}
        return type(self)(**(configured(type(self), config) | given))

    def described(self, *names: str) -> dict[str, Any]:
        """Settings as plain values, for plans and records; all of them without `names`."""
        chosen = names or [field.name for field in settings_of(type(self))]
        return {name: _plain(getattr(self, name)) for name in chosen}


def settings_of(method: type[Method]) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(method)  # type: ignore[arg-type]  # every subclass is a dataclass


def keys_of(method: type[Method]) -> dict[str, str]:
    """The configuration's key of each setting."""
    return {field.name: field.metadata["key"] for field in settings_of(method)}


def configured(method: type[Method], config: Any) -> dict[str, Any]:
    """The settings of a method that a configuration has; it knows no method of a later date."""
    keys = keys_of(method).items()
    return {name: getattr(config, key) for name, key in keys if hasattr(config, key)}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def excluded(**settings: Any) -> None:
    """Raise `UsageError` where more than one of `settings` is given."""
    given = [name for name, value in settings.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude one another: give one")
