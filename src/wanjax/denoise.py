"""The denoising loop: executes a plan, step by step, and knows no caching method by name."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from wanjax.caching.plan import COMPUTE, REUSE, Action, Plan, Step
from wanjax.models.transformer import Context, Grid, Time, WanTransformer
from wanjax.programs import Programs
from wanjax.schedulers import SamplerTable

Latents = Float[Array, "batch z t h w"]


class SamplerState(NamedTuple):
    """The sample and what a multistep sampler remembers; see `schedulers.SamplerTable`."""

    sample: Latents  # x
    corrected: Latents  # x'
    denoised: Latents  # m'
    denoised_before: Latents  # m''


class StepInputs(NamedTuple):
    """All that changes from step to step, traced, so that no step compiles anything."""

    timestep: Float[Array, ""]
    sigma: Float[Array, ""]
    guidance_scale: Float[Array, ""]
    corrector: Float[Array, "5"]
    predictor: Float[Array, "3"]


class Expert(NamedTuple):
    """A transformer's parameters, and the run's context projected by it."""

    params: nnx.State
    context: Context  # [branches * batch, ...]: conditional, then unconditional


@dataclass(frozen=True)
class Settings:
    """What the compiled programs depend on besides shapes."""

    graph: nnx.GraphDef[WanTransformer]
    dtype: str  # of the activations
    batch_guidance: bool  # both guidance branches at once, or one after the other
    keep_residual: bool  # whether any step reuses one


def denoise(
    latents: Latents,
    plan: Plan,
    table: SamplerTable,
    experts: Sequence[Expert | None],
    settings: Settings,
    programs: Programs,
    condition: Float[Array, "batch c t h w"] | None = None,
    on_step: Callable[[Step, Latents, float], None] | None = None,
) -> Latents:
    """Denoise `latents` from pure noise as `plan` says.

    `condition` is concatenated to the latents' channels in every step. `on_step` is called
    after each step with the step, the sample and the step's seconds. All programs are
    compiled before the first step runs.
    """
    state = SamplerState(latents, *(jnp.zeros_like(latents) for _ in range(3)))
    compiled = {}
    for step in plan.steps:
        if step.actions not in compiled:
            residual = _no_residual(settings, experts[step.expert], state, condition, step)
            args = (experts[step.expert], state, residual, _inputs(step, table), condition)
            compiled[step.actions] = programs.get(run_step, (settings, step.actions), args)
    for step in plan.steps:
        began = time.perf_counter()
        if step.index in (0, plan.boundary_step):  # a residual is of one expert's making
            residual = _no_residual(settings, experts[step.expert], state, condition, step)
        state, residual = compiled[step.actions](
            experts[step.expert], state, residual, _inputs(step, table), condition
        )
        state.sample.block_until_ready()
        if on_step is not None:
            on_step(step, state.sample, time.perf_counter() - began)
    return state.sample


def _inputs(step: Step, table: SamplerTable) -> StepInputs:
    values = (step.timestep, step.sigma, step.guidance_scale)
    rows = (table.corrector[step.index], table.predictor[step.index])
    return StepInputs(*(np.asarray(value, np.float32) for value in (*values, *rows)))


def _no_residual(
    settings: Settings,
    expert: Expert,
    state: SamplerState,
    condition: Array | None,
    step: Step,
) -> Float[Array, "branches batch tokens width"] | None:
    """Zeros in the residual's shape, so that first and later steps run the same program."""
    if not settings.keep_residual:
        return None
    model = nnx.merge(settings.graph, expert.params)
    x = _model_input(state.sample, condition, settings.dtype)
    tokens, _ = jax.eval_shape(model.embed, x, jnp.zeros((1,)))
    return jnp.zeros((len(step.actions), *tokens.shape), tokens.dtype)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=(3, 4))
def run_step(
    settings: Settings,
    actions: tuple[Action, ...],
    expert: Expert,
    state: SamplerState,
    residual: Float[Array, "branches batch tokens width"] | None,
    inputs: StepInputs,
    condition: Float[Array, "batch c t h w"] | None,
) -> tuple[SamplerState, Float[Array, "branches batch tokens width"] | None]:
    """One step: model output of each branch, guidance, sampler. Returns the new residual too."""
    model = nnx.merge(settings.graph, expert.params)
    x = _model_input(state.sample, condition, settings.dtype)
    grid = model.grid(x.shape)
    tokens, embedded = model.embed(x, inputs.timestep[None])
    hidden, residual = _run_branches(
        settings, model, tokens, embedded, expert.context, grid, actions, residual
    )
    branches = model.head(hidden.reshape(-1, *hidden.shape[2:]), embedded, grid)
    branches = branches.reshape(*hidden.shape[:2], *branches.shape[1:]).astype(jnp.float32)
    return sampler_step(state, _guide(branches, inputs.guidance_scale), inputs), residual


def _model_input(sample: Latents, condition: Array | None, dtype: str) -> Array:
    x = sample if condition is None else jnp.concatenate([sample, condition], axis=1)
    return x.astype(dtype)


def _run_branches(
    settings: Settings,
    model: WanTransformer,
    tokens: Float[Array, "batch tokens width"],
    embedded: Time,
    context: Context,
    grid: Grid,
    actions: tuple[Action, ...],
    residual: Float[Array, "branches batch tokens width"] | None,
) -> tuple[
    Float[Array, "branches batch tokens width"],
    Float[Array, "branches batch tokens width"] | None,
]:
    """Tokens after the blocks, computed or with the cached residual, and the new residual."""
    computed = [b for b, action in enumerate(actions) if action == COMPUTE]
    hidden = {b: tokens + residual[b] for b, action in enumerate(actions) if action == REUSE}
    if computed:
        split = jax.tree.map(lambda c: c.reshape(len(actions), -1, *c.shape[1:]), context)
        chosen = jax.tree.map(lambda c: c[np.array(computed)], split)
        out = _run_blocks(settings, model, tokens, embedded, chosen, grid)
        hidden |= dict(zip(computed, out, strict=True))
    if settings.keep_residual:
        # a reused residual stays as it is: taken from the sum again, it would gather rounding
        kept = [hidden[b] - tokens if b in computed else residual[b] for b in range(len(actions))]
        residual = jnp.stack(kept)
    return jnp.stack([hidden[b] for b in range(len(actions))]), residual


def _run_blocks(
    settings: Settings,
    model: WanTransformer,
    tokens: Float[Array, "batch tokens width"],
    embedded: Time,
    context: Context,  # [branches, batch, ...]
    grid: Grid,
) -> Float[Array, "branches batch tokens width"]:
    if not settings.batch_guidance:
        return jax.lax.map(lambda c: model.run_blocks(tokens, embedded, c, grid), context)
    branches = context.text.shape[0]
    together = jax.tree.map(lambda c: c.reshape(-1, *c.shape[2:]), context)
    out = model.run_blocks(jnp.concatenate([tokens] * branches), embedded, together, grid)
    return out.reshape(branches, -1, *out.shape[1:])


def _guide(
    branches: Float[Array, "branches batch z t h w"], scale: Float[Array, ""]
) -> Float[Array, "batch z t h w"]:
    """Classifier-free guidance (arXiv 2207.12598): away from the unconditional output."""
    if branches.shape[0] == 1:
        return branches[0]
    conditional, unconditional = branches
    return unconditional + scale * (conditional - unconditional)


def sampler_step(state: SamplerState, velocity: Latents, inputs: StepInputs) -> SamplerState:
    """The sampler's linear combination; see `schedulers.SamplerTable`."""
    c, p = inputs.corrector, inputs.predictor
    denoised = state.sample - inputs.sigma * velocity
    history = (state.sample, state.corrected, denoised, state.denoised, state.denoised_before)
    corrected = _combine(c, history)
    sample = _combine(p, (corrected, denoised, state.denoised))
    return SamplerState(sample, corrected, denoised, state.denoised)


def _combine(weights: Float[Array, "n"], arrays: Sequence[Latents]) -> Latents:
    return sum((w * x for w, x in zip(weights, arrays, strict=True)), jnp.zeros_like(arrays[0]))
