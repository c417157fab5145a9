"""A signal ends a command at once and leaves nothing half-written, at whatever moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wanjax.files import atomic_path

ENDS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}

# A command that is amid a file and in a library's code, which Python's handlers wait for.
BUSY = """
import hashlib, sys
from wanjax.cli import presets
from wanjax.cli.main import main
from wanjax.files import atomic_path
def run(args):
    with atomic_path("out.mp4") as partial:
        partial.write_text("half")
        print("busy", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**8)
presets.run = run
sys.exit(main(["presets"]))
"""


# What runs in the background (nohup, `&`) has signals ignored, and its children with it.
AS_IN_A_TERMINAL = """
import signal
for name in ("SIGINT", "SIGTERM", "SIGHUP"):
    signal.signal(getattr(signal, name), signal.SIG_DFL)
"""


def start(folder: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", AS_IN_A_TERMINAL + BUSY],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"busy\n"
    assert os.listdir(folder) != []  # what is half-written is there
    return process


def ended(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """What it said until it ended, soon."""
    try:
        return process.communicate(timeout=10)
    finally:
        process.kill()


@pytest.mark.parametrize("number", ENDS)
def test_a_signal_ends_what_python_waits_for(number: signal.Signals, tmp_path: Path) -> None:
    process = start(tmp_path)
    process.send_signal(number)
    _, said = ended(process)
    assert process.returncode == ENDS[number]
    assert b"Traceback" not in said
    assert said.startswith(b"\nwanjax: ")
    assert os.listdir(tmp_path) == []


def test_the_next_run_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    process = start(tmp_path)
    process.kill()
    process.communicate()
    alive = tmp_path / ".out.elsewhere-1-ab.partial.mp4"  # of another machine
    alive.touch()
    with atomic_path(tmp_path / "out.mp4") as partial:
        partial.write_text("whole")
    assert sorted(os.listdir(tmp_path)) == [alive.name, "out.mp4"]


def test_two_writers_of_one_name_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with atomic_path(path) as first, atomic_path(path) as second:
        first.write_text("first")
        second.write_text("second")
        assert first != second
    assert path.read_text() == "first"  # the last to finish
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.slow
@pytest.mark.parametrize("number", ENDS)
def test_generate_ends_at_any_moment(number: signal.Signals, tmp_path: Path) -> None:
    """While importing, loading, compiling, denoising, writing."""
    run = "import sys; from wanjax.cli.main import main; sys.exit(main(sys.argv[1:]))"
    args = ["generate", "a red ball", "compilation_cache=False"]
    command = [sys.executable, "-c", AS_IN_A_TERMINAL + run, *args]
    for moment in (0.1, 0.5, 1.0, 1.7, 2.5, 4.0):
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE)
        time.sleep(moment)
        if process.poll() is not None:
            break  # a fast machine
        process.send_signal(number)
        _, said = ended(process)
        assert process.returncode in (ENDS[number], -number, 0)  # -number: before wanjax was there
        assert b"Traceback" not in said
        assert not [name for name in os.listdir(tmp_path) if "partial" in name]
