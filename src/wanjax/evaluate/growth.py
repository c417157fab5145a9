"""What becomes of a single step's error until the end of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from wanjax.caching.actions import COMPUTE, REUSE_OUTPUT
from wanjax.caching.plan import make_plan
from wanjax.caching.resample import log_snr
from wanjax.caching.schedule import Schedule
from wanjax.media.prompts import Prompt
from wanjax.pipeline.pipeline import WanPipeline

Gram = Float[np.ndarray, "steps steps"]

PROMPTS = 4  # so many prompts, all in one batch
_PROBES = 6  # steps of each expert at which an error is made


def probed_steps(schedule: Schedule) -> list[int]:
    """Steps at which an error is made: evenly over each expert's, where the last may be reused."""
    found: list[int] = []
    for phase in schedule.phases:
        usable = [i for i in phase[1:] if i < schedule.num_steps - 1]
        places = np.linspace(0, len(usable) - 1, min(_PROBES, len(usable)))
        found += [usable[round(place)] for place in places] if usable else []
    return sorted(set(found))


def measure_growth(
    pipe: WanPipeline,
    prompts: Sequence[Prompt],
    seed: int,
    grams: Sequence[Gram],
    schedule: Schedule,
) -> Float[np.ndarray, " steps"]:
    """How many times an error of a step's output is larger at the end than it was there.

    An error is made by repeating the output of the step before, whose size follows from the
    inner products `grams` of each prompt's dense run; its effect is the distance of the final
    latents. Geometric mean over prompts; linear in log-SNR between the probed steps.
    """
    texts = [prompt.text for prompt in prompts]
    images = None if prompts[0].image is None else [str(prompt.image) for prompt in prompts]
    seeds = [seed] * len(prompts)

    def final(probe: int | None) -> Float[np.ndarray, "batch elements"]:
        actions = [
            ((REUSE_OUTPUT if i == probe else COMPUTE),) * schedule.num_branches(i)
            for i in range(schedule.num_steps)
        ]
        plan = make_plan(schedule, actions, "growth")
        video = pipe(texts, image=images, seed=seeds, cache=plan, output_type="latent")
        return video.latents.reshape(len(texts), -1).astype(np.float64)

    dense, found = final(None), {}
    for probe in probed_steps(schedule):
        moved = np.sqrt(np.mean((final(probe) - dense) ** 2, axis=1))
        size = schedule.sigmas[probe] - schedule.sigmas[probe + 1]
        made = np.array([size * _distance(gram, probe, probe - 1) for gram in grams])
        found[probe] = float(np.mean(np.log(moved / made)))
    return _between(found, schedule)


def _distance(gram: Gram, i: int, j: int) -> float:
    return float(np.sqrt(max(gram[i, i] - 2 * gram[i, j] + gram[j, j], 1e-12)))


def _between(found: Mapping[int, float], schedule: Schedule) -> Float[np.ndarray, " steps"]:
    """The growth of every step from the logarithms at some, of the same expert."""
    growth = np.ones(schedule.num_steps)
    x = log_snr(np.array(schedule.sigmas[:-1]))
    for phase in schedule.phases:
        known = [i for i in found if i in phase]
        if known:
            logs = np.interp(x[list(phase)], x[known], [found[i] for i in known])
            growth[list(phase)] = np.exp(logs)
    return growth
