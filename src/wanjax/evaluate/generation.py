"""One run of a comparison: a video with what it cost."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from wanjax.checkpoints.digest import digest_of
from wanjax.checkpoints.loras import expert_loras
from wanjax.config.keys import keys
from wanjax.evaluate.clips import Clip
from wanjax.evaluate.store import Record
from wanjax.media.examples import picture_digest
from wanjax.pipeline.compiling import device_bytes
from wanjax.pipeline.host import commit
from wanjax.pipeline.inputs import Prompts
from wanjax.pipeline.pipeline import WanPipeline
from wanjax.pipeline.record import environment
from wanjax.pipeline.timings import Stopwatch
from wanjax.planning.run import Run
from wanjax.sampling.denoise import StepReport
from wanjax.sampling.programs import Programs
from wanjax.sampling.step import run_step

# Keys that say nothing about how a clip comes about, or that the clip itself has.
_ELSEWHERE = {"prompt", "image", "seed", "output", "compilation_cache"}


@dataclass(frozen=True)
class Generated:
    """A run's record, and what it made; frames in [0, 1] as they came from the decoder."""

    record: Record
    latents: Float[np.ndarray, "z t h w"]
    frames: Float[np.ndarray, "frames height width 3"]


def generate(
    pipe: WanPipeline,
    run: Run,
    clip: Clip,
    callback: Callable[[StepReport], None] | None = None,
) -> Generated:
    """The clip as a prepared run has it, by the models and programs of `pipe`."""
    with watch_memory(pipe.programs) as memory:
        video = pipe.execute(
            run,
            Prompts(clip.prompt.text),
            pipe.frames(clip.prompt.image, run.config.last_image),
            seed=clip.seed,
            decode=False,
            callback=callback,
        )
        with Stopwatch(pipe.programs, video.timings).measure("decode"):
            frames = decode(pipe, video.latents[0])
    record = {
        "prompt": clip.prompt.text,
        "seed": clip.seed,
        "plan": video.plan.to_dict(),
        "seconds": video.timings.stages,
        "compile_seconds": video.timings.compile,
        "step_seconds": video.timings.steps,
        "peak_memory_bytes": max(video.timings.peak_memory.values()),
        "step_memory_bytes": memory.step_bytes,
        "cache_bytes": memory.cache_bytes,
        "commit": commit(),
    }
    return Generated(record, video.latents[0], frames)


def decode(
    pipe: WanPipeline, latents: Float[np.ndarray, "z t h w"]
) -> Float[np.ndarray, "frames height width 3"]:
    """Frames in [0, 1], not rounded to 8 bits."""
    frames: Float[np.ndarray, "frames height width 3"]
    frames = pipe.decode(jnp.asarray(latents)[None], dtype="float32")[0]
    return frames


def that_act() -> list[str]:
    """The keys by which variants of a clip can differ."""
    return [n for n, f in keys().items() if not f.metadata["commands"] and n not in _ELSEWHERE]


def fingerprint(run: Run, clip: Clip, folder: Path) -> str:
    """Changes with anything that could change the video or what it costs: what is in the model's
    `folder`, in pictures and in every file that the configuration names, not what they are called.
    """
    config, names = run.config, that_act()
    values = [str(getattr(config, name)) for name in names if name != "model"]
    paths = map(os.path.expanduser, values)
    named = [Path(path) for path in paths if os.path.isfile(path)]
    given = (config.lora, config.lora_high, config.lora_low)
    loras = [lora.file for both in expert_loras(*given, config.num_experts) for lora in both]
    pictures = [path for path in (clip.prompt.image, config.last_image) if path]
    facts = {
        "config": {name: getattr(config, name) for name in names},
        "plan": run.to_dict(),
        "prompt": clip.prompt.text,
        "seed": clip.seed,
        "pictures": [picture_digest(path) for path in pictures],
        "files": digest_of([folder, *config.parts.values(), *loras, *named]),
        # not the commit: most change nothing of a video, and its record has it
        "environment": {k: v for k, v in environment().items() if k != "commit"},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass
class Memory:
    """What the compiled steps of a run hold, as XLA counts it.

    `step_bytes`: arguments, results and temporaries of the largest step; `cache_bytes`: what
    of them is kept for later steps to reuse.
    """

    step_bytes: int = 0
    cache_bytes: int = 0

    def note(self, function: Any, args: tuple[Any, ...], compiled: Any) -> None:
        if function is not run_step:
            return
        _, _, cache, *_ = args
        self.cache_bytes = max(self.cache_bytes, device_bytes(cache))
        stats = compiled.memory_analysis()
        if stats is not None:  # some backends do not tell
            held = stats.argument_size_in_bytes + stats.output_size_in_bytes
            held += stats.temp_size_in_bytes - stats.alias_size_in_bytes
            self.step_bytes = max(self.step_bytes, held)


@contextmanager
def watch_memory(programs: Programs) -> Iterator[Memory]:
    """Notes the programs that are used inside."""
    memory = Memory()
    programs.watch = memory.note
    try:
        yield memory
    finally:
        programs.watch = None
