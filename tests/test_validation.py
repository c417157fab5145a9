"""What is wrong with a value from outside, told in one line."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Annotated, Literal

import numpy as np
import pydantic
import pytest
from pydantic import Field

from wanjax import errors
from wanjax.errors import CheckpointError, UsageError
from wanjax.validation import (
    Flag,
    FromJSON,
    Number,
    Positive,
    Size,
    Whole,
    checked,
    describe,
    named,
    validate,
)

Pair = Annotated[list[int], Field(min_length=2)]


@checked(CheckpointError)
class Box(FromJSON):
    width: Size
    weights: tuple[Positive, ...] = ()
    kind: Literal["open", "closed"] = "open"
    depth: Whole | None = None

    def __post_init__(self) -> None:
        if self.depth == self.width:
            raise ValueError("depth and width must differ")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "width is missing"),
        ({"width": 0}, "width=0: must be at least 1"),
        ({"width": 2**30}, "width=1073741824: must be at most 1048576"),
        ({"width": 1, "weights": [1, -0.5]}, "weights[1]=-0.5: must be above 0"),
        ({"width": 1, "weights": "no"}, "weights='no': must be a list"),
        ({"width": 1, "kind": "shut"}, "kind='shut': must be 'open' or 'closed'"),
        ({"width": 1, "depth": 1}, "depth and width must differ"),
        ({"width": 1, "colour": "red"}, "unknown field colour"),
        (
            {"width": 0, "depth": "x"},
            "width=0: must be at least 1; depth='x': must be a whole number",
        ),
        (
            {"width": 1, "weights": [0] * 9},
            "weights[0]=0: must be above 0; weights[1]=0: must be above 0; "
            "weights[2]=0: must be above 0; and 6 more",
        ),
    ],
)
def test_a_constructor_says_what_is_wrong(values, text):
    with pytest.raises(CheckpointError) as caught:
        Box(**values)
    assert str(caught.value) == text


def test_a_checked_class_is_a_frozen_dataclass():
    box = Box(3, [1, 2])
    assert box == Box(width=3, weights=(1.0, 2.0))
    assert hash(box) == hash(dataclasses.replace(box))
    assert dataclasses.asdict(box) == {
        "width": 3, "weights": (1.0, 2.0), "kind": "open", "depth": None,
    }  # fmt: skip
    assert pickle.loads(pickle.dumps(box)) == box
    with pytest.raises(dataclasses.FrozenInstanceError):
        box.width = 4
    with pytest.raises(CheckpointError, match="width=-1"):
        dataclasses.replace(box, width=-1)
    with pytest.raises(TypeError, match="takes 4 values by position"):
        Box(1, (), "open", None, 5)


def test_a_foreign_file_may_hold_more():
    assert Box.from_dict({"width": 2, "colour": "red", "self": 1}) == Box(2)


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (Size, 0, "height=0: must be at least 1"),
        (Size, 64.0, "height=64.0: must be a whole number"),
        (Size, True, "height=True: must be a whole number"),
        (Number, float("-inf"), "height=-inf: must be a finite number"),
        (Number, False, "height=False: must be a number"),
        (Flag, 1, "height=1: must be true or false"),
        (list[Number], [1, "2"], "height[1]='2': must be a number"),
        (Pair, [1], "height=[1]: must have a length of at least 2"),
        (dict[str, int], [1], "height=[1]: must be an object"),
        (Box, {"width": 0}, "height: width=0: must be at least 1"),
        (Box, {"width": 1, "depth": 1}, "height: depth and width must differ"),
        (Annotated[str, Field(pattern="^a")], "b", "height='b': must match pattern '^a'"),
        (str, ["x" * 99], "height=['" + "x" * 28 + "..." + "x" * 28 + "']: must be text"),
    ],
)
def test_a_value_under_its_name(kind, value, text):
    with pytest.raises(UsageError) as caught:
        validate(kind, value, "height")
    assert str(caught.value) == text


def test_numpy_scalars_are_numbers():
    assert type(validate(Size, np.int32(7), "x")) is int
    assert validate(Number, np.float32(0.5), "x") == 0.5


def test_named_keeps_the_class_of_the_error():
    with pytest.raises(CheckpointError, match=r"^file\.json: width=0: must"), named("file.json"):
        Box(0)


def test_whatever_pydantic_refuses_can_be_described():
    with pytest.raises(pydantic.ValidationError) as caught:
        pydantic.TypeAdapter(dict[str, list[int]]).validate_python({"a": [1, "x"]})
    assert describe(caught.value, "file").startswith("file: a[1]='x': must be a valid integer")


def test_every_error_is_a_users_to_mend_or_a_runs():
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    kinds = [kind for kind in classes if issubclass(kind, Exception) and kind is not errors.Notice]
    assert len(kinds) == 7
    for kind in kinds:
        usage = issubclass(kind, UsageError) and issubclass(kind, ValueError)
        assert usage != (issubclass(kind, errors.RunError) and issubclass(kind, RuntimeError))
    assert all(kind.__name__ in errors.__doc__ for kind in kinds)
