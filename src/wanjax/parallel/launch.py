"""Whether this process is one of several, and how they find one another. No JAX.

A launcher tells in the environment; where there is none, the user does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wanjax.errors import UsageError

ALONE = "off"  # coordinator=off: one process, whatever the environment says
KEYS = ("coordinator", "process_id", "num_processes", "heartbeat_timeout")
HEARTBEAT = 100  # seconds, as JAX has it

_ADDRESS = re.compile(r"(\[[\w:.]+\]|[\w.-]+):(\d{1,5})")


@dataclass(frozen=True)
class Launch:
    """What a process is told of the others; None: JAX asks the environment for it.

    `coordinator` is where process 0 listens, `found_by` what said that there are others.
    """

    coordinator: str | None
    process_id: int | None
    num_processes: int | None
    found_by: str


def find_launch(
    coordinator: str | None = None,
    process_id: int | None = None,
    num_processes: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Launch | None:
    """How this process joins others; None where it is alone.

    What is not given comes from `JAX_COORDINATOR_ADDRESS`, `JAX_PROCESS_ID` and
    `JAX_NUM_PROCESSES`, else from the launcher: SLURM, Open MPI, Kubernetes' or Google's TPU
    slices. Raises `UsageError` for what does not go together.
    """
    given = {"process_id": process_id, "num_processes": num_processes}
    if coordinator == ALONE:
        return None
    found_by = f"coordinator={coordinator}"
    if coordinator is None:
        if "JAX_COORDINATOR_ADDRESS" in environment:
            coordinator = environment["JAX_COORDINATOR_ADDRESS"]
            found_by = f"JAX_COORDINATOR_ADDRESS={coordinator}"
        else:
            launcher = _launcher(environment)
            if launcher is None:
                for name, value in given.items():
                    if value is not None:
                        raise UsageError(
                            f"{name}={value}: where is process 0? Give coordinator=HOST:PORT too"
                        )
                return None
            return Launch(None, process_id, num_processes, launcher)
    _check_address(found_by, coordinator)
    for name in given:
        if given[name] is None:
            given[name] = _number(environment, f"JAX_{name.upper()}")
    if _launcher(environment) is None:
        missing = [f"{name}=N" for name, value in given.items() if value is None]
        if missing:
            raise UsageError(
                f"{found_by}: give {' and '.join(missing)} too; every process has a number of "
                "its own from 0 on, and process 0 listens there"
            )
    launch = Launch(coordinator, given["process_id"], given["num_processes"], found_by)
    if None not in given.values():
        _check_number(launch)
    return launch


def _launcher(environment: Mapping[str, str]) -> str | None:
    """What started several processes, if its variables say so."""
    if "SLURM_STEP_NODELIST" in environment and _count(environment, "SLURM_NTASKS") > 1:
        return "SLURM"
    if _count(environment, "OMPI_COMM_WORLD_SIZE") > 1:
        return "Open MPI"
    hosts = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES", "")
    if "," in hosts or _count(environment, "MEGASCALE_NUM_SLICES") > 1:
        return "the TPU slice"
    if _is_google_tpu(environment):
        return "the TPU slice"
    return None


def _is_google_tpu(environment: Mapping[str, str]) -> bool:
    """Whether this is a TPU machine of Google's, whose metadata know the others of its slice."""
    if "TPU_SKIP_MDS_QUERY" in environment or environment.get("JAX_PLATFORMS", "tpu") == "cpu":
        return False
    chips = [*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*")]
    named = Path("/sys/class/dmi/id/product_name")
    return bool(chips) and named.exists() and "Google" in named.read_text(errors="replace")


def _count(environment: Mapping[str, str], name: str) -> int:
    return _number(environment, name) or 1


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name)
    if text is None:
        return None
    if not text.isdecimal():
        raise UsageError(f"{name}={text} in the environment: must be a whole number")
    return int(text)


def _check_address(source: str, coordinator: str) -> None:
    if not _ADDRESS.fullmatch(coordinator) or int(coordinator.rpartition(":")[2]) > 65535:
        raise UsageError(
            f"{source}: must be HOST:PORT of process 0, such as coordinator=10.0.0.1:1234, or "
            f"coordinator={ALONE} for this process alone"
        )


def _check_number(launch: Launch) -> None:
    number, count = launch.process_id, launch.num_processes
    assert number is not None and count is not None  # noqa: PT018
    if count < 1 or not 0 <= number < count:
        raise UsageError(
            f"process_id={number}: of num_processes={count} each has a number from 0 to {count - 1}"
        )
