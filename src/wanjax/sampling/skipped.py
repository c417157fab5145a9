"""Steps that do not run the model: a run of them is one linear map, and one program.

Such a step forecasts the guided output from those of the last computed steps, and the sampler is
linear in it. So what several of them in a row make of the state is one small matrix, which
follows from the plan on the host, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from wanjax.caching.actions import Keeps
from wanjax.caching.plan import Step
from wanjax.parallel.sharding import constrain
from wanjax.sampling.step import LATENTS, Cache, SamplerState, combine


class Kept(NamedTuple):
    """What estimates of the guided output go by; see `step.Cache`."""

    outputs: Float[Array, "n batch z t h w"] | None
    samples: Float[Array, "m batch z t h w"] | None

    @classmethod
    def of(cls, cache: Cache) -> Kept:
        return cls(cache.outputs, cache.samples)


@dataclass(frozen=True)
class Skipped:
    """Steps without the model, from a state on. `program` is that of `run_skipped`."""

    program: Callable[..., SamplerState]
    state: SamplerState
    kept: Kept
    maps: Float[np.ndarray, "steps 4 5"]  # the sampler's
    keeps: Keeps

    def after(
        self, steps: Sequence[Step], weights: Float[np.ndarray, "4 inputs"] | None = None
    ) -> SamplerState:
        """The state after the first steps, or all of them; `weights` are theirs, if known."""
        if weights is None:
            weights = weights_of_run(steps, self.maps, self.keeps)
        return self.program(self.state, self.kept, weights)


@jax.jit
def run_skipped(state: SamplerState, kept: Kept, weights: Float[Array, "4 inputs"]) -> SamplerState:
    """The state after steps without the model; see `weights_of_run`.

    Given frames (see `condition.FirstFrames`) stay where they are: the outputs kept are zero there.
    """
    arrays: list[Any] = [*state]
    for history in kept:
        if history is not None:
            arrays.extend(history)
    return SamplerState(*(constrain(combine(row, arrays), *LATENTS) for row in weights))


def empty_weights(keeps: Keeps) -> Float[np.ndarray, "4 inputs"]:
    """Those that leave the state as it is."""
    return np.eye(4, 4 + keeps.outputs + keeps.samples, dtype=np.float32)


def weights_of_run(
    steps: Sequence[Step], maps: Float[np.ndarray, "all 4 5"], keeps: Keeps
) -> Float[np.ndarray, "4 inputs"]:
    """How (x, x', m', m'') after `steps` follow from those before and the kept outputs, samples.

    All of `steps` estimate their output, as `plan.Action` says, from the same history. `maps`
    are the sampler's, see `schedule.sampler_maps`.
    """
    state = np.eye(4, 4 + keeps.outputs + keeps.samples)
    for step in steps:
        weights = step.actions[0].weights
        velocity = np.zeros_like(state[0])
        velocity[4 : 4 + len(weights)] = weights
        if step.kind[0] == "offset":
            velocity += state[0]
            first = 4 + keeps.outputs
            velocity[first : first + len(weights)] -= weights
        state = maps[step.index] @ np.vstack([state, velocity])
    return state.astype(np.float32)
