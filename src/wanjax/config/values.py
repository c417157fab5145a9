"""Declaring configuration keys, and turning what a user wrote into values of their types."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import numbers
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal, Union

import yaml

from wanjax.errors import UsageError


def key(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    grid: tuple[int, int] | None = None,
    commands: tuple[str, ...] = (),
) -> Any:
    """A field of the configuration: default, one line of help, allowed values.

    `low`/`high` are inclusive bounds, `above`/`below` exclusive ones; `grid` (step, offset)
    allows step * n + offset; `commands` are the only ones that know the key (empty: all).
    """
    limits = {"low": low, "high": high, "above": above, "below": below}
    metadata = {"help": help, "limits": limits, "grid": grid, "commands": commands}
    return dataclasses.field(default=default, metadata=metadata)


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or nothing where nothing is near."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {found[0]}?" if found else ""


def coerce(
    owner: type, field: dataclasses.Field[Any], value: Any, *, text: bool, where: str = ""
) -> Any:
    """`value` as the type of the owner's field; `text`: it stems from a command line.

    Raises `UsageError` naming key, value and what is allowed.
    """
    kinds = _kinds(owner, field.name)
    parsed = _parse(kinds, value, text)
    if parsed is _NO:
        raise UsageError(f"{where}{field.name}={value}: must be {describe_kinds(kinds)}")
    if isinstance(parsed, int | float) and not isinstance(parsed, bool):
        _check_limits(field, parsed, f"{where}{field.name}={value}")
    return parsed


def describe(owner: type, field: dataclasses.Field[Any]) -> str:
    """The allowed values of a key in words."""
    grid = field.metadata["grid"]
    parts = (
        describe_kinds(_kinds(owner, field.name)),
        grid and _grid_in_words(*grid),
        _limits_in_words(field.metadata["limits"]),
    )
    return ", ".join(part for part in parts if part)


def describe_kinds(kinds: tuple[Any, ...]) -> str:
    return " or ".join(_words(kind) for kind in kinds)


_NO = object()
_NAMES = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "null",
    tuple[float, ...]: "a list of numbers",
    tuple[int, ...]: "whole numbers with commas between",
}


def _words(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return " or ".join(typing.get_args(kind))
    return _NAMES[kind]


@functools.cache
def _hints(owner: type) -> dict[str, Any]:
    return typing.get_type_hints(owner)


def _kinds(owner: type, name: str) -> tuple[Any, ...]:
    hint = _hints(owner)[name]
    union = typing.get_origin(hint) in (Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _parse(kinds: tuple[Any, ...], value: Any, text: bool) -> Any:
    """The value as the first kind it can be, or `_NO`."""
    if text and kinds[0] is str and (type(None) not in kinds or value.lower() not in _NULLS):
        return value
    if text:
        value = _from_text(value)
    for kind in kinds:
        parsed = _as_kind(kind, value)
        if parsed is not _NO:
            return parsed
    return _NO


_NULLS = ("", "null", "none", "~")


def _from_text(value: str) -> Any:
    if value.lower() in _NULLS:
        return None
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def _as_kind(kind: Any, value: Any) -> Any:
    if typing.get_origin(kind) is Literal:
        return value if value in typing.get_args(kind) else _NO
    if kind == tuple[float, ...]:
        return _as_numbers(value)
    if kind == tuple[int, ...]:
        return _as_whole_numbers(value)
    if kind is float:
        return _as_float(value)
    if kind is str:
        # YAML reads 12 or yes as no text, where a prompt may well mean text
        return str(value) if value is not None and not isinstance(value, list | dict) else _NO
    if kind is int:  # or NumPy's
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        return int(value) if whole else _NO
    return value if isinstance(value, kind) else _NO


def _as_float(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, numbers.Real | str):
        return _NO
    try:  # YAML 1.1 takes 1e-2 for text
        number = float(value)
    except ValueError:
        return _NO
    return number if abs(number) < float("inf") else _NO


def _as_numbers(value: Any) -> Any:
    if not isinstance(value, list):
        return _NO
    parsed = [_as_float(item) for item in value]
    return _NO if _NO in parsed else tuple(parsed)


def _as_whole_numbers(value: Any) -> Any:
    """[0, 1, 2]; also 0 and, as it is written on a command line, 0,1,2."""
    items = value.split(",") if isinstance(value, str) else value
    parsed = [_as_float(item) for item in (items if isinstance(items, list) else [items])]
    if _NO in parsed or any(number != int(number) for number in parsed):
        return _NO
    return tuple(map(int, parsed))


def _check_limits(field: dataclasses.Field[Any], value: float, given: str) -> None:
    limits, grid = field.metadata["limits"], field.metadata["grid"]
    inside = (
        (limits["low"] is None or value >= limits["low"])
        and (limits["high"] is None or value <= limits["high"])
        and (limits["above"] is None or value > limits["above"])
        and (limits["below"] is None or value < limits["below"])
    )
    if not inside:
        raise UsageError(f"{given}: must be {_limits_in_words(limits)}")
    if grid is None:
        return
    step, offset = grid
    if value % step != offset:
        smaller = int((value - offset) // step * step + offset)
        near = [n for n in (smaller, smaller + step) if n >= limits["low"]]
        raise UsageError(
            f"{given}: must be {_grid_in_words(step, offset)}; "
            f"nearest: {' or '.join(map(str, near))}"
        )


def _grid_in_words(step: int, offset: int) -> str:
    return f"{step} n + {offset}" if offset else f"a multiple of {step}"


def _limits_in_words(limits: dict[str, float | None]) -> str:
    words = {"low": "at least", "high": "at most", "above": "above", "below": "below"}
    return ", ".join(f"{words[k]} {v}" for k, v in limits.items() if v is not None)
