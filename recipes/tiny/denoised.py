"""Latents as a low-noise expert leaves them, for the decoder to learn from.

What the experts generate lies a little beside what the encoder makes of any clip: outlines wobble,
the more so the more guidance. Noised clips that an expert has denoised show the decoder such
latents with the clip that they stand for.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from data import Dataset, kept, padded
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray
from train_experts import condition

from wanjax.checkpoints.folder import Folder
from wanjax.models.transformer import WanTransformer
from wanjax.schedulers.flow import NUM_TRAIN_TIMESTEPS, shift_sigmas

# Noised to sigmas between these: from more noise, the shape may end up somewhere else.
LEVELS = (0.1, 0.7)
STEPS = 6
SHIFT = 3.0
GUIDANCE = 2.0
_BATCH = 64


def make_denoised(
    root: Path, work: Path, data: Dataset, seed: int
) -> Float[np.ndarray, "clips z t h w"]:
    """Those of all clips of `data`, by the expert of the model in `root`; kept in `work`."""
    name = f"denoised-{root.name}.npy"
    return kept(work / f"{len(data.latents)}-clips" / name, lambda: _denoised(root, data, seed))


def _denoised(root: Path, data: Dataset, seed: int) -> Float[np.ndarray, "clips z t h w"]:
    expert = Folder(root, {}).load_transformer("transformer_2", dtype=jnp.float32)
    empty = jnp.asarray(data.empty_context, jnp.float32)
    rng = np.random.default_rng([seed, 2])
    parts = []
    for i in range(0, len(data.latents), _BATCH):
        latents, first, context = (
            jnp.asarray(padded(of[i : i + _BATCH], _BATCH), jnp.float32)
            for of in (data.latents, data.first, data.context[:, 0])
        )
        sigmas = jnp.asarray(draw_sigmas(rng, _BATCH))
        key = jax.random.fold_in(jax.random.key(seed), i)
        found = denoise(expert, latents, first, context, empty, sigmas, key)
        parts.append(np.asarray(found, np.float16)[: len(data.latents) - i])
    return np.concatenate(parts)


def draw_sigmas(rng: np.random.Generator, clips: int) -> Float[np.ndarray, "steps+1 clips"]:
    """From a random level each to 0."""
    levels = rng.uniform(*LEVELS, clips).astype(np.float32)
    unshifted = shift_sigmas(levels, 1 / SHIFT)
    return shift_sigmas(np.linspace(unshifted, 0, STEPS + 1, dtype=np.float32), SHIFT)


@nnx.jit
def denoise(
    expert: WanTransformer,
    latents: Float[Array, "b z t h w"],
    first: Float[Array, "b z t h w"],
    context: Float[Array, "b length dim"],
    empty: Float[Array, "length dim"],
    sigmas: Float[Array, "steps+1 b"],
    key: PRNGKeyArray,
) -> Float[Array, "b z t h w"]:
    """Noised to the first sigmas, and from there to the last by Euler steps with guidance."""
    contexts = jnp.concatenate([context, jnp.broadcast_to(empty, context.shape)])
    embedded = expert.embed_context(contexts)
    image = expert.config.in_channels > latents.shape[1]

    def step(x: Array, ends: tuple[Array, Array]) -> tuple[Array, None]:
        now, after = ends
        given = jnp.concatenate([x, condition(first)], axis=1) if image else x
        timestep = jnp.tile(now, 2) * NUM_TRAIN_TIMESTEPS
        told, untold = jnp.split(expert(jnp.tile(given, (2, 1, 1, 1, 1)), timestep, embedded), 2)
        velocity = untold + GUIDANCE * (told - untold)
        return x + (after - now)[:, None, None, None, None] * velocity, None

    s = sigmas[0][:, None, None, None, None]
    noised = (1 - s) * latents + s * jax.random.normal(key, latents.shape)
    x, _ = jax.lax.scan(step, noised, (sigmas[:-1], sigmas[1:]))
    return x
