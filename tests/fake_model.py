"""A model of a few operations with the transformer's stages, whose every output is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from wanjax.caching import Plan
from wanjax.caching.method import Measure
from wanjax.models.transformer import Context, Time, WanTransformer
from wanjax.sampling.denoise import StepReport, denoise
from wanjax.sampling.programs import Programs
from wanjax.sampling.step import Expert, Settings, keeps_of
from wanjax.schedulers import SAMPLERS, respaced

SHAPE = (2, 2, 4, 6)  # of a video's latents
SIZE = int(np.prod(SHAPE))


class FakeModel(WanTransformer):
    """`v = gain * x + drive * t / 1000 + context`: a branch differs by its context alone."""

    def __init__(self, gain: float, drive: float):
        self.gain, self.drive = nnx.Param(jnp.array(gain)), nnx.Param(jnp.array(drive))

    def grid(self, shape):
        return shape[-3:]

    def embed(self, x, timestep, given_frames=0):
        return x.reshape(len(x), 1, -1), Time(timestep, timestep)

    def run_blocks(self, tokens, time, context, grid):
        return self.gain[...] * tokens + self.drive[...] * time.embedding / 1000 + context.text

    def head(self, tokens, time, grid):
        return tokens.reshape(-1, *SHAPE)


def run_fake(
    plan: Plan,
    *,
    gain: float = 0.3,
    drive: float = 0.4,
    contexts: Sequence[float | np.ndarray] = (0.0, 0.5),
    seed: int = 0,
    measures: Sequence[Measure] = (),
    programs: Programs | None = None,
    sampler: str = "unipc",
    on_step: Callable[[StepReport], None] | None = None,
) -> tuple[np.ndarray, Plan]:
    """Denoise one video with a fake model in each expert's place; samples [steps + 1, ...].

    `contexts` are what the branches add: conditional, unconditional.
    """
    graph, params = nnx.split(FakeModel(gain, drive))
    branches = len(plan.steps[0].actions)
    text = jnp.stack([jnp.broadcast_to(jnp.ravel(c), (1, SIZE)) for c in contexts[:branches]])
    start = jax.random.normal(jax.random.key(seed), (1, *SHAPE))
    samples = [np.array(start)]

    def collect(report: StepReport) -> None:
        samples.append(np.array(report.latents))
        if on_step is not None:
            on_step(report)

    schedule = plan.schedule
    table = SAMPLERS[sampler](schedule.num_steps, schedule.flow_shift)
    if any(step.passed for step in plan.steps):
        table = respaced(sampler, table, [not step.passed for step in plan.steps])
    settings = Settings(
        graph,
        "float32",
        tokens=(1, SIZE),
        keeps=plan.keeps.and_also(keeps_of(measures)),
        measures=tuple(measures),
    )
    _, executed = denoise(
        start,
        plan,
        table,
        [Expert(nnx.to_pure_dict(params), Context(text))] * 2,
        settings,
        Programs() if programs is None else programs,
        on_step=collect,
    )
    return np.stack(samples)[:, 0], executed
