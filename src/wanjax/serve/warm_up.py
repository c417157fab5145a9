"""What a server does before its first video: load the models, and measure their pace."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from wanjax.media.video_files import save_video
from wanjax.sampling.denoise import StepReport
from wanjax.serve.eta import SAVE, Part, parts_of, step_name
from wanjax.serve.model import Model, rest_others

_STEPS = 3  # of which the first takes longer
_FEW = 2  # latent frames, which run every program of the decoder


class Measured(NamedTuple):
    """What a part of the default video takes."""

    part: Part
    seconds: float


class _EnoughError(Exception):
    """As many steps are computed as are wanted."""


def load_all(models: Mapping[str, Model]) -> dict[str, list[Measured]]:
    """One after another, the first one last: its weights are then on the devices.

    Returns what parts of the default videos take, of those models that are to be warmed up.
    """
    measured = {}
    for name in reversed(list(models)):
        models[name].load()
        if models[name].config.warm_up:
            measured[name] = warm_up(models[name])
        rest_others(models, name)
    return measured


def warm_up(model: Model) -> list[Measured]:
    """Compute a few steps, and decode and save something, each once before it is timed.

    What runs for the first time in a process takes longer; what decoding takes no step tells.
    """
    parts = {part.name: part for part in parts_of(model.default, model.configs)}
    took = _steps(model)
    took["decode"], frames = _decoding(model)
    took[SAVE] = _saving(frames, model.config.fps)
    return [Measured(parts[name], seconds) for name, seconds in took.items()]


def _steps(model: Model) -> dict[str, float]:
    """Seconds of a step, by its part's name."""
    run = model.default
    run = replace(run, config=replace(run.config, prompt="a video", seed=0))
    frames = model.pipe.plain_frames(run.config)
    at = {steps[0].index: steps for steps in run.plan.runs}
    took: dict[str, list[float]] = {}

    def step(report: StepReport) -> None:
        index = report.step.index
        if (steps := at.get(index)) is not None:
            name = step_name(run.plan, steps[0])
            took.setdefault(name, []).append(report.seconds * len(steps))
        if index + 1 == _STEPS:
            raise _EnoughError

    with suppress(_EnoughError):
        model.make(run, frames, step)
    return {name: min(seconds) for name, seconds in took.items() if len(seconds) > 1}


def _decoding(model: Model) -> tuple[float, UInt8[np.ndarray, "frames height width 3"]]:
    """Seconds, and the frames of latents without noise."""
    pipe, config = model.pipe, model.default.config
    fit = pipe.fit(model.default)
    latents = np.zeros((1, *pipe.latents_shape(config)), np.float32)
    pipe.decode_in(fit, latents[:, :, :_FEW])
    began = time.monotonic()
    (frames,) = pipe.decode_in(fit, latents)
    return time.monotonic() - began, frames


def _saving(frames: UInt8[np.ndarray, "frames height width 3"], fps: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        save_video(frames[:1], Path(folder) / "first.mp4", fps)
        began = time.monotonic()
        save_video(frames, Path(folder) / "video.mp4", fps)
        return time.monotonic() - began
