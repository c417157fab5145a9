"""A server as a process: under load from several clients, and killed at any moment."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_PATH = Path(__file__).parents[1] / "benchmarks/serving.py"
_SPEC = importlib.util.spec_from_file_location("load", _PATH)
assert _SPEC is not None
assert _SPEC.loader is not None
load = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(load)


@pytest.mark.slow
def test_clients_at_once_lose_nothing(capsys):
    found = load.main(["jobs=16", "clients=4", "steps=4"])
    assert (found["completed"], found["lost"], found["doubled"]) == (16, 0, 0)
    assert found["changes_of_programs"] <= 12
    assert found["memory_mib_late"] < found["memory_mib_early"] + 200
    assert found["served_seconds"] > 0


@pytest.mark.slow
def test_a_server_killed_again_and_again_makes_every_video_as_it_would_have():
    """At random moments with a full queue; then all end with the bytes of an unharmed one."""
    found = load.main(["kills=4", "jobs=10", "steps=10"])
    assert (found["lost"], found["doubled"], found["other_bytes"]) == (0, 0, 0)
    assert found["killed_amid_a_video"] >= 2


@pytest.mark.slow
def test_times_told_are_right_on_a_device_that_keeps_its_pace():
    """A program takes what its operations take, so that what is left of the errors is ours."""
    found = load.main(["jobs=12", "clients=2", "steps=8", "paced=4", "loop=False"])
    assert (found["completed"], found["lost"]) == (12, 0)
    assert found["seconds_each"]["denoise"] > 0.5  # it was held back: 0.1 s here
    assert found["eta_error_median"] < 0.05
