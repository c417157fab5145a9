"""From a configuration to the steps of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wanjax.caching import Schedule
from wanjax.config.keys import Config
from wanjax.config.resolve import resolve
from wanjax.schedulers import sampler_table
from wanjax.schedulers.flow import NUM_TRAIN_TIMESTEPS


def make_schedule(
    num_inference_steps: int,
    flow_shift: float,
    guidance_scale: float,
    guidance_scale_low: float | None = None,
    boundary_ratio: float | None = None,
    sampler: str = "unipc",
    timesteps: Sequence[float] | None = None,
) -> Schedule:
    """The steps of a run before caching.

    With a `boundary_ratio` there are two experts: the high-noise one runs while
    timestep >= boundary_ratio * 1000, under `guidance_scale`; the low-noise one from then on,
    under `guidance_scale_low` (left out: `guidance_scale`). `timesteps` as in `sampler_table`.
    """
    table = sampler_table(sampler, num_inference_steps, flow_shift, timesteps)
    low = [
        boundary_ratio is not None and bool(t < boundary_ratio * NUM_TRAIN_TIMESTEPS)
        for t in table.timesteps
    ]
    if guidance_scale_low is None:
        guidance_scale_low = guidance_scale
    return Schedule(
        timesteps=tuple(map(float, table.timesteps)),
        sigmas=tuple(map(float, table.sigmas)),
        experts=tuple(map(int, low)),
        guidance_scales=tuple(guidance_scale_low if is_low else guidance_scale for is_low in low),
        num_experts=1 if boundary_ratio is None else 2,
        flow_shift=flow_shift,
        boundary_ratio=boundary_ratio,
        corrector=tuple(map(tuple, table.corrector.tolist())),
        predictor=tuple(map(tuple, table.predictor.tolist())),
    )


def schedule_for(config: Config) -> Schedule:
    """The steps of a run before caching."""
    assert config.guidance_scale_high is not None  # spelt out by `config.resolve`
    return make_schedule(
        config.num_inference_steps,
        config.flow_shift,
        config.guidance_scale_high,
        config.guidance_scale_low,
        config.boundary_ratio,
        config.sampler,
        config.timesteps,
    )


def schedule(name: str = "tiny-t2v", **values: Any) -> Schedule:
    """The steps of a preset's or folder's runs, without loading a model.

    `values` are keys of the configuration, such as `num_inference_steps` or `flow_shift`. Raises
    `UsageError` for what cannot be.
    """
    arguments = [f"model={name}"] if "/" in name else [name]
    return schedule_for(resolve(arguments, "show", values))
