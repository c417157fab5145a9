"""The machine that a video was made on, and the state of the code that made it."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from wanjax.parallel.targets import host_memory

_PACKAGE = Path(__file__).parents[1]


@functools.cache
def host() -> dict[str, Any]:
    """Python, processor, the cores that this process may use, the machine's memory in bytes."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": _processor(),
        "cores": _cores(),
        "memory_bytes": host_memory(),
    }


@functools.cache
def commit() -> str | None:
    """The git commit of the package, with `+changes` if its files differ from it.

    None where the package is no part of a checkout (installed from a wheel, even into an
    environment that lies inside somebody's repository) or git is not there.
    """
    if _git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    head, changed = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--", ".")
    return head and head + "+changes" * bool(changed)


def _git(*args: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(_PACKAGE), *args], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    """The processor's name as its maker has it, as far as the system tells."""
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    elif sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return platform.processor() or platform.machine()


def _cores() -> int | None:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count()
