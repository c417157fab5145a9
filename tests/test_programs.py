"""Programs compiled ahead of time: which are shared, what is counted, how they are forgotten."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from wanjax.sampling.programs import Programs


@partial(jax.jit, static_argnums=0)
def _scale(factor, x):
    return factor * x


def test_one_program_for_arguments_that_look_alike():
    programs = Programs()
    (x,) = given = (np.ones((2, 3), np.float32),)
    program = programs.get(_scale, (2,), given)
    np.testing.assert_array_equal(program(x), 2 * x)
    assert programs.get(_scale, (2,), (np.zeros((2, 3), np.float32),)) is program
    abstract = jax.ShapeDtypeStruct((2, 3), np.float32)
    assert programs.get(_scale, (2,), (abstract,)) is program
    assert programs.get(_scale, (2,), (program(x),)) is program
    assert len(programs) == 1


def test_another_program_for_what_a_program_depends_on():
    programs = Programs()
    x = np.ones((2, 3), np.float32)
    for static, argument in ((2, x), (3, x), (2, x[:1]), (2, x.astype(np.int32))):
        programs.get(_scale, (static,), (argument,))
    assert len(programs) == 4


def test_the_default_device_is_no_place_of_its_own():
    """Weights that have rested on the host come back to it, and need no other program."""
    programs = Programs()
    x = np.ones((2, 3), np.float32)
    placed = jax.device_put(x, SingleDeviceSharding(jax.devices()[0]))
    assert programs.get(_scale, (2,), (placed,)) is programs.get(_scale, (2,), (x,))


def test_what_compiling_took():
    programs = Programs()
    for _ in range(2):
        programs.get(_scale, (2,), (np.ones(3),))
    programs.get(_scale, (2,), (np.ones(4),))
    assert [compilation.name for compilation in programs.compilations] == ["scale", "scale"]
    assert programs.seconds == sum(compilation.seconds for compilation in programs.compilations) > 0
    assert programs.waited >= programs.seconds


def test_of_more_sizes_than_are_kept_the_first_is_forgotten():
    programs = Programs(most=2)
    sizes = [np.ones(size, np.float32) for size in (1, 2, 3)]
    first, *_ = (programs.get(_scale, (2,), (x,)) for x in sizes)
    assert len(programs) == 2
    assert programs.get(_scale, (2,), (sizes[2],)) is programs.get(_scale, (2,), (sizes[2],))
    assert programs.get(_scale, (2,), (sizes[0],)) is not first


def test_programs_can_be_forgotten():
    programs = Programs()
    given = (np.ones(3),)
    first = programs.get(_scale, (2,), given)
    spent = programs.seconds
    programs.clear()
    assert len(programs) == 0
    assert programs.seconds == spent
    assert programs.get(_scale, (2,), given) is not first
    assert len(programs.compilations) == 2


def test_threads_that_ask_at_once_compile_once():
    programs, given = Programs(), (np.ones((5, 3), np.float32),)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(programs.ahead, _scale, (7,), given) for _ in range(4)]
        found = {id(future.result()) for future in asked}
    assert len(found) == len(programs.compilations) == 1
    assert programs.waited == 0  # nobody has asked in order to run it
    assert id(programs.get(_scale, (7,), given)) in found
    assert programs.waited == 0


def test_a_failed_compilation_is_tried_again():
    @partial(jax.jit, static_argnums=0)
    def fail(message, x):
        raise ValueError(message)

    programs, given = Programs(), (np.ones(3),)
    for _ in range(2):
        with pytest.raises(ValueError, match="no such thing"):
            programs.get(fail, ("no such thing",), given)
    assert len(programs) == 0
