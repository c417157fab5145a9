"""Calibrating: dense runs over prompts and seeds, averaged to what a cache goes by."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from wanjax.caching import Curve, Schedule, Sensitivities
from wanjax.config.keys import Config
from wanjax.errors import UsageError
from wanjax.files import write_json
from wanjax.media.prompts import Prompt
from wanjax.pipeline.pipeline import WanPipeline
from wanjax.planning.plans import schedule_for
from wanjax.sampling.denoise import StepReport
from wanjax.sampling.step import Measure

# Of a run: of "residual" [steps, branches, 3], ratio, its spread over tokens, cosine distance;
# of "output" [steps, 3], see `sampling.change.output_change`.
Changes = Float[np.ndarray, "steps ... 3"]


def calibrate(
    pipe: WanPipeline,
    prompts: Sequence[Prompt],
    seeds: Sequence[int] = (0,),
    *,
    progress: Path | None = None,
) -> Curve:
    """The curve of `pipe` with its default sampling values, over all prompts and seeds.

    Finished runs are kept in the file `progress`, from which a later call with the same
    settings goes on.
    """
    return average(*_runs(pipe, prompts, seeds, "residual", progress))


def calibrate_sensitivities(
    pipe: WanPipeline,
    prompts: Sequence[Prompt],
    seeds: Sequence[int] = (0,),
    *,
    progress: Path | None = None,
) -> Sensitivities:
    """The sensitivities of `pipe`, as `calibrate` has the curve; each step costs two."""
    return average_sensitivities(*_runs(pipe, prompts, seeds, "output", progress))


def _runs(
    pipe: WanPipeline,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    what: Measure,
    progress: Path | None,
) -> tuple[list[Changes], dict, Schedule]:
    """The changes in each run, what they are measured with, and the steps."""
    if not prompts or not seeds:
        raise UsageError("calibration needs at least one prompt and one seed")
    config = pipe.defaults
    schedule = schedule_for(config)
    about = _about(config, schedule, prompts, seeds)
    kept = _Progress(progress, about | {"measured": what})
    todo = [(i, seed) for i in range(len(prompts)) for seed in seeds]
    with tqdm(total=len(todo) * schedule.num_steps, desc="calibrating", unit="step") as bar:
        for i, seed in todo:
            if kept.has(i, seed):
                bar.update(schedule.num_steps)
            else:
                kept.add(i, seed, measure(pipe, prompts[i], seed, what, bar))
    return list(kept.runs.values()), about, schedule


def measure(
    pipe: WanPipeline,
    prompt: Prompt,
    seed: int,
    what: Measure = "residual",
    bar: tqdm | None = None,
) -> Changes:
    """How the residuals or outputs of one dense run change from step to step."""
    rows: list[np.ndarray] = []

    def collect(report: StepReport) -> None:
        assert report.change is not None
        change = np.asarray(report.change, np.float64)
        rows.append(change.mean(axis=-2))  # over the videos of the batch
        if bar is not None:
            bar.update()

    pipe(
        prompt.text,
        image=prompt.image,
        seed=seed,
        output_type="latent",
        measure=what,
        callback=collect,
    )
    if what == "output":
        return np.stack(rows)
    branches = max(len(row) for row in rows)
    # where a phase runs without guidance, the one branch stands for both
    return np.stack([row if len(row) == branches else np.repeat(row, branches, 0) for row in rows])


def average(runs: Sequence[Changes], about: dict, schedule: Schedule) -> Curve:
    """The mean curve. Its spread is over tokens, prompts and seeds together."""
    ratio, spread, distance = np.moveaxis(np.stack(runs), -1, 0)
    mean = ratio.mean(axis=0)
    spread = np.sqrt((spread**2).mean(axis=0) + ratio.var(axis=0))
    distance = distance.mean(axis=0)
    for first in (phase.start for phase in schedule.phases):
        # nothing comes before the first step, and across the boundary two networks would compare
        mean[first], spread[first], distance[first] = 1.0, 0.0, 0.0
    pairs = [np.broadcast_to(x, (schedule.num_steps, 2)) for x in (mean, spread, distance)]
    known = about | {"sigmas": np.array(schedule.sigmas)}
    return Curve(ratios=pairs[0], spread=pairs[1], cosine_distance=pairs[2], **known)


def average_sensitivities(
    runs: Sequence[Changes], about: dict, schedule: Schedule
) -> Sensitivities:
    """The mean sensitivities. Those of a step are measured on the way to the next one."""
    by_sample, moved, by_time = np.moveaxis(np.stack(runs), -1, 0)
    timesteps = np.array(schedule.timesteps)
    later = np.concatenate([_later(phase) for phase in schedule.phases])
    passed = np.maximum(timesteps[later - 1] - timesteps[later], 1) / 1000  # many steps: same time
    return Sensitivities(
        timesteps,
        alpha_x=(by_sample / moved)[:, later].mean(axis=0),
        alpha_t=by_time[:, later].mean(axis=0) / passed,
        about=about,
    )


def _later(phase: range) -> list[int]:
    """The next step of the same expert; its last step takes what the one before has."""
    if len(phase) < 2:
        raise UsageError("an expert has one step alone: nothing to calibrate; take more steps")
    return [min(i + 1, phase[-1]) for i in phase]


def _about(
    config: Config, schedule: Schedule, prompts: Sequence[Prompt], seeds: Sequence[int]
) -> dict:
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

    def __init__(self, path: Path | None, about: dict):
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
