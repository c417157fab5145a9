"""One denoising step as a compiled program: model, guidance, sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

from wanjax.caching.actions import Keeps, Source
from wanjax.caching.method import Measure
from wanjax.models.configs import Grid
from wanjax.models.transformer import Context, KeysValues, Time, WanTransformer
from wanjax.parallel.sharding import activation_sharding, axis_size, constrain
from wanjax.sampling.change import output_change, residual_change, sampled_elements
from wanjax.sampling.condition import Condition, given_frames, model_input, still
from wanjax.sampling.predict import predict_unconditional

Latents = Float[Array, "batch z t h w"]
Outputs = Float[Array, "branches batch z t h w"]
Hidden = Float[Array, "rows tokens width"]  # a branch's videos after another's

# Their axes on a mesh. A step returns what it takes where it took it, so that the next can too.
# The devices along `data` share rows: videos or, of a single one, its guidance branches.
LATENTS = ("videos", None, None, None, None)
OUTPUTS = (None, *LATENTS)
HIDDEN = ("batch", "tokens", None)

CACHE_AXES = (  # of the fields of `Cache`
    (None, *HIDDEN),
    (None, *LATENTS),
    (None, *LATENTS),
    (None, *OUTPUTS),
    LATENTS,
)

# What a step measures, by what.
Changes = dict[Measure, Float[Array, "..."]]


class SamplerState(NamedTuple):
    """The sample and what a multistep sampler remembers; see `schedulers.SamplerTable`."""

    sample: Latents  # x
    corrected: Latents  # x'
    denoised: Latents  # m'
    denoised_before: Latents  # m''


class Cache(NamedTuple):
    """What later steps may go by, newest first; None for what the run's plan never looks at."""

    residuals: Float[Array, "n rows tokens width"] | None = None
    outputs: Float[Array, "n batch z t h w"] | None = None  # guided
    samples: Float[Array, "n batch z t h w"] | None = None
    branches: Float[Array, "n branches batch z t h w"] | None = None  # before guidance
    previous: Latents | None = None


class StepInputs(NamedTuple):
    """All that changes from step to step, traced, so that no step compiles anything."""

    timestep: Float[Array, ""]
    sigma: Float[Array, ""]
    before: Float[Array, "2"]  # timestep and sigma of the step before
    guidance_scale: Float[Array, ""]
    weights: Float[Array, "branches most"]  # of estimates
    correction: Float[Array, "5 outputs"] | None  # of what was estimated; None: in no step
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
    keeps: Keeps = Keeps()
    measures: tuple[Measure, ...] = ()  # what a step tells besides the sample


def keeps_of(measures: Sequence[Measure]) -> Keeps:
    """What measuring changes from the step before needs to be kept."""
    return Keeps(residuals=int("residual" in measures), outputs=int("output" in measures))


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=(3, 4))
def run_step(
    settings: Settings,
    kind: tuple[Source, ...],
    expert: Expert,
    state: SamplerState,
    cache: Cache,
    inputs: StepInputs,
    condition: Condition | None,
) -> tuple[SamplerState, Cache, Changes]:
    """Carry out the actions of a `kind` of step (see `plan.Action`) and take the sampler's step.

    For steps that run the model; `skipped` has the others. Also returns the new cache and what
    `settings.measures` asks for.
    """
    changes: Changes = {}
    seen = (settings, kind, expert, state, cache, inputs, condition)
    outputs, residuals = evaluate(*seen)
    velocity = _guide(outputs, inputs.guidance_scale)
    for what in settings.measures:
        changes[what] = _measure(what, *seen, residuals, velocity)
    if inputs.correction is not None:
        state, velocity = _corrected(state, inputs.correction, velocity, cache)
    cache = _remember(cache, kind, state.sample, residuals, outputs, velocity)
    if settings.keeps.previous:
        cache = cache._replace(previous=state.sample)
    state = _sampler_step(state, velocity, inputs)
    # where they came from, so that the next step takes them as they are
    state = SamplerState(*(constrain(x, *LATENTS) for x in state))
    kept = zip(cache, CACHE_AXES, strict=True)
    cache = Cache(*(None if x is None else constrain(x, *axes) for x, axes in kept))
    return state, cache, changes


def empty_cache(
    settings: Settings, branches: int, sample: Latents, mesh: Mesh | None = None
) -> Cache:
    """Zeros in the cache's shapes, so that first and later steps run the same program."""
    like = cache_like(settings, branches, sample, mesh)
    cache: Cache = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype, device=x.sharding), like)
    return cache


def cache_like(
    settings: Settings,
    branches: int,
    sample: Latents | jax.ShapeDtypeStruct,
    mesh: Mesh | None = None,
) -> Cache:
    """The cache of steps with so many guidance branches, as `jax.ShapeDtypeStruct`."""
    size = tuple(sample.shape)
    shapes = ((branches * size[0], *settings.tokens), size, size, (branches, *size), size)
    found: dict[str, Any] = {}
    for name, shape, count, axes in zip(
        Cache._fields, shapes, settings.keeps, CACHE_AXES, strict=True
    ):
        if name != "previous":
            shape = (count, *shape)
        dtype = settings.dtype if name == "residuals" else jnp.float32
        sharding = activation_sharding(axes, shape, mesh)
        found[name] = jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) if count else None
    return Cache(**found)


def _remember(
    cache: Cache,
    kind: tuple[Source, ...],
    sample: Latents,
    residuals: Hidden | None,
    outputs: Outputs,
    velocity: Latents,
) -> Cache:
    """The cache with what this step computed; outputs count where all branches computed."""
    if cache.residuals is not None and residuals is not None and "blocks" in kind:
        kept = jnp.concatenate([residuals[None], cache.residuals[:-1]])
        for branch, source in enumerate(kind):
            if source != "blocks":  # its history stays as it is
                rows = _rows(branch, kept.shape[1] // len(kind))
                kept = kept.at[:, rows].set(cache.residuals[:, rows])
        cache = cache._replace(residuals=kept)
    if set(kind) != {"blocks"}:
        return cache
    return cache._replace(
        outputs=_push(cache.outputs, velocity),
        samples=_push(cache.samples, sample),
        branches=_push(cache.branches, outputs),
    )


def _push(history: Array | None, newest: Array | None) -> Array | None:
    """`newest` before what `history` has, whose oldest drops out."""
    if history is None or newest is None:
        return history
    return jnp.concatenate([newest[None], history[:-1]])


def _corrected(
    state: SamplerState,
    correction: Float[Array, "5 outputs"],
    velocity: Latents,
    cache: Cache,
) -> tuple[SamplerState, Latents]:
    """State and output with earlier estimates made good; see `plan.Step.correction`."""
    outputs = velocity[None]
    if cache.outputs is not None:
        outputs = jnp.concatenate([outputs, cache.outputs])
    # all rows at once: one by one they took a thirtieth of a small model's step
    moved = jnp.tensordot(correction, outputs, axes=1, precision="highest")
    *corrected, velocity = (x + dx for x, dx in zip((*state, velocity), moved, strict=True))
    return SamplerState(*corrected), velocity


def evaluate(
    settings: Settings,
    kind: tuple[Source, ...],
    expert: Expert,
    state: SamplerState,
    cache: Cache,
    inputs: StepInputs,
    condition: Condition | None,
) -> tuple[Outputs, Hidden | None]:
    """Model output of each branch, and the residuals that were computed for it."""
    model = nnx.merge(settings.graph, expert.params)
    x = model_input(state.sample, condition, settings.dtype)
    grid = model.grid(x.shape)
    evaluated = [b for b, source in enumerate(kind) if source != "branch"]
    if axis_size("data") > 1:  # each device embeds its own rows: tokens would have to travel
        x = constrain(jnp.concatenate([x] * len(evaluated)), "batch", *LATENTS[1:])
    tokens, time = model.embed(x, inputs.timestep[None], given_frames(condition))
    hidden, residuals = _run_branches(
        settings,
        model,
        tokens,
        time,
        expert.context,
        grid,
        len(state.sample),
        kind,
        cache.residuals,
        inputs.weights,
    )
    outputs = model.head(hidden, time, grid).astype(jnp.float32)
    outputs = still(outputs.reshape(len(evaluated), -1, *outputs.shape[1:]), condition)
    if "branch" in kind:
        assert cache.branches is not None
        unconditional = predict_unconditional(outputs[0], cache.branches[0], inputs.weights[1])
        outputs = jnp.stack([outputs[0], unconditional])
    return outputs, residuals


def _measure(
    what: Measure,
    settings: Settings,
    kind: tuple[Source, ...],
    expert: Expert,
    state: SamplerState,
    cache: Cache,
    inputs: StepInputs,
    condition: Condition | None,
    residuals: Hidden | None,
    velocity: Latents,
) -> Float[Array, "..."]:
    """One of `settings.measures`.

    The output's change costs an evaluation: the sample of this step at the timestep of the one
    before, which tells the sample's part from the time's.
    """
    if what == "velocity":
        return sampled_elements(velocity)
    if what == "residual":
        assert residuals is not None
        assert cache.residuals is not None
        changed = residual_change(residuals, cache.residuals[0])
        return changed.reshape(len(kind), -1, changed.shape[-1])
    assert cache.outputs is not None
    timestep_before, sigma_before = inputs.before
    mixed = inputs._replace(timestep=timestep_before)
    between, _ = evaluate(settings, kind, expert, state, cache, mixed, condition)
    before = cache.outputs[0]
    sample_before = state.denoised + sigma_before * before  # undoes what `_sampler_step` did
    return output_change(
        before, _guide(between, inputs.guidance_scale), velocity, sample_before, state.sample
    )


def _run_branches(
    settings: Settings,
    model: WanTransformer,
    tokens: Float[Array, "some tokens width"],
    time: Time,
    context: Context | KeysValues,
    grid: Grid,
    batch: int,
    kind: tuple[Source, ...],
    history: Float[Array, "n rows tokens width"] | None,
    weights: Float[Array, "branches most"],
) -> tuple[Float[Array, "evaluated tokens width"], Hidden | None]:
    """Tokens after the blocks, computed or by earlier residuals, and the residuals if kept.

    `tokens` are those of `batch` videos, or of these in each branch that is evaluated. Where all
    branches do the same, none is taken out of the others: they may lie on other devices.
    """
    computed = [b for b, source in enumerate(kind) if source == "blocks"]
    out: Array | None = None
    if computed:
        out = _run_blocks(settings, model, tokens, time, context, grid, batch, computed, len(kind))
    if len(computed) == len(kind):
        assert out is not None
        return out, None if history is None else _add(out, -tokens)
    if set(kind) == {"residual"}:
        assert history is not None
        by_row = jnp.repeat(weights.T, batch, axis=1)[..., None, None]
        return _add(combine(by_row, history).astype(tokens.dtype), tokens), history[0]
    hidden: dict[int, Array] = {}
    kept: dict[int, Array] = {}
    for number, b in enumerate(b for b, source in enumerate(kind) if source != "branch"):
        own = tokens if len(tokens) == batch else tokens[_rows(number, batch)]
        before = None if history is None else history[:, _rows(b, batch)]
        if kind[b] == "residual":
            assert before is not None
            hidden[b] = own + combine(weights[b], before).astype(tokens.dtype)
            kept[b] = before[0]
        else:
            assert out is not None
            hidden[b] = out[_rows(computed.index(b), batch)]
            kept[b] = hidden[b] - own
    if history is None:
        return jnp.concatenate(list(hidden.values())), None
    for b in set(range(len(kind))) - set(kept):
        kept[b] = history[0, _rows(b, batch)]
    residuals = jnp.concatenate([kept[b] for b in sorted(kept)])
    return jnp.concatenate(list(hidden.values())), residuals


def _run_blocks(
    settings: Settings,
    model: WanTransformer,
    tokens: Float[Array, "some tokens width"],
    time: Time,
    context: Context | KeysValues,
    grid: Grid,
    batch: int,
    branches: Sequence[int],
    total: int,
) -> Hidden:
    """Run the blocks for some of the `total` branches that `context` has."""
    if not settings.batch_guidance:
        apart: Hidden = jax.lax.map(
            lambda b: model.run_blocks(tokens[:batch], time, context.branch(b, total), grid),
            np.array(branches),
        )
        return apart.reshape(-1, *apart.shape[2:])
    if len(branches) < total:
        (branch,) = branches
        return model.run_blocks(tokens[:batch], time, context.branch(branch, total), grid)
    rows = tokens if len(tokens) > batch else jnp.concatenate([tokens] * total)
    return model.run_blocks(rows, time, context, grid)


def _rows(branch: int, batch: int) -> slice:
    """Those of one branch."""
    return slice(branch * batch, (branch + 1) * batch)


def _add(
    rows: Float[Array, "rows tokens width"], tokens: Float[Array, "some tokens width"]
) -> Float[Array, "rows tokens width"]:
    """The sum with the tokens of each row, or with those that all branches share."""
    if len(rows) == len(tokens):
        return rows + tokens
    added: Array = rows.reshape(-1, *tokens.shape) + tokens
    return added.reshape(rows.shape)


def _guide(outputs: Outputs, scale: Float[Array, ""]) -> Latents:
    """Classifier-free guidance (arXiv 2207.12598): away from the unconditional output."""
    if outputs.shape[0] == 1:
        return outputs[0]
    conditional, unconditional = outputs
    guided: Latents = unconditional + scale * (conditional - unconditional)
    return guided


def _sampler_step(state: SamplerState, velocity: Latents, inputs: StepInputs) -> SamplerState:
    """The sampler's linear combination; see `schedulers.SamplerTable`."""
    denoised = state.sample - inputs.sigma * velocity
    history = (state.sample, state.corrected, denoised, state.denoised, state.denoised_before)
    corrected = combine(inputs.corrector, history)
    sample = combine(inputs.predictor, (corrected, denoised, state.denoised))
    return SamplerState(sample, corrected, denoised, state.denoised)


def combine(
    weights: Float[Array, "n ..."], arrays: Sequence[Float[Array, "..."]] | Float[Array, "n ..."]
) -> Float[Array, "..."]:
    """The weighted sum in the weights' precision; what one of the two has more does not count.

    The weights of a step are filled up with zeros to the most that the plan has, a history is
    as long as whoever looks farthest back needs it.
    """
    terms: list[Array] = [weights[k] * x for k, x in zip(range(len(weights)), arrays, strict=False)]
    return sum(terms[1:], terms[0])
