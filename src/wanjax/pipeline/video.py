"""What a pipeline call returns: frames, latents, the plan as executed, what it cost."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, UInt8

from wanjax.caching.plan import Plan
from wanjax.errors import UsageError
from wanjax.media.mp4 import save_video
from wanjax.planning.memory import Memory
from wanjax.sampling.programs import Programs


@dataclass
class Timings:
    """Seconds and peak memory by stage; compiling is apart from everything else.

    The stages: `text` (prompt embeddings), `condition` (image condition, and the context as
    each expert projects it: once per run), `denoise` (all steps), `decode` (latents to pixels).
    Peak memory is the device's so far or, where the device does not tell (CPU), the process's.
    """

    programs: Programs
    stages: dict[str, float] = field(default_factory=dict)
    peak_memory: dict[str, int] = field(default_factory=dict)
    steps: list[float] = field(default_factory=list)
    compile: float = 0.0

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        compiled, began = self.programs.seconds, time.perf_counter()
        yield
        elapsed, compiling = time.perf_counter() - began, self.programs.seconds - compiled
        self.stages[stage] = elapsed - compiling
        self.compile += compiling
        self.peak_memory[stage] = peak_memory()


@dataclass(frozen=True)
class Video:
    """What a pipeline call returns. `frames` is None with output_type "latent"."""

    frames: UInt8[np.ndarray, "batch frames height width 3"] | None
    latents: Float[np.ndarray, "batch z t h w"]
    plan: Plan
    timings: Timings
    fps: int
    memory: Memory

    def save(self, path: str | Path) -> list[Path]:
        """Write an mp4, or NAME-0.mp4, NAME-1.mp4, ... for a batch; returns what was written."""
        if self.frames is None:
            raise UsageError('this call returned latents (output_type="latent"), no frames')
        path = Path(path)
        names = [path]
        if len(self.frames) > 1:
            names = [path.with_stem(f"{path.stem}-{i}") for i in range(len(self.frames))]
        for frames, name in zip(self.frames, names, strict=True):
            save_video(frames, name, self.fps)
        return names


def peak_memory() -> int:
    """Bytes: the device's peak so far or, on CPU, the process's."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        peak: int = stats["peak_bytes_in_use"]
        return peak
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
