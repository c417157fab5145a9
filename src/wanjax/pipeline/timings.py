"""Seconds and memory that a call costs, by stage."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import jax

from wanjax.sampling.programs import Programs


@dataclass
class Timings:
    """Seconds and peak memory by stage; compiling is apart from everything else.

    The stages: `text` (prompt embeddings), `condition` (image condition, and the context as
    each expert projects it: once per run), `denoise` (all steps), `decode` (latents to pixels).
    `compile` is the time that they waited for programs.
    Peak memory is the device's so far or, where the device does not tell (CPU), the process's.
    """

    stages: dict[str, float] = field(default_factory=dict)
    peak_memory: dict[str, int] = field(default_factory=dict)
    steps: list[float] = field(default_factory=list)
    compile: float = 0.0

    def __repr__(self) -> str:
        """In a line; `steps` and `peak_memory` have the rest."""
        spent = {"compile": self.compile} | self.stages
        parts = [f"{name} {seconds:.2f} s" for name, seconds in spent.items()]
        if self.steps:
            parts.append(f"{len(self.steps)} steps")
        if self.peak_memory:
            parts.append(f"peak {max(self.peak_memory.values()) / 2**30:.2f} GiB")
        return f"Timings({', '.join(parts)})"


class Stopwatch:
    """Measures a call into `timings`, which are plain numbers: they outlive the programs."""

    def __init__(self, programs: Programs, timings: Timings | None = None):
        self._programs = programs
        self.timings = Timings() if timings is None else timings

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """The seconds inside are the stage's, but for those spent compiling."""
        waited, began = self._programs.waited, time.perf_counter()
        yield
        elapsed = time.perf_counter() - began
        compiling = self._programs.waited - waited
        self.timings.stages[stage] = elapsed - compiling
        self.timings.compile += compiling
        self.timings.peak_memory[stage] = peak_memory()


def peak_memory() -> int:
    """Bytes: the device's peak so far or, on CPU, the process's."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        peak: int = stats["peak_bytes_in_use"]
        return peak
    return peak_of_process()


def peak_of_process() -> int:
    """Bytes of memory that this process has held at most."""
    if sys.platform == "win32":  # which has no `resource`
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux and the BSDs count in KiB
