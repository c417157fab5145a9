"""Train the small Wan VAE of the bundled tiny models from nothing, on rendered clips.

    python recipes/tiny/train_vae.py --out src/wanjax/tiny/t2v/vae --minutes 15

The real architecture at a small width: 17 frames of 64 × 64 become latents of 5 × 8 × 8.
Most steps see small crops with edges in them, because a plain background teaches little; the
end sees whole clips, because only they have all the context in space and time. Progress is
the fraction of `--steps` or of `--minutes`, whichever is further: the schedule always ends.
Interrupted, the same command goes on from `OUT/training.npz`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray, UInt8
from render import render_clips
from safetensors.numpy import save_file
from tqdm import tqdm

from wanjax.checkpoints.mapping import checkpoint_tensors
from wanjax.models.vae import VAEConfig, WanVAE
from wanjax.models.vae_keys import RULES

HELD_OUT_SEED = 10_000
# progress at which the stage starts, clips per step, frames, height and width of each
STAGES = ((0.0, 8, 5, 32), (0.75, 2, 17, 64))
CONFIG = VAEConfig(
    base_dim=8,
    z_dim=16,  # with 4 mask channels the image model then has 36 inputs, like the published one
    dim_mult=(1, 2, 4, 8),
    num_res_blocks=1,
    latents_mean=(0.0,) * 16,
    latents_std=(1.0,) * 16,
)


class Training(NamedTuple):
    """All that changes: written to disk, an interruption loses nothing else."""

    params: nnx.State
    moments: Any
    step: Array
    seconds: Array


def main() -> None:
    args = arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    vae = WanVAE(CONFIG, rngs=nnx.Rngs(args.seed))
    # latents start with little noise: a decoder of noise learns nothing for long
    vae.quant_conv.bias[...] = vae.quant_conv.bias[...].at[CONFIG.z_dim :].set(-5.0)
    params = train(vae, args)
    nnx.update(vae, params)
    vae.config = measured_statistics(vae)
    psnr, dtype = save(vae, args.out)
    (args.out / "training.npz").unlink()
    print(f"round trip of held-out clips: {psnr:.2f} dB, stored as {dtype} in {args.out}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for config and weights")
    parser.add_argument("--steps", type=int, default=6000, help="updates, at most")
    parser.add_argument("--minutes", type=float, default=15.0, help="training time, at most")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="at its highest")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def train(vae: WanVAE, args: argparse.Namespace) -> nnx.State:
    """Parameters after training, from the checkpoint in `args.out` if there is one."""
    graph, params = nnx.split(vae)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(b2=0.99))
    start = Training(params, optimizer.init(params), jnp.zeros((), int), jnp.zeros(()))
    path = args.out / "training.npz"
    state = restore(path, start)
    update = jax.jit(partial(train_step, graph, optimizer), donate_argnums=(0, 1))
    began, spent = time.monotonic(), float(state.seconds)
    saved = began
    with tqdm(total=args.steps, initial=int(state.step), mininterval=10) as bar:
        while (progress := max(bar.n / args.steps, spent / (60 * args.minutes))) < 1:
            rng = np.random.default_rng((args.seed, bar.n))
            shape = next(stage[1:] for stage in reversed(STAGES) if progress >= stage[0])
            params, moments, report = update(
                state.params,
                state.moments,
                to_float(crops(rng, *shape)),
                jax.random.fold_in(jax.random.key(args.seed), bar.n),
                learning_rate(args.learning_rate, progress),
            )
            bar.update()
            if bar.n % 20 == 0:
                bar.set_postfix({name: f"{value:.4f}" for name, value in report.items()})
            spent = float(state.seconds) + time.monotonic() - saved
            state = Training(params, moments, jnp.asarray(bar.n), state.seconds)
            if time.monotonic() - saved > 60:
                state, saved = state._replace(seconds=jnp.asarray(spent)), time.monotonic()
                checkpoint(path, state)
    checkpoint(path, state._replace(seconds=jnp.asarray(spent)))
    return state.params


def train_step(
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    params: nnx.State,
    moments: Any,
    clips: Float[Array, "b T H W 3"],
    key: PRNGKeyArray,
    rate: float,
) -> tuple[nnx.State, Any, dict[str, Array]]:
    """One update; `rate` is the learning rate of this step."""

    def loss(params: nnx.State) -> tuple[Array, dict[str, Array]]:
        vae = nnx.merge(graph, params)
        mean, log_variance = vae.posterior(clips)
        noise = jax.random.normal(key, mean.shape)
        latents = mean + jnp.exp(0.5 * log_variance) * noise
        error = vae.reconstruct_chunk(latents, None)[0] - clips
        kl = 0.5 * jnp.mean(mean**2 + jnp.exp(log_variance) - 1 - log_variance)
        square = jnp.mean(error**2)
        report = {"psnr": -10 * jnp.log10(square / 4), "kl": kl}
        # L1 for sharp edges; the small KL term keeps latents bounded and smooth
        return jnp.mean(jnp.abs(error)) + square + 3e-4 * kl, report

    gradient, report = jax.grad(loss, has_aux=True)(params)
    change, moments = optimizer.update(gradient, moments)
    params = jax.tree.map(lambda p, c: p - rate * c, params, change)
    return params, moments, report


def learning_rate(highest: float, progress: float) -> float:
    """Linear warm-up over the first 2 %, then a cosine to zero."""
    return highest * min(progress / 0.02 + 0.05, 1.0) * 0.5 * (1 + float(np.cos(np.pi * progress)))


def crops(
    rng: np.random.Generator, batch: int, frames: int, size: int
) -> UInt8[np.ndarray, "batch frames size size 3"]:
    """Random windows in space and time, every other one the most varied of six."""
    clips = render_clips(rng, batch)[0]
    chosen = []
    for i, clip in enumerate(clips):
        room = (len(clip) - frames + 1, clip.shape[1] - size + 1, clip.shape[2] - size + 1)
        starts = rng.integers(0, room, size=(6 if i % 2 else 1, 3))
        found = [clip[t : t + frames, y : y + size, x : x + size] for t, y, x in starts]
        chosen.append(max(found, key=np.std) if len(found) > 1 else found[0])
    return np.stack(chosen)


def to_float(clips: UInt8[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    return clips.astype(np.float32) / 127.5 - 1


def checkpoint(path: Path, state: Training) -> None:
    leaves = jax.device_get(jax.tree.leaves(state))
    partial_path = path.with_suffix(".partial.npz")
    np.savez(partial_path, **{str(i): leaf for i, leaf in enumerate(leaves)})
    os.replace(partial_path, path)


def restore(path: Path, start: Training) -> Training:
    if not path.exists():
        return start
    with np.load(path) as stored:
        leaves = [jnp.asarray(stored[str(i)]) for i in range(len(stored.files))]
    return jax.tree.unflatten(jax.tree.structure(start), leaves)


def clips_in_batches(seed: int, count: int, batch: int = 8) -> list[np.ndarray]:
    return [render_clips(np.random.default_rng((seed, i)), batch)[0] for i in range(count // batch)]


def measured_statistics(vae: WanVAE, count: int = 256) -> VAEConfig:
    """The configuration with mean and deviation of each latent channel over `count` clips."""
    encode = nnx.jit(lambda vae, clips: vae.encode(clips))
    latents = np.concatenate([encode(vae, to_float(c)) for c in clips_in_batches(1, count)])
    mean, std = latents.mean((0, 1, 2, 3)), latents.std((0, 1, 2, 3))
    rounded = [tuple(round(float(x), 4) for x in values) for values in (mean, std)]
    return replace(vae.config, latents_mean=rounded[0], latents_std=rounded[1])


def save(vae: WanVAE, out: Path) -> tuple[float, str]:
    """Write diffusers' layout; float16 if that costs less than 0.05 dB. Returns PSNR, dtype."""
    full = round_trip_psnr(vae)
    tensors = checkpoint_tensors(nnx.state(vae), RULES)
    half = jax.tree.map(lambda x: x.astype(np.float16), tensors)
    rounded = nnx.clone(vae)
    halves = jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), nnx.state(vae))
    nnx.update(rounded, halves)
    psnr = round_trip_psnr(rounded)
    small = full - psnr < 0.05
    save_file(half if small else tensors, out / "diffusion_pytorch_model.safetensors")
    config = {"_class_name": "AutoencoderKLWan", **asdict(vae.config)}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return (psnr, "float16") if small else (full, "float32")


def round_trip_psnr(vae: WanVAE, count: int = 64) -> float:
    """Decibels between held-out clips and their 8-bit round trip through the mean latents."""
    rebuild = nnx.jit(lambda vae, clips: vae.decode(vae.encode(clips)))
    square = []
    for clips in clips_in_batches(HELD_OUT_SEED, count):
        video = np.asarray(rebuild(vae, to_float(clips)))
        pixels = np.round((video + 1) * 127.5)
        square.append(np.mean((pixels - clips) ** 2))
    return float(10 * np.log10(255**2 / np.mean(square)))


if __name__ == "__main__":
    main()
