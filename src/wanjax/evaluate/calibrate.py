"""Calibrating: dense runs over prompts and seeds, averaged to what a cache goes by."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from wanjax.caching import METHODS, Curve, MagCache, Method, Schedule
from wanjax.caching.method import Calibration, Measure
from wanjax.checkpoints.digest import digest_of
from wanjax.checkpoints.loras import expert_loras
from wanjax.config.keys import Config
from wanjax.errors import UsageError, notify
from wanjax.evaluate.growth import PROMPTS, measure_growth
from wanjax.evaluate.lock import only_one
from wanjax.files import JSON, read_text, without_home, write_json
from wanjax.media.examples import picture_digest
from wanjax.media.prompts import Prompt
from wanjax.parallel.hosts import fetch, from_first, is_first
from wanjax.pipeline.pipeline import WanPipeline
from wanjax.planning.schedule import schedule_for
from wanjax.sampling.denoise import StepReport

# What is kept of a run, by what was measured.
Kept = dict[Measure, Float[np.ndarray, "..."]]


def calibrate(
    pipe: WanPipeline,
    prompts: Sequence[Prompt],
    seeds: Sequence[int] = (0,),
    *,
    methods: Sequence[type[Method]] | None = None,
    progress: Path | None = None,
) -> Curve:
    """What caching methods go by, over all prompts and seeds: of `methods`, by default of all.

    Dense runs of `pipe` with its own sampling values. The magnitude curve is always there, the
    rest as the methods need it. Finished runs are kept in the file `progress`, from which a
    later call with the same settings goes on. Raises `UsageError` for a method that has nothing
    to calibrate.
    """
    if not prompts or not seeds:
        raise UsageError("calibration needs at least one prompt and one seed")
    calibrations = _calibrations(methods)
    schedule = schedule_for(pipe.config)
    about = _about(pipe.config, schedule, prompts, seeds)
    made_of = {"measured": list(calibrations), "inputs": _inputs(pipe, prompts)}
    with _alone(progress):
        kept = _Progress(progress, about | made_of)
        _measure_all(pipe, prompts, seeds, calibrations, kept, schedule.num_steps)
    fields: dict[str, Any] = dict(about)
    for what, calibration in calibrations.items():
        fields |= calibration.average([run[what] for run in kept.runs.values()], schedule)
    if any(calibration.growth for calibration in calibrations.values()):
        chosen = list(prompts[:PROMPTS])
        grams = [kept.runs[f"{i} {seeds[0]}"]["velocity"] for i in range(len(chosen))]
        fields["growth"] = measure_growth(pipe, chosen, seeds[0], grams, schedule)
    return Curve(**fields)


def _measure_all(
    pipe: WanPipeline,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    calibrations: Mapping[Measure, Calibration],
    kept: _Progress,
    steps: int,
) -> None:
    """The runs that are not kept yet."""
    todo = [(i, seed) for i in range(len(prompts)) for seed in seeds]
    with tqdm(total=len(todo) * steps, desc="calibrating", unit="step") as bar:
        for i, seed in todo:
            if kept.has(i, seed):
                bar.update(steps)
            else:
                kept.add(i, seed, measure_run(pipe, prompts[i], seed, calibrations, bar.update))


def _calibrations(methods: Sequence[type[Method]] | None) -> dict[Measure, Calibration]:
    """What to measure, the curve first, and what to make of it."""
    chosen = METHODS.values() if methods is None else methods
    for method in methods or ():
        if method.calibration is None:
            raise UsageError(f"use_{method.name} has nothing to calibrate")
    all_of_them = (MagCache, *chosen)
    return {m.calibration.quantity: m.calibration for m in all_of_them if m.calibration}


def measure_run(
    pipe: WanPipeline,
    prompt: Prompt,
    seed: int,
    calibrations: Mapping[Measure, Calibration],
    advance: Callable[[], object] | None = None,
) -> Kept:
    """What one dense run leaves for each calibration; `advance()` is called each step."""
    rows: dict[Measure, list[np.ndarray]] = {what: [] for what in calibrations}

    def collect(report: StepReport) -> None:
        for what, change in report.changes.items():
            # over the videos of the batch
            rows[what].append(fetch(change).astype(np.float64).mean(axis=-2))
        if advance is not None:
            advance()

    pipe(
        prompt.text,
        image=prompt.image,
        seed=seed,
        cache=None,
        output_type="latent",
        measures=tuple(calibrations),
        callback=collect,
    )
    return {what: calibration.reduce(rows[what]) for what, calibration in calibrations.items()}


def _alone(progress: Path | None) -> AbstractContextManager[None]:
    if progress is None:
        return nullcontext()
    return only_one(progress.with_suffix(".lock"), f"output beside {progress}")


def _inputs(pipe: WanPipeline, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """What is in the files that a run reads, and settings that a curve does not tell."""
    config = pipe.config
    given = (config.lora, config.lora_high, config.lora_low)
    loras = [lora.file for both in expert_loras(*given, config.num_experts) for lora in both]
    pictures = [p for p in (*(prompt.image for prompt in prompts), config.last_image) if p]
    names = ("negative_prompt", "weights_dtype", "max_sequence_length", "fit_image")
    return {
        "files": digest_of([pipe.components.folder.path, *config.parts.values(), *loras]),
        "pictures": [picture_digest(picture) for picture in pictures],
        "images": [prompt.image is not None for prompt in prompts],
        **{name: getattr(config, name) for name in names},
    }


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
        "model": without_home(config.preset or config.model),
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
        self.runs: dict[str, Kept] = {}
        for key, run in from_first(self._stored).items():
            self.runs[key] = {what: np.array(rows) for what, rows in run.items()}

    def _stored(self) -> dict[str, Any]:
        """The finished runs in the file."""
        if self.path is None or not os.path.lexists(self.path):
            return {}
        try:
            stored = json.loads(read_text(self.path, largest=JSON))  # ratios may be infinite
        except (ValueError, RecursionError) as error:
            return self._anew(f"{self.path} cannot be read: {error}")
        if not isinstance(stored, dict) or stored.get("about") != self.about:
            return self._anew(f"{self.path} is of other settings, inputs, weights or packages")
        runs, digests = stored.get("runs"), stored.get("digests")
        if not isinstance(runs, dict) or not isinstance(digests, dict):
            return self._anew(f"{self.path} holds no runs")
        whole = {key: run for key, run in runs.items() if digests.get(key) == _digest(run)}
        if len(whole) < len(runs):
            self._anew(f"{self.path}: {len(runs) - len(whole)} runs are damaged")
        return whole

    def _anew(self, fault: str) -> dict[str, Any]:
        notify(f"{fault}: measured again", stacklevel=2)
        return {}

    def has(self, prompt: int, seed: int) -> bool:
        return f"{prompt} {seed}" in self.runs

    def add(self, prompt: int, seed: int, kept: Kept) -> None:
        self.runs[f"{prompt} {seed}"] = kept
        if self.path is not None and is_first():
            runs = {
                key: {what: rows.tolist() for what, rows in run.items()}
                for key, run in self.runs.items()
            }
            digests = {key: _digest(run) for key, run in runs.items()}
            write_json(self.path, {"about": self.about, "digests": digests, "runs": runs})


def _digest(run: Any) -> str:
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:16]
