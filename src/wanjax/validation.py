"""Checking values from outside: pydantic knows how, the errors are ours.

    @checked(CheckpointError)
    class Config(FromJSON):
        num_layers: Annotated[Whole, Field(ge=1, le=1000)] = 40

`Config(num_layers=0)` raises `CheckpointError`: "num_layers=0: must be at least 1".
"""

from __future__ import annotations

import dataclasses
import functools
import numbers
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar, cast, dataclass_transform

import pydantic.dataclasses
from pydantic import BeforeValidator, Field, Strict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from wanjax.errors import UsageError, printable

T = TypeVar("T")
Parsed = TypeVar("Parsed", bound="FromJSON")


def _plain(value: Any) -> Any:
    """NumPy's whole numbers as Python's."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return int(value) if whole else value


# Nothing is taken for another type: "3", 3.0 and True are no whole numbers.
Whole = Annotated[int, BeforeValidator(_plain), Strict()]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Flag = Annotated[bool, Strict()]
Positive = Annotated[Number, Field(gt=0)]
Size = Annotated[Whole, Field(ge=1, le=2**20)]  # of one dimension of an array
EvenSize = Annotated[Size, Field(multiple_of=2)]
Depth = Annotated[Whole, Field(ge=1, le=1000)]  # layers
Fraction = Annotated[Number, Field(gt=0, lt=1)]


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, Field))
def checked(
    error: type[UsageError], *, eq: bool = True, kw_only: bool = False
) -> Callable[[type[T]], type[T]]:
    """Make a class a frozen dataclass whose constructor checks its values.

    It raises `error` for values that are not of the fields' types and for whatever
    `__post_init__` refuses by a `ValueError`.
    """

    def decorate(cls: type[T]) -> type[T]:
        dataclass = pydantic.dataclasses.dataclass(
            frozen=True, eq=eq, kw_only=kw_only, config={"extra": "forbid"}
        )
        made: Any = dataclass(cls)
        validate_into = made.__init__
        names = [field.name for field in dataclasses.fields(made) if not field.kw_only]

        def initialise(self: Any, /, *args: Any, **values: Any) -> None:
            if len(args) > len(names):
                raise TypeError(f"{cls.__name__} takes {len(names)} values by position")
            try:  # by name, which is how an error then speaks of them
                validate_into(self, **dict(zip(names, args, strict=False)), **values)
            except ValidationError as found:
                raise error(describe(found)) from None

        made.__init__ = initialise
        return cast(type[T], made)

    return decorate


@dataclasses.dataclass(frozen=True)
class FromJSON:
    """A configuration that other programs write, of whose fields we know some."""

    @classmethod
    def from_dict(cls: type[Parsed], values: Mapping[str, Any]) -> Parsed:
        """From parsed JSON; unknown keys are ignored, missing ones take their defaults."""
        known = {field.name for field in dataclasses.fields(cls)} & values.keys()
        return cls(**{name: values[name] for name in known})


_adapter = functools.cache(TypeAdapter)


def validate(kind: Any, value: Any, where: str, error: type[UsageError] = UsageError) -> Any:
    """`value` as `kind`, any type that pydantic knows; `where` names it.

    Raises `error` with the text of `describe`.
    """
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as found:
        raise error(describe(found, where)) from None


@contextmanager
def named(where: object) -> Iterator[None]:
    """Put `where` before the text of a `UsageError` from within."""
    try:
        yield
    except UsageError as error:
        raise type(error)(f"{where}: {error}") from error


_LISTED = 3  # faults in an error text
_SHOWN = 60  # characters of a value


def describe(error: ValidationError, where: str = "") -> str:
    """What is wrong in one line: each field, the value given, what is allowed.

    `where` names the whole, be it a file or a key: "FILE: field=value: must be ...",
    "key=value: must be ...", "key[3]=value: must be ...".
    """
    details = error.errors(include_url=False)
    of_fields = any(isinstance(part, str) for part in details[0]["loc"][:1])
    faults = [_fault(detail, "" if of_fields else where) for detail in details[:_LISTED]]
    prefix = f"{where}: " if where and of_fields else ""
    more = len(details) - len(faults)
    return prefix + "; ".join(faults) + (f"; and {more} more" if more else "")


# By pydantic's name of the fault; others keep pydantic's words.
_MUST = {
    "int_type": "be a whole number",
    "float_type": "be a number",
    "finite_number": "be a finite number",
    "bool_type": "be true or false",
    "string_type": "be text",
    "list_type": "be a list",
    "tuple_type": "be a list",
    "dict_type": "be an object",
    "none_required": "be null",
    "literal_error": "be {expected}",
    "multiple_of": "be a multiple of {multiple_of}",
    "greater_than": "be above {gt}",
    "greater_than_equal": "be at least {ge}",
    "less_than": "be below {lt}",
    "less_than_equal": "be at most {le}",
    "too_short": "have a length of at least {min_length}",
    "too_long": "have a length of at most {max_length}",
}


def _fault(detail: ErrorDetails, subject: str) -> str:
    for part in detail["loc"]:
        subject += f"[{part}]" if isinstance(part, int) else f".{part}" if subject else part
    kind, context = detail["type"], {k: _whole(v) for k, v in detail.get("ctx", {}).items()}
    if kind == "value_error":
        return f"{subject}: {context['error']}" if subject else str(context["error"])
    if kind == "missing":
        return f"{subject} is missing"
    if kind == "unexpected_keyword_argument":
        return f"unknown field {subject}"
    known = _MUST.get(kind)
    must = known.format(**context) if known else re.sub(r"^\w+ should ", "", detail["msg"])
    return f"{subject}={_shown(detail['input'])}: must {must}"


def _whole(limit: Any) -> Any:
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


def _shown(value: Any) -> str:
    try:
        return printable(repr(value), _SHOWN)
    except (ValueError, RecursionError):  # a number of thousands of digits, a very deep list
        return f"{type(value).__name__} that is too long to show"
