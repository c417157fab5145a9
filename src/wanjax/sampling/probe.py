"""What a method that decides during a run may look at, computed on the device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from wanjax.sampling.condition import Condition, given_frames, model_input
from wanjax.sampling.step import (
    Cache,
    Expert,
    Latents,
    SamplerState,
    Settings,
    StepInputs,
)


class Sight:
    """The values in sight of a probe, before a step: arrays of one batch of videos.

    `samples`, `outputs` (guided) and `branches` (before guidance: conditional, unconditional)
    are those of the last computed steps, newest first, `previous` is the sample of the step
    before; as many as `plan.Decisions.keeps` asks for. Zeros stand for steps that the expert
    has not made yet.
    """

    def __init__(
        self,
        settings: Settings,
        expert: Expert,
        state: SamplerState,
        cache: Cache,
        inputs: StepInputs,
        condition: Condition | None,
    ):
        self.sample: Latents = state.sample
        self.previous = cache.previous
        self.samples, self.outputs, self.branches = cache.samples, cache.outputs, cache.branches
        self._settings, self._expert = settings, expert
        self._inputs, self._condition = inputs, condition

    def modulated_input(self) -> Float[Array, "batch tokens width"]:
        """The first block's modulated input, which TeaCache goes by (arXiv 2411.19108)."""
        return self._modulated(self.sample, self._inputs.timestep)

    def modulated_input_before(self) -> Float[Array, "batch tokens width"]:
        """The same of the step before."""
        assert self.previous is not None
        return self._modulated(self.previous, self._inputs.before[0])

    def _modulated(
        self, sample: Latents, timestep: Float[Array, ""]
    ) -> Float[Array, "batch tokens width"]:
        model = nnx.merge(self._settings.graph, self._expert.params)
        x = model_input(sample, self._condition, self._settings.dtype)
        tokens, time = model.embed(x, timestep[None], given_frames(self._condition))
        return model.modulated_input(tokens, time)


@partial(jax.jit, static_argnums=(0, 1))
def run_probe(
    settings: Settings,
    probe: Callable[[Sight], Any],
    expert: Expert,
    state: SamplerState,
    cache: Cache,
    inputs: StepInputs,
    condition: Condition | None,
) -> Any:
    """What `probe` makes of the values in sight."""
    return probe(Sight(settings, expert, state, cache, inputs, condition))
