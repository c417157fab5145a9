"""What a user sets, each declared once: type, default, allowed values and a line of help.

Keys of the configuration and settings of caching methods are dataclass fields made by `setting`.
Pydantic decides whether a value can be one; the texts are our own, for people.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import numbers
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import TextIOBase
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO, Union

import pydantic
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter
from pydantic_core import PydanticCustomError

from wanjax.errors import UsageError, printable
from wanjax.files import fault_in_name, fault_in_text, read_text
from wanjax.validation import named

Limits = dict[str, float | None]

_SHOWN = 80  # characters of a value that is refused
# Python's own readers take 1_000, the digits of every script, and thousands of them.
_DIGITS = re.compile(r"[+-]?[0-9]{1,40}")
_DECIMAL = re.compile(
    r"[+-]?([0-9]{1,40}(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,4})?|[+-]?\.?(inf|nan)", re.IGNORECASE
)
_SWITCHES = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}
_NULLS = ("", "null", "none", "~")
_NAMES = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "null",
    tuple[float, ...]: "numbers with commas between",
    tuple[int, ...]: "whole numbers with commas between",
}


def setting(
    default: Any,
    help: str,
    *,
    key: str | None = None,
    kinds: tuple[Any, ...] | None = None,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    grid: tuple[int, int] | None = None,
    commands: tuple[str, ...] = (),
    group: str | None = None,
    also: tuple[str, ...] = (),
    drawn: Mapping[str, Callable[[], Any]] | None = None,
    from_file: bool = False,
    kept: bool = True,
    path: bool = False,
) -> Any:
    """A dataclass field with its default, one line of help and its allowed values.

    `low`/`high` are inclusive bounds, `above`/`below` exclusive ones; `grid` (step, offset)
    allows step * n + offset; `commands` are the only ones that know the key (empty: all).
    A method's setting has its `key` in the configuration, and `kinds` where less can be written
    there than Python may give.

    `group` is the title above this key and those that follow it, `also` what other programs
    call it, for hints. `drawn` are words for which a value is drawn when they are read. With
    `from_file` a command line may give @FILE, or - for standard input, for the text in it.
    A key that is not `kept` says nothing about a video: its record does without. A text that is
    a `path` must be able to name a file.
    """
    limits: Limits = {"low": low, "high": high, "above": above, "below": below}
    metadata: dict[str, Any] = {"help": help, "limits": limits, "grid": grid}
    metadata |= {"commands": commands, "key": key, "kinds": kinds, "group": group, "also": also}
    metadata |= {"drawn": drawn or {}, "from_file": from_file, "kept": kept, "path": path}
    return dataclasses.field(default=default, metadata=metadata)


def nearest(word: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """`; did you mean X?`, or nothing where nothing is near."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {found[0]}?" if found else ""


def meant(word: str, fields: Mapping[str, dataclasses.Field[Any]]) -> str:
    """`; did you mean X?`, X being called so elsewhere or written nearly so."""
    found = called(word, fields)
    return f"; did you mean {' or '.join(found)}?" if found else nearest(word, fields)


def called(word: str, fields: Mapping[str, dataclasses.Field[Any]]) -> list[str]:
    """The keys that other programs call `word`."""
    word = word.lower().replace("-", "_")
    return [name for name, field in fields.items() if word in field.metadata["also"]]


def parse(
    owner: type, field: dataclasses.Field[Any], value: Any, *, text: bool, where: str = ""
) -> Any:
    """`value` as the type of the owner's field; `text`: it stems from a command line.

    Raises `UsageError` naming key, value and what is allowed.
    """
    kinds = kinds_of(owner, field)
    if isinstance(value, str) and value.strip() in field.metadata["drawn"]:
        return field.metadata["drawn"][value.strip()]()
    if text and field.metadata["from_file"]:
        value = _text_of(field.name, value)
    if text and type(None) in kinds and value.strip().lower() in _NULLS:
        return None
    if isinstance(value, str | Path):
        _check_text(field, str(value), where)
    errors: set[str] = set()
    for kind in kinds:
        try:
            made = _adapter(kind, _frozen(field)).validate_python(value, strict=not text or None)
        except pydantic.ValidationError as error:
            errors |= {part["type"] for part in error.errors()}
        else:
            _check_name(field, made, where)
            return made
    given = f"{where}{field.metadata['key'] or field.name}={_shown(value)}"
    allowed = " or ".join([_allowed(kinds, field, value, errors), *field.metadata["drawn"]])
    raise UsageError(f"{given}: must be {allowed}")


def _check_text(field: dataclasses.Field[Any], text: str, where: str) -> None:
    if fault := fault_in_text(text, prose=field.metadata["from_file"]):
        raise UsageError(f"{where}{field.name}={_shown(text)}: {fault}")


def _check_name(field: dataclasses.Field[Any], value: Any, where: str) -> None:
    if field.metadata["path"] and isinstance(value, str) and (fault := fault_in_name(value)):
        raise UsageError(f"{where}{field.name}={_shown(value)}: {fault}")


def as_written(value: Any) -> str:
    """A value as it is written on a command line."""
    if value is None:
        return "null"
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    return ",".join(map(str, value)) if listed or hasattr(value, "tolist") else str(value)


def describe(owner: type, field: dataclasses.Field[Any]) -> str:
    """The allowed values of a key in words."""
    grid = field.metadata["grid"]
    parts = (
        _kinds_in_words(kinds_of(owner, field)),
        grid and _grid_in_words(*grid),
        _limits_in_words(field.metadata["limits"]),
        *(f"or {word}" for word in field.metadata["drawn"]),
        field.metadata["from_file"] and "@FILE, or - for standard input",
    )
    return ", ".join(part for part in parts if part)


def kinds_of(owner: type, field: dataclasses.Field[Any]) -> tuple[Any, ...]:
    """The types that a field's value can have, in the order in which they are tried."""
    if field.metadata["kinds"] is not None:
        return tuple(field.metadata["kinds"])
    hint = _hints(owner)[field.name]
    union = typing.get_origin(hint) in (Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


@functools.cache
def _hints(owner: type) -> dict[str, Any]:
    return typing.get_type_hints(owner)


def _allowed(
    kinds: tuple[Any, ...], field: dataclasses.Field[Any], value: Any, errors: set[str]
) -> str:
    """What a refused value must be: the limit that it broke, else the types."""
    if errors & {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}:
        return _limits_in_words(field.metadata["limits"])
    if "grid" not in errors:
        return _kinds_in_words(kinds)
    (step, offset), low = field.metadata["grid"], field.metadata["limits"]["low"] or 0
    smaller = (int(value) - offset) // step * step + offset
    near = [n for n in (smaller, smaller + step) if n >= low]
    return f"{_grid_in_words(step, offset)}; nearest: {' or '.join(map(str, near))}"


def _text_of(name: str, value: str) -> str:
    """What stands in the file of `@FILE`, or comes by standard input for `-`; else `value`."""
    if value == "-":
        return _whole_of(sys.stdin).strip()
    if not value.startswith("@"):
        return value
    with named(f"{name}={printable(value, _SHOWN)}"):
        return read_text(value[1:]).strip()


@functools.cache  # a stream gives its text once, and variants of a run ask again
def _whole_of(stream: TextIOBase | TextIO) -> str:
    return stream.read()


def _frozen(field: dataclasses.Field[Any]) -> tuple[Any, ...]:
    """The field's limits as a hashable value."""
    return (*field.metadata["limits"].items(), field.metadata["grid"])


@functools.cache
def _adapter(kind: Any, limited: tuple[Any, ...]) -> Any:
    *limits, grid = limited
    low, high, above, below = (value for _, value in limits)
    bounds = Field(ge=low, le=high, gt=above, lt=below)
    number: dict[Any, Any] = {
        int: Annotated[int, bounds, BeforeValidator(_whole)],
        float: Annotated[float, bounds, BeforeValidator(_real)],
        tuple[int, ...]: Annotated[tuple[Annotated[int, bounds, BeforeValidator(_whole)], ...],
                                   BeforeValidator(_items)],
        tuple[float, ...]: Annotated[tuple[Annotated[float, BeforeValidator(_real)], ...],
                                     BeforeValidator(_items)],
        str: Annotated[str, BeforeValidator(_words)],
        bool: Annotated[bool, BeforeValidator(_switch)],
    }  # fmt: skip
    annotated = number.get(kind, kind)
    if typing.get_origin(kind) is Literal:
        options = typing.get_args(kind)
        annotated = Annotated[kind, BeforeValidator(functools.partial(_option, options))]
    if grid is not None and kind is int:
        annotated = Annotated[annotated, AfterValidator(functools.partial(_on_grid, *grid))]
    return TypeAdapter(annotated, config=ConfigDict(allow_inf_nan=False))


def _whole(value: Any) -> Any:
    """Python's and NumPy's whole numbers, and text of one; no fractions, no booleans."""
    if isinstance(value, str):
        return int(value) if _DIGITS.fullmatch(value.strip()) else None
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    return None


def _real(value: Any) -> Any:
    """Numbers of any kind, and text of one: YAML 1.1 takes 1e-2 for text."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real | str):
        return None
    if isinstance(value, str) and not _DECIMAL.fullmatch(value.strip()):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _items(value: Any) -> Any:
    """The one grammar of lists: `[0, 1, 2]`, `0,1,2`, a lone `0`; in Python also arrays."""
    if isinstance(value, str):
        inner = value.strip()
        if inner.startswith("[") and inner.endswith("]"):
            inner = inner[1:-1]
        return tuple(item.strip() for item in inner.split(",")) if inner.strip() else ()
    if isinstance(value, Sequence) or hasattr(value, "tolist"):
        return tuple(value) if getattr(value, "ndim", 1) else (value,)
    return (value,)


def _switch(value: Any) -> Any:
    """A switch by the words that YAML 1.1 has for it; in YAML they come as text."""
    return _SWITCHES.get(value.strip().lower(), value) if isinstance(value, str) else value


def _words(value: Any) -> Any:
    """YAML reads 12 or yes as no text, where a prompt may well mean text; paths are text, too."""
    return value if value is None or isinstance(value, list | tuple | dict) else str(value)


def _option(options: tuple[Any, ...], value: Any) -> Any:
    """The option that is written so: on a command line 1 is text."""
    return {str(option): option for option in options}.get(str(value), value)


def _on_grid(step: int, offset: int, value: int) -> int:
    if value % step != offset:
        raise PydanticCustomError("grid", "not on the grid")
    return value


def _shown(value: Any) -> str:
    """A value that is refused, as it was written."""
    try:
        return printable(str(value), _SHOWN)
    except (ValueError, RecursionError):  # a number of thousands of digits, a very deep list
        return f"({type(value).__name__})"


def _kinds_in_words(kinds: tuple[Any, ...]) -> str:
    return " or ".join(
        " or ".join(map(str, typing.get_args(kind)))
        if typing.get_origin(kind) is Literal
        else _NAMES[kind]
        for kind in kinds
    )


def _grid_in_words(step: int, offset: int) -> str:
    return f"{step} n + {offset}" if offset else f"a multiple of {step}"


def _limits_in_words(limits: Limits) -> str:
    words = {"low": "at least", "high": "at most", "above": "above", "below": "below"}
    return ", ".join(f"{words[k]} {v}" for k, v in limits.items() if v is not None)
