"""Python's garbage collector rests while a command's modules are imported."""

from __future__ import annotations

import contextvars
import gc
import subprocess
import sys

import pytest

from wanjax.cli.collector import at_rest, own_process


@pytest.fixture
def thawed():
    yield
    gc.unfreeze()


def frozen_by(*before) -> int:
    """How many objects are left out from then on, after a rest in a context of its own."""

    def rest() -> None:
        for call in before:
            call()
        with at_rest():
            assert not gc.isenabled()

    known = gc.get_freeze_count()
    contextvars.copy_context().run(rest)
    assert gc.isenabled()
    return gc.get_freeze_count() - known


def test_whoever_calls_a_command_keeps_garbage_that_can_be_found(thawed):
    assert frozen_by() == 0
    assert frozen_by(own_process) > 10_000


def test_a_collector_that_is_off_stays_off():
    gc.disable()
    try:
        with at_rest():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_failed_import_ends_the_rest():
    with pytest.raises(ImportError), at_rest():
        raise ImportError
    assert gc.isenabled()


def test_a_process_of_its_own_leaves_its_imports_alone():
    code = """if True:
        import gc, sys
        from wanjax.cli.main import main
        sys.argv = ["wanjax", "presets"]
        main()
        print(gc.get_freeze_count(), gc.isenabled())
    """
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, enabled = told.stdout.split()[-2:]
    assert int(count) > 10_000
    assert enabled == "True"
