"""One denoising step as a compiled program: model, guidance, sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

from wanjax.caching.plan import COMPUTE, PREDICT, REUSE, REUSE_OUTPUT, Action
from wanjax.models.transformer import Context, Grid, KeysValues, Time, WanTransformer
from wanjax.parallel.sharding import activation_sharding, constrain
from wanjax.sampling.change import output_change, residual_change
from wanjax.sampling.predict import predict_unconditional

Latents = Float[Array, "batch z t h w"]
Outputs = Float[Array, "branches batch z t h w"]
Hidden = Float[Array, "branches batch tokens width"]

# Their axes on a mesh. A step returns what it takes where it took it, so that the next can too.
LATENTS = ("batch", None, None, None, None)
OUTPUTS = (None, *LATENTS)
HIDDEN = (None, "batch", "tokens", None)

# What a dense run can measure: how the residual changes, or the output (for a curve, or for
# sensitivities).
Measure = Literal["residual", "output"]


class SamplerState(NamedTuple):
    """The sample and what a multistep sampler remembers; see `schedulers.SamplerTable`."""

    sample: Latents  # x
    corrected: Latents  # x'
    denoised: Latents  # m'
    denoised_before: Latents  # m''


class Cache(NamedTuple):
    """What later steps may reuse; None for what the run's plan never does."""

    residual: Hidden | None  # of each branch's last computed step
    outputs: Outputs | None  # of the last step that computed all branches


class StepInputs(NamedTuple):
    """All that changes from step to step, traced, so that no step compiles anything."""

    timestep: Float[Array, ""]
    sigma: Float[Array, ""]
    before: Float[Array, "2"]  # timestep and sigma of the step before
    guidance_scale: Float[Array, ""]
    weights: Float[Array, "2"]  # of a prediction: low and high frequencies
    corrector: Float[Array, "5"]
    predictor: Float[Array, "3"]


class Expert(NamedTuple):
    """A transformer's parameters, and the run's context projected by it."""

    params: dict[str, Any]  # plain: an nnx.State takes long to flatten, at every step
    context: Context | KeysValues  # [branches * batch, ...]: conditional, then unconditional


@dataclass(frozen=True)
class Settings:
    """What the compiled programs depend on besides shapes."""

    graph: nnx.GraphDef[WanTransformer]
    dtype: str  # of the activations
    tokens: tuple[int, int]  # number and width of a video's tokens
    batch_guidance: bool = True  # both guidance branches at once, or one after the other
    keep_residual: bool = False
    keep_outputs: bool = False
    measure: Measure | None = None  # what a step tells besides the sample


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=(3, 4))
def run_step(
    settings: Settings,
    actions: tuple[Action, ...],
    expert: Expert,
    state: SamplerState,
    cache: Cache,
    inputs: StepInputs,
    condition: Float[Array, "batch c t h w"] | None,
) -> tuple[SamplerState, Cache, Float[Array, "... batch 3"] | None]:
    """Carry out `actions` and take the sampler's step.

    Also returns the new cache and, where `settings.measure` asks for it, how the residual or
    the output changed since the last step (see `sampling.change`).
    """
    change = None
    if actions[0] == REUSE_OUTPUT:
        assert cache.outputs is not None
        outputs = cache.outputs
    else:
        outputs, residual = _evaluate(settings, actions, expert, state, cache, inputs, condition)
        if settings.measure == "residual":
            assert residual is not None
            assert cache.residual is not None
            change = residual_change(residual, cache.residual)
        elif settings.measure == "output":
            change = _measure_output(
                settings, actions, expert, state, cache, inputs, condition, outputs
            )
        fresh = settings.keep_outputs and set(actions) == {COMPUTE}
        cache = Cache(residual, outputs if fresh else cache.outputs)
    velocity = _guide(outputs, inputs.guidance_scale)
    state = _sampler_step(state, velocity, inputs)
    return SamplerState(*(constrain(x, *LATENTS) for x in state)), _constrain_cache(cache), change


def empty_cache(
    settings: Settings, branches: int, sample: Latents, mesh: Mesh | None = None
) -> Cache:
    """Zeros in the cache's shapes, so that first and later steps run the same program."""

    def zeros(shape: tuple[int, ...], dtype: Any, axes: tuple[str | None, ...]) -> Array:
        return jnp.zeros(shape, dtype, device=activation_sharding(axes, shape, mesh))

    residual = outputs = None
    if settings.keep_residual:
        residual = zeros((branches, len(sample), *settings.tokens), settings.dtype, HIDDEN)
    if settings.keep_outputs:
        outputs = zeros((branches, *sample.shape), jnp.float32, OUTPUTS)
    return Cache(residual, outputs)


def _constrain_cache(cache: Cache) -> Cache:
    residual, outputs = cache
    return Cache(
        None if residual is None else constrain(residual, *HIDDEN),
        None if outputs is None else constrain(outputs, *OUTPUTS),
    )


def _evaluate(
    settings: Settings,
    actions: tuple[Action, ...],
    expert: Expert,
    state: SamplerState,
    cache: Cache,
    inputs: StepInputs,
    condition: Float[Array, "batch c t h w"] | None,
) -> tuple[Outputs, Hidden | None]:
    """Model output of each branch, and the residuals that were computed or reused for it."""
    model = nnx.merge(settings.graph, expert.params)
    x = _model_input(state.sample, condition, settings.dtype)
    grid = model.grid(x.shape)
    tokens, time = model.embed(x, inputs.timestep[None])
    evaluated = [b for b, action in enumerate(actions) if action != PREDICT]
    hidden, residual = _run_branches(
        settings, model, tokens, time, expert.context, grid, actions, cache.residual
    )
    outputs = model.head(hidden.reshape(-1, *hidden.shape[2:]), time, grid).astype(jnp.float32)
    outputs = outputs.reshape(len(evaluated), -1, *outputs.shape[1:])
    if PREDICT in actions:
        assert cache.outputs is not None
        unconditional = predict_unconditional(outputs[0], cache.outputs, inputs.weights)
        outputs = jnp.stack([outputs[0], unconditional])
    return outputs, residual


def _measure_output(
    settings: Settings,
    actions: tuple[Action, ...],
    expert: Expert,
    state: SamplerState,
    cache: Cache,
    inputs: StepInputs,
    condition: Float[Array, "batch c t h w"] | None,
    outputs: Outputs,
) -> Float[Array, "batch 3"]:
    """How the guided output changed with the sample and with the time since the step before.

    Costs an evaluation: the sample of this step at the timestep of the one before.
    """
    assert cache.outputs is not None
    timestep_before, sigma_before = inputs.before
    mixed = inputs._replace(timestep=timestep_before)
    between, _ = _evaluate(settings, actions, expert, state, cache, mixed, condition)
    before = _guide(cache.outputs, inputs.guidance_scale)
    between, now = (_guide(x, inputs.guidance_scale) for x in (between, outputs))
    sample_before = state.denoised + sigma_before * before  # undoes what `_sampler_step` did
    return output_change(before, between, now, sample_before, state.sample)


def _model_input(sample: Latents, condition: Array | None, dtype: str) -> Array:
    x = sample if condition is None else jnp.concatenate([sample, condition], axis=1)
    return x.astype(dtype)


def _run_branches(
    settings: Settings,
    model: WanTransformer,
    tokens: Float[Array, "batch tokens width"],
    time: Time,
    context: Context | KeysValues,
    grid: Grid,
    actions: tuple[Action, ...],
    residual: Hidden | None,
) -> tuple[Hidden, Hidden | None]:
    """Tokens after the blocks, computed or with the cached residual, and the new residual."""
    hidden: dict[int, Array] = {}
    kept: dict[int, Array] = {} if residual is None else dict(enumerate(residual))
    computed = [b for b, action in enumerate(actions) if action == COMPUTE]
    if computed:
        out = _run_blocks(settings, model, tokens, time, context, grid, computed, len(actions))
        hidden = dict(zip(computed, out, strict=True))
    for b, action in enumerate(actions):
        if action == REUSE:
            hidden[b] = tokens + kept[b]
        elif action == COMPUTE and settings.keep_residual:
            # only here: a reused residual taken from the sum again would gather rounding
            kept[b] = hidden[b] - tokens
    residual = jnp.stack([kept[b] for b in sorted(kept)]) if kept else None
    return jnp.stack([hidden[b] for b in sorted(hidden)]), residual


def _run_blocks(
    settings: Settings,
    model: WanTransformer,
    tokens: Float[Array, "batch tokens width"],
    time: Time,
    context: Context | KeysValues,
    grid: Grid,
    branches: Sequence[int],
    total: int,
) -> Hidden:
    """Run the blocks for some of the `total` branches that `context` has."""
    if not settings.batch_guidance:
        return jax.lax.map(
            lambda b: model.run_blocks(tokens, time, context.branch(b, total), grid),
            np.array(branches),
        )
    if len(branches) < total:
        (branch,) = branches
        context = context.branch(branch, total)
    repeated = jnp.concatenate([tokens] * len(branches))
    out = model.run_blocks(repeated, time, context, grid)
    return out.reshape(len(branches), -1, *out.shape[1:])


def _guide(outputs: Outputs, scale: Float[Array, ""]) -> Latents:
    """Classifier-free guidance (arXiv 2207.12598): away from the unconditional output."""
    if outputs.shape[0] == 1:
        return outputs[0]
    conditional, unconditional = outputs
    return unconditional + scale * (conditional - unconditional)


def _sampler_step(state: SamplerState, velocity: Latents, inputs: StepInputs) -> SamplerState:
    """The sampler's linear combination; see `schedulers.SamplerTable`."""
    denoised = state.sample - inputs.sigma * velocity
    history = (state.sample, state.corrected, denoised, state.denoised, state.denoised_before)
    corrected = _combine(inputs.corrector, history)
    sample = _combine(inputs.predictor, (corrected, denoised, state.denoised))
    return SamplerState(sample, corrected, denoised, state.denoised)


def _combine(weights: Float[Array, " n"], arrays: Sequence[Latents]) -> Latents:
    return sum((w * x for w, x in zip(weights, arrays, strict=True)), jnp.zeros_like(arrays[0]))
