"""Several processes that make one video: how they find one another, what each does, their end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding
from small_folder import SMALL_RUN

from wanjax.cli.main import main
from wanjax.cli.together import same_for_all
from wanjax.config.resolve import resolve
from wanjax.errors import UsageError
from wanjax.parallel.hosts import agree, array_from_first, fetch, from_first, is_first, put
from wanjax.parallel.launch import Launch, find_launch
from wanjax.parallel.targets import Target
from wanjax.planning.memory import mesh_shape
from wanjax.planning.run import prepare

SLURM = {"SLURM_STEP_NODELIST": "node[1-4]", "SLURM_NTASKS": "4", "SLURM_PROCID": "2"}
JAXS = {"JAX_COORDINATOR_ADDRESS": "node1:1234", "JAX_PROCESS_ID": "1", "JAX_NUM_PROCESSES": "2"}


# how they find one another -------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "found_by"),
    [
        ({}, None),
        (SLURM, "SLURM"),
        (SLURM | {"SLURM_NTASKS": "1"}, None),
        ({"SLURM_NTASKS": "4"}, None),  # a job's own script: `srun` starts the others
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "Open MPI"),
        ({"TPU_WORKER_HOSTNAMES": "t1k-w-0,t1k-w-1"}, "the TPU slice"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"MEGASCALE_NUM_SLICES": "2"}, "the TPU slice"),
    ],
)
def test_a_launcher_tells_that_there_are_others(environment, found_by):
    launch = find_launch(environment=environment)
    assert launch == (None if found_by is None else Launch(None, None, None, found_by))
    assert find_launch("off", environment=environment) is None


def test_the_others_are_named_by_keys_or_by_jaxs_variables():
    launch = find_launch("10.0.0.1:1234", 0, 2, environment={})
    assert launch == Launch("10.0.0.1:1234", 0, 2, "coordinator=10.0.0.1:1234")
    launch = find_launch(environment=JAXS)
    assert launch == Launch("node1:1234", 1, 2, "JAX_COORDINATOR_ADDRESS=node1:1234")
    assert find_launch("[::1]:1", 1, 2, environment=JAXS).coordinator == "[::1]:1"
    # SLURM knows the numbers, JAX asks it for them
    launch = find_launch("node1:1234", environment=SLURM)
    assert (launch.process_id, launch.num_processes) == (None, None)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (["coordinator=node1"], "must be HOST:PORT of process 0"),
        (["coordinator=node1:70000"], "must be HOST:PORT of process 0"),
        (["coordinator=node1:1234"], "give process_id=N and num_processes=N too"),
        (["coordinator=node1:1234", "process_id=0"], "give num_processes=N too"),
        (["coordinator=node1:1", "process_id=2", "num_processes=2"], "a number from 0 to 1"),
        (["num_processes=2"], "Give coordinator=HOST:PORT too"),
    ],
)
@pytest.mark.parametrize("command", ["generate", "calibrate", "compare"])
def test_a_launch_that_cannot_work_is_refused_before_anything_is_loaded(
    command, keys, text, capsys
):
    prompt = ["prompt=a red ball"] if command == "generate" else []
    assert main([command, *prompt, *keys]) == 2
    assert text in capsys.readouterr().err


def test_a_number_in_the_environment_must_be_one():
    with pytest.raises(UsageError, match="JAX_PROCESS_ID=one in the environment"):
        find_launch(environment=JAXS | {"JAX_PROCESS_ID": "one"})


# what each does ------------------------------------------------------------------------


def test_all_must_be_given_the_same_but_for_what_is_a_process_its_own(tmp_path):
    def given(*args: str) -> dict:
        return dict(same_for_all(resolve(["prompt=a red ball", *args])))

    assert given("coordinator=a:1", "process_id=0", "output=a.mp4") == given("process_id=1")
    assert given("seed=1") != given("seed=2")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red ball\n", encoding="utf-8")
    other = tmp_path / "other.txt"
    other.write_text("a red ball\n\n", encoding="utf-8")
    by_file = [same_for_all(resolve([f"prompts={file}"])) for file in (prompts, other)]
    assert by_file[0] == by_file[1]  # the same prompts


def test_one_process_is_the_first_and_agrees_with_itself():
    assert is_first()
    assert from_first(lambda: {1, 2}) == {1, 2}  # told to nobody
    array = np.ones(3)
    assert array_from_first(lambda: array) is array
    agree({"seed": 1})
    placed = put(array, SingleDeviceSharding(jax.devices()[0]))
    assert fetch(placed).tolist() == fetch(array).tolist() == [1, 1, 1]


def test_several_processes_take_all_devices_on_a_cpu_too():
    config = resolve(["prompt=a red ball"])
    plan = prepare(config).plan
    alone = Target("here", "cpu", "cpu", 8, None)
    assert mesh_shape(config, plan, alone) is None
    together = mesh_shape(config, plan, Target("here", "cpu", "cpu", 8, None, processes=2))
    assert together is not None
    assert together.devices == 8


IN_CHILD = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
from wanjax.cli.interrupts import ended_by_signals
from wanjax.cli.together import _in_child
def part():
    print("begun", flush=True)
    time.sleep(60)
    return 0
with ended_by_signals():
    sys.exit(_in_child(part, 10))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a command runs in no child here")
def test_an_interrupt_from_the_terminal_ends_parent_and_child():
    """Which gives it to both: one line, exit code 130, and at once."""
    with subprocess.Popen(
        [sys.executable, "-c", IN_CHILD],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout.readline() == "begun\n"
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said.strip()) == (130, "wanjax: interrupted")


# two of them ---------------------------------------------------------------------------


def run(*args: str, devices: int) -> subprocess.Popen[str]:
    """`wanjax` with so many CPU devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-m", "wanjax", *args],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def two(*args: str, each: Sequence[str] = ("", "")) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes of four devices: process 0 and process 1, with an argument of its own each."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    numbers = [f"coordinator=localhost:{port}", "num_processes=2"]
    processes = [
        run(*args, *numbers, f"process_id={i}", *filter(None, [own]), devices=4)
        for i, own in enumerate(each)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                pipe.close()


def outcomes(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Exit code, what stands on standard output and on standard error."""
    said = [process.communicate(timeout=600) for process in processes]
    return [(p.returncode, *text) for p, text in zip(processes, said, strict=True)]


def small_run(folder: Path, *keys: str) -> list[str]:
    ones = "mag_ratios_base=[" + ",".join(["1"] * 12) + "]"
    return [f"model={folder}", *SMALL_RUN, "use_magcache=True", ones, *keys]


@pytest.mark.slow
def test_two_processes_write_the_file_of_one(small_folder, tmp_path):
    """Both videos of a batch byte by byte, written by process 0 alone, which alone speaks."""
    shared = ["generate", "a red ball", *small_run(small_folder), "seeds=0,1"]
    shared.append("mesh=data:2,fsdp:2,context:2")
    outputs = [tmp_path / "one.mp4", tmp_path / "two.mp4"]
    ((code, _, said),) = outcomes([run(*shared, f"output={outputs[0]}", devices=8)])
    assert code == 0, said
    each = [f"output={outputs[1]}", f"output={tmp_path / 'other.mp4'}"]
    with two(*shared, each=each) as processes:
        first, second = outcomes(processes)
    assert (first[0], second) == (0, (0, "", "")), first[2]
    names = ["one-000", "one-001", "two-000", "two-001"]
    assert {path.stem for path in tmp_path.iterdir()} == set(names)
    one, other, *_ = videos = [(tmp_path / f"{name}.mp4").read_bytes() for name in names]
    assert one != other
    assert videos[2:] == [one, other]
    with two(*shared, each=each) as processes:  # process 0 alone knows that they are there
        first, second = outcomes(processes)
    assert (first[0], second) == (0, (0, "", ""))
    assert "2 there already" in first[2]


@pytest.mark.slow
def test_two_processes_are_timed_together(small_folder, tmp_path):
    """Over the devices of both, and process 0 alone tells."""
    shared = ["benchmark", *small_run(small_folder), "mesh=context:8", "repeats=1"]
    each = [f"output={tmp_path / name}" for name in ("first.json", "other.json")]
    with two(*shared, each=each) as processes:
        first, second = outcomes(processes)
    assert (first[0], second) == (0, (0, "", "")), first[2]
    assert "| computed_step |" in (tmp_path / "first.md").read_text()
    found = json.loads((tmp_path / "first.json").read_text())
    assert (found["mesh"]["context"], found["device"]["count"]) == (8, 8)
    assert not (tmp_path / "other.json").exists()


@pytest.mark.slow
def test_two_processes_refuse_what_they_were_not_both_given(small_folder, tmp_path):
    shared = ["generate", "a red ball", *small_run(small_folder), f"output={tmp_path / 'x.mp4'}"]
    with two(*shared, each=["seed=1", "seed=2"]) as processes:
        found = outcomes(processes)
    assert [code for code, _, _ in found] == [2, 2], found
    for _, _, said in found:
        assert "process 1 was given another seed, seeds than process 0" in said


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_dies_ends_the_other(small_folder, tmp_path, killed):
    """In a line, with exit code 1, and soon: process 0 at once, others unheard of for a while."""
    timeout = 10
    keys = [key for key in SMALL_RUN if not key.startswith("num_inference_steps")]
    shared = ["generate", "a red ball", f"model={small_folder}", *keys, "num_inference_steps=1000"]
    shared += [f"output={tmp_path / 'x.mp4'}", f"heartbeat_timeout={timeout}"]
    with two(*shared) as processes:
        for line in iter(processes[0].stderr.readline, ""):
            if "compiling" in line:  # from here on they compute, or wait for one another
                break
        time.sleep(5)
        assert [process.poll() for process in processes] == [None, None]
        processes[killed].kill()
        began = time.monotonic()
        ((code, _, said),) = outcomes([processes[1 - killed]])
    assert time.monotonic() - began < 3 * timeout
    assert code == 1
    last = re.split(r"[\r\n]+", said.strip())[-1]
    assert re.match(rf"wanjax: .*process {killed} has ended|wanjax: .*lost another", last), said
