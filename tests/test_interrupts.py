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
        return process.communicate(timeout=20)
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


# What ends in an order takes the signals to itself; before and after they end the process, which
# at exit waits for what libraries do.
SERVER = """
import atexit, sys, time
from wanjax.cli import presets
from wanjax.cli.interrupts import signals_to
from wanjax.cli.main import main
def run(args):
    told = []
    with signals_to(lambda number, _: told.append(number)):
        print("busy", flush=True)
        while not told:
            time.sleep(0.01)
    print("told", flush=True)
    def library():
        print("at exit", flush=True)
        time.sleep(60)
    atexit.register(library)
presets.run = run
sys.argv[1:] = ["presets"]
sys.exit(main())
"""


@pytest.mark.parametrize("number", ENDS)
def test_what_ends_in_an_order_is_told_once_and_ended_then(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", AS_IN_A_TERMINAL + SERVER],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"busy\n"
    process.send_signal(number)
    assert process.stdout.readline() == b"told\n"
    assert process.stdout.readline() == b"at exit\n"
    process.send_signal(number)
    _, said = ended(process)
    assert process.returncode == ENDS[number]
    assert said.startswith(b"\nwanjax: ")
    assert b"Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize(
    "args", ["generate prompt=ball compilation_cache=False", "compile", "serve port=0 grace=1"]
)
@pytest.mark.parametrize("number", ENDS)
def test_a_command_ends_at_any_moment(number: signal.Signals, args: str, tmp_path: Path) -> None:
    """While importing, loading, compiling, denoising, writing, serving."""
    run = "import sys; from wanjax.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", AS_IN_A_TERMINAL + run, *args.split()]
    for moment in (0.3, 1.2, 3.5):
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE)
        time.sleep(moment)
        if process.poll() is not None:
            break  # a fast machine
        process.send_signal(number)
        _, said = ended(process)
        # -number: before wanjax was there; 0: a server that served, or done meanwhile
        assert process.returncode in (ENDS[number], -number, 0)
        assert b"Traceback" not in said
        assert not [name for name in os.listdir(tmp_path) if "partial" in name]
