"""Meshes by name, and which of their axes share a dimension; without JAX."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from wanjax.errors import UsageError
from wanjax.parallel.mesh import (
    ACTIVATION_RULES,
    PARAMETER_RULES,
    MeshShape,
    Undivided,
    check_devices,
    parse_mesh,
    share,
)

ALL_TWO = MeshShape(data=2, fsdp=2, context=2, tensor=2).sizes


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("data:1,fsdp:2,context:4,tensor:1", MeshShape(fsdp=2, context=4)),
        ("context:4, fsdp:2", MeshShape(fsdp=2, context=4)),
        ("tensor:8", MeshShape(tensor=8)),
    ],
)
def test_mesh_as_text(text, shape):
    assert parse_mesh(text) == shape
    assert shape.devices == 8
    assert parse_mesh(str(shape)) == shape


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("fsdb:2", "there is no axis 'fsdb'; give axes out of data, fsdp, context, tensor"),
        ("fsdp:2,fsdp:4", "fsdp is given twice"),
        ("fsdp", "'fsdp' is no axis:size"),
        ("", "'' is no axis:size"),
        ("fsdp:2,", "'' is no axis:size"),
        ("fsdp:two", "fsdp:two must have a whole number of devices, 1 or more"),
        ("fsdp:0", "fsdp:0 must have a whole number of devices"),
        ("fsdp:-2", "fsdp:-2 must have a whole number of devices"),
        ("fsdp:2.5", "fsdp:2.5 must have a whole number of devices"),
    ],
)
def test_what_is_no_mesh_is_refused(text, problem):
    with pytest.raises(UsageError, match=re.escape(f"mesh={text!r}: {problem}")):
        parse_mesh(text)


def test_devices_must_be_there():
    check_devices(MeshShape(context=4), 8)  # the first four
    with pytest.raises(UsageError, match="context:3,tensor:1: these are 3 devices, and 8 are here"):
        check_devices(MeshShape(context=3), 8)
    with pytest.raises(UsageError, match="these are 16 devices, and 8 are here"):
        check_devices(MeshShape(fsdp=16), 8)


def test_parameters_are_shared_over_fsdp_and_tensor():
    shared, _ = share(("layers", "embed", "heads"), (40, 8, 8), PARAMETER_RULES, ALL_TWO)
    assert shared == [(), ("fsdp",), ("tensor",)]


def test_tokens_are_shared_over_fsdp_and_context_together():
    axes = ("batch", "tokens", "heads", None)
    shared, _ = share(axes, (2, 4, 6, 8), ACTIVATION_RULES, ALL_TWO)
    assert shared == [("data",), ("fsdp", "context"), ("tensor",), ()]
    shared, _ = share(axes, (2, 8, 6, 8), ACTIVATION_RULES, MeshShape(fsdp=8).sizes)
    assert shared == [(), ("fsdp",), (), ()]


def test_a_mesh_axis_shares_one_dimension():
    shared, undivided = share(("heads", "mlp"), (8, 9), PARAMETER_RULES, {"tensor": 2})
    assert (shared, undivided) == ([("tensor",), ()], [])


def test_what_does_not_divide_stays_whole_and_is_said():
    sizes = MeshShape(fsdp=2, context=4).sizes
    shared, undivided = share(("batch", "tokens"), (1, 32_764), ACTIVATION_RULES, sizes)
    assert shared == [(), ("fsdp",)]
    assert undivided == [Undivided("tokens", 32_764, "context", 8)]
    assert str(undivided[0]).startswith("tokens (32764) cannot be divided by 8: every device")


def test_a_dimension_may_be_left_to_the_next():
    """Heads that do not divide are no loss where another dimension takes the axis."""
    shared, undivided = share(("heads", "mlp"), (3, 8), PARAMETER_RULES, {"tensor": 2})
    assert (shared, undivided) == ([(), ("tensor",)], [])


def test_meshes_need_no_jax():
    code = "import sys, wanjax.parallel.mesh; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
