"""Calibrating: dense runs over prompts and seeds, averaged to what a cache goes by."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from wanjax.caching import MagCache, Method, Schedule
from wanjax.caching.method import Calibrated, Measure
from wanjax.config.keys import Config
from wanjax.errors import UsageError
from wanjax.files import write_json
from wanjax.media.prompts import Prompt
from wanjax.pipeline.pipeline import WanPipeline
from wanjax.planning.schedule import schedule_for
from wanjax.sampling.denoise import StepReport

# Of a run: of "residual" [steps, branches, 3], ratio, its spread over tokens, cosine distance;
# of "output" [steps, 3], see `sampling.change.output_change`.
Changes = Float[np.ndarray, "steps ... 3"]


def calibrate(
    pipe: WanPipeline,
    prompts: Sequence[Prompt],
    seeds: Sequence[int] = (0,),
    *,
    method: type[Method] = MagCache,
    progress: Path | None = None,
) -> Calibrated:
    """What `method` goes by (of MagCache a `Curve`), over all prompts and seeds.

    Dense runs of `pipe` with its own sampling values. Finished ones are kept in the file
    `progress`, from which a later call with the same settings goes on. Raises `UsageError`
    for a method that has nothing to calibrate.
    """
    calibration = method.calibration
    if calibration is None:
        raise UsageError(f"use_{method.name} has nothing to calibrate")
    runs, about, schedule = _runs(pipe, prompts, seeds, calibration.quantity, progress)
    return calibration.average(runs, about, schedule)


def _runs(
    pipe: WanPipeline,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    what: Measure,
    progress: Path | None,
) -> tuple[list[Changes], dict[str, Any], Schedule]:
    """The changes in each run, what they are measured with, and the steps."""
    if not prompts or not seeds:
        raise UsageError("calibration needs at least one prompt and one seed")
    config = pipe.config
    schedule = schedule_for(config)
    about = _about(config, schedule, prompts, seeds)
    kept = _Progress(progress, about | {"measured": what})
    todo = [(i, seed) for i in range(len(prompts)) for seed in seeds]
    with tqdm(total=len(todo) * schedule.num_steps, desc="calibrating", unit="step") as bar:
        for i, seed in todo:
            if kept.has(i, seed):
                bar.update(schedule.num_steps)
            else:
                kept.add(i, seed, measure_run(pipe, prompts[i], seed, what, bar.update))
    return list(kept.runs.values()), about, schedule


def measure_run(
    pipe: WanPipeline,
    prompt: Prompt,
    seed: int,
    what: Measure = "residual",
    advance: Callable[[], object] | None = None,
) -> Changes:
    """How the residuals or outputs of one dense run change; `advance()` is called each step."""
    rows: list[np.ndarray] = []

    def collect(report: StepReport) -> None:
        assert report.change is not None
        change = np.asarray(report.change, np.float64)
        rows.append(change.mean(axis=-2))  # over the videos of the batch
        if advance is not None:
            advance()

    pipe(
        prompt.text,
        image=prompt.image,
        seed=seed,
        cache=None,
        output_type="latent",
        measure=what,
        callback=collect,
    )
    if what == "output":
        return np.stack(rows)
    branches = max(len(row) for row in rows)
    # where a phase runs without guidance, the one branch stands for both
    return np.stack([row if len(row) == branches else np.repeat(row, branches, 0) for row in rows])


def _about(
    config: Config, schedule: Schedule, prompts: Sequence[Prompt], seeds: Sequence[int]
) -> dict[str, Any]:
    """What the curve is measured with."""
    boundary = schedule.boundary_step
    if boundary in (0, schedule.num_steps):
        raise UsageError(
            f"with flow_shift={config.flow_shift:g}, boundary_ratio={config.boundary_ratio:g} and "
            f"{schedule.num_steps} steps one of the experts has no step: nothing to calibrate"
        )
    return {
        "sigmas": schedule.sigmas,
        "model": config.preset or config.model,
        "sampler": config.sampler,
        "flow_shift": config.flow_shift,
        "boundary_ratio": config.boundary_ratio,
        "boundary_step": boundary,
        "guidance_scales": tuple(dict.fromkeys(schedule.guidance_scales)),
        "height": config.height,
        "width": config.width,
        "num_frames": config.num_frames,
        "dtype": config.activations_dtype,
        "attention": config.attention,
        "prompts": tuple(prompt.text for prompt in prompts),
        "seeds": tuple(seeds),
        "package_version": version("wanjax"),
        "source": "wanjax calibrate",
        "notes": f"mean over {len(prompts) * len(seeds)} dense runs",
    }


class _Progress:
    """Finished runs, on disk if there is a file; of other settings they do not count."""

    def __init__(self, path: Path | None, about: dict[str, Any]):
        self.path, self.about = path, json.loads(json.dumps(about))
        self.runs: dict[str, np.ndarray] = {}
        if path is not None and path.exists():
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["about"] == self.about:
                self.runs = {key: np.array(run) for key, run in stored["runs"].items()}

    def has(self, prompt: int, seed: int) -> bool:
        return f"{prompt} {seed}" in self.runs

    def add(self, prompt: int, seed: int, changes: Changes) -> None:
        self.runs[f"{prompt} {seed}"] = changes
        if self.path is not None:
            runs = {key: run.tolist() for key, run in self.runs.items()}
            write_json(self.path, {"about": self.about, "runs": runs})
