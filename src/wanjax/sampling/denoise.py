"""The denoising loop: executes a plan, step by step, and knows no caching method by name."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import zip_longest
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from wanjax.caching.actions import Source
from wanjax.caching.plan import Plan, Step
from wanjax.caching.schedule import sampler_maps
from wanjax.parallel.hosts import fetch
from wanjax.parallel.sharding import place
from wanjax.sampling.condition import Condition, hold
from wanjax.sampling.probe import run_probe
from wanjax.sampling.programs import Programs
from wanjax.sampling.skipped import Kept, Skipped, empty_weights, run_skipped, weights_of_run
from wanjax.sampling.step import (
    LATENTS,
    Cache,
    Changes,
    Expert,
    Latents,
    SamplerState,
    Settings,
    StepInputs,
    cache_like,
    empty_cache,
    run_step,
)
from wanjax.schedulers import SamplerTable


@dataclass(frozen=True)
class StepReport:
    """What a step did, in time for whoever looks at it now.

    Steps that run as one share its `seconds` evenly, and what is between two of them is worked
    out where it is asked for. Arrays are given to the next step, which consumes them:
    `numpy.array(report.latents)` keeps them. `changes` are what the settings ask to measure; see
    `step.Measure`. `reach` gives the sampler's state after the step.
    """

    step: Step
    seconds: float
    changes: Changes
    reach: Callable[[], SamplerState]

    @property
    def latents(self) -> Latents:
        """The sample after the step."""
        return self._state.sample

    @property
    def denoised(self) -> Latents:
        """What the model takes the end to be: the sample before minus sigma times the output.

        Computed or estimated; of a step that is passed it is the last one's.
        """
        return self._state.denoised

    @cached_property
    def _state(self) -> SamplerState:
        return self.reach()


@runtime_checkable
class Experts(Protocol):
    """By number, such as a list of them. Each is let go before the next one is asked for."""

    def __getitem__(self, number: int, /) -> Expert: ...


def denoise(
    latents: Latents,
    plan: Plan,
    table: SamplerTable,
    experts: Experts,
    settings: Settings,
    programs: Programs,
    condition: Condition | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    meanwhile: Callable[[Step], None] | None = None,
) -> tuple[Latents, Plan]:
    """Denoise `latents` from pure noise as `plan` says; returns them and the plan as executed.

    `condition` is what a picture adds to the latents in every step. All programs are
    compiled, for the mesh of `programs`, before the first step runs. The executed plan differs
    from `plan` only where that leaves decisions to the run. `meanwhile(step)` is called while
    the device computes it.
    """
    latents = hold(latents, condition)
    zeros = [jnp.zeros_like(latents) for _ in range(3)]
    state = place(SamplerState(latents, *zeros), programs.mesh, *LATENTS)
    condition = place(condition, programs.mesh, *LATENTS)
    decisions = plan.decisions

    def arguments(step: Step, inputs: Any, state: SamplerState, cache: Cache) -> tuple[Any, ...]:
        return experts[step.expert], state, cache, inputs, condition

    def on_host(steps: Sequence[Step]) -> Any:
        if steps[0].estimated:
            return weights_of_run(steps, maps, settings.keeps)
        return step_inputs(steps[0], table, plan)

    compiled, probes = compile_steps(plan, table, experts, settings, programs, state, condition)
    maps = sampler_maps(table.corrector, table.predictor, table.sigmas)
    executed: list[Step] = []
    inputs = on_host(plan.runs[0])
    for steps, following in zip_longest(plan.runs, plan.runs[1:]):
        began = time.perf_counter()
        step = steps[0]
        if step.index in (0, plan.boundary_step):  # a cache is of one expert's making
            cache, read = Cache(), None  # gone before there are new ones
            cache = empty_cache(settings, len(step.actions), state.sample, programs.mesh)
            decided = None if decisions is None else decisions.start()
        if decisions is not None:
            read = partial(_read, probes[len(step.actions)], arguments(step, inputs, state, cache))
            step, decided = decisions.decide(decided, step, read)
            if step is not steps[0]:  # which would have computed
                steps, inputs = (step,), on_host((step,))
        reached: list[Callable[[], SamplerState]] = []  # the state after each but the last
        changes: Changes = {}
        if step.estimated:
            skipped = Skipped(compiled[step.kind], state, Kept.of(cache), maps, settings.keeps)
            reached = [partial(skipped.after, steps[:n]) for n in range(1, len(steps))]
            if settings.keeps.previous:
                cache = cache._replace(previous=state.sample)
            state = skipped.after(steps, inputs)
            del skipped  # and with it, once all is told, the state before
        elif not step.passed:
            state, cache, changes = compiled[step.kind](*arguments(step, inputs, state, cache))
        if meanwhile is not None:
            meanwhile(step)
        inputs = None if following is None else on_host(following)  # while the device computes
        state.sample.block_until_ready()
        executed += steps
        if on_step is not None:
            seconds = time.perf_counter() - began
            _tell(on_step, steps, [*reached, partial(_itself, state)], seconds, changes)
    return hold(state.sample, condition), plan.executed(executed, len(latents))


def compile_steps(
    plan: Plan,
    table: SamplerTable,
    experts: Experts,
    settings: Settings,
    programs: Programs,
    state: SamplerState,
    condition: Any,
) -> tuple[dict[tuple[Source, ...], Any], dict[int, Any]]:
    """A plan's step programs by kind of step, and its probes by number of branches.

    State and `condition` (a `Condition`) may be abstract (`jax.ShapeDtypeStruct`).
    """
    compiled, probes = {}, {}
    for step in plan.distinct_steps:
        cache = cache_like(settings, len(step.actions), state.sample, programs.mesh)
        if step.without_model:
            kept, weights = Kept.of(cache), empty_weights(settings.keeps)
            compiled[step.kind] = programs.get(run_skipped, (), (state, kept, weights))
            continue
        inputs = step_inputs(step, table, plan)
        example = (experts[step.expert], state, cache, inputs, condition)
        compiled[step.kind] = programs.get(run_step, (settings, step.kind), example)
        if plan.decisions is not None:
            probe = programs.get(run_probe, (settings, plan.decisions.probe), example)
            probes[len(step.actions)] = probe
    return compiled, probes


def step_inputs(step: Step, table: SamplerTable, plan: Plan) -> StepInputs:
    """The traced values of a step of `plan`, as float32."""
    previous = max(step.index - 1, 0)
    before = (table.timesteps[previous], table.sigmas[previous])
    weights = np.zeros((len(step.actions), plan.num_weights))
    for branch, action in enumerate(step.actions):
        weights[branch, : len(action.weights)] = action.weights
    correction = None
    if plan.corrects:
        correction = np.zeros((5, 1 + plan.keeps.outputs))
        for row, made in zip(correction, step.correction, strict=False):
            row[: len(made)] = made
    values = (step.timestep, step.sigma, before, step.guidance_scale, weights, correction)
    rows = (table.corrector[step.index], table.predictor[step.index])
    arrays: list[Any] = [
        None if value is None else np.asarray(value, np.float32) for value in (*values, *rows)
    ]
    return StepInputs(*arrays)


def _tell(
    on_step: Callable[[StepReport], None],
    steps: Sequence[Step],
    reached: Sequence[Callable[[], SamplerState]],
    seconds: float,
    changes: Changes,
) -> None:
    for step, reach in zip(steps, reached, strict=True):
        on_step(StepReport(step, seconds / len(steps), changes, reach))


def _itself(state: SamplerState) -> SamplerState:
    return state


def _read(probe: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """What the probe finds, as soon as the device has it."""
    return jax.tree.map(fetch, probe(*arguments))
