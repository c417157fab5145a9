"""Train the small VAE of the bundled models.

    python recipes/tiny/train_vae.py --out src/wanjax/tiny/t2v/vae

First on single images, where a step costs a small part of a video's; then, with the temporal
kernels starting from "no change in time", on short windows of clips around the moving shape.
It is causal, so what it learns on short windows holds for whole clips. Interrupted, the same
command goes on from the last finished stage.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray, UInt8
from render import render, render_clips
from tqdm import tqdm

from wanjax.checkpoints.layouts.diffusers.vae import rules
from wanjax.checkpoints.mapping import flat_parameters
from wanjax.checkpoints.save import save_model
from wanjax.files import atomic_path
from wanjax.models import vae_layers
from wanjax.models.configs import VAEConfig
from wanjax.models.vae import WanVAE
from wanjax.tiny.world import Scene, sample_scene

Z = 16
CONFIG = VAEConfig(
    base_dim=16,
    z_dim=Z,
    dim_mult=(1, 2, 4, 4),
    num_res_blocks=1,
    latents_mean=(0.0,) * Z,
    latents_std=(1.0,) * Z,
)
HELD_OUT_SEED = 10_000
LATENT_NOISE = 0.03  # keeps the latents smooth
LATENT_PENALTY = 1e-4  # keeps them bounded


@dataclass(frozen=True)
class Stage:
    """Windows of `frames` frames and `size` pixels, `batch` of them a step."""

    name: str
    frames: int
    size: int
    batch: int
    steps: int
    rate: float
    decay: bool  # a cosine to zero, or constant
    decoder_only: bool = False  # the latents stay as they are


STAGES = (
    Stage("images", 1, 64, 8, 700, 1.5e-3, False),
    Stage("short", 5, 32, 8, 550, 1.0e-3, False),
    Stage("long", 9, 32, 6, 650, 1.2e-3, True),
    Stage("longer", 9, 32, 6, 350, 1.0e-3, True),
    Stage("decoder", 9, 32, 6, 500, 1.0e-3, True, decoder_only=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for config and weights")
    parser.add_argument("--work", type=Path, default=Path("work/tiny/vae"), help="checkpoints")
    parser.add_argument("--scale", type=float, default=1.0, help="times the steps of every stage")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    vae = initialised(args.seed)
    for stage in STAGES:
        stage = replace(stage, steps=round(stage.steps * args.scale))
        file = args.work / f"{stage.name}.npz"
        if file.exists():
            read_parameters(vae, file)
            continue
        if stage.name == "short":
            still_in_time(vae)
        train(vae, stage, args.seed)
        write_parameters(vae, file)
    finish(vae, args.out)


def initialised(seed: int) -> WanVAE:
    """Residual branches start at zero: the network starts as its skip connections."""
    vae = WanVAE(CONFIG, rngs=nnx.Rngs(seed))
    for path, parameter in flat_parameters(nnx.state(vae)):
        if path.endswith(("conv2.kernel", "proj.kernel")):
            parameter.set_value(jnp.zeros_like(parameter.get_value()))
    return vae


def still_in_time(vae: WanVAE) -> None:
    """Temporal kernels that see the present frame alone, as training on images left them."""
    rng = np.random.default_rng(1)
    for path, parameter in flat_parameters(nnx.state(vae)):
        kernel = np.array(parameter.get_value())
        if path.endswith("time_conv.kernel"):
            inputs, outputs = kernel.shape[-2:]
            identity = np.eye(inputs, dtype=np.float32)
            kernel = 0.02 * rng.normal(size=kernel.shape) * inputs**-0.5
            if outputs == inputs:  # down: the mean of two frames
                kernel[1:, 0, 0] += 0.5 * identity
            else:  # up: the same frame twice
                kernel[2, 0, 0] += np.concatenate([identity, identity], axis=1)
        elif kernel.ndim == 5 and kernel.shape[0] == 3:
            kernel[:-1] = 0
        parameter.set_value(jnp.asarray(kernel, jnp.float32))


def train(vae: WanVAE, stage: Stage, seed: int) -> None:
    """Adam; updates `vae` in place."""
    graph, params = nnx.split(vae)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(b2=0.99))
    moments = optimizer.init(params)
    step_fn = partial(train_step, graph, optimizer, stage.decoder_only)
    update = jax.jit(step_fn, donate_argnums=(0, 1))
    rng = np.random.default_rng([seed, stage.frames])
    squares: list[Array] = []
    began = time.monotonic()
    convolution = _last_tap if stage.frames == 1 else vae_layers._conv3d_by_taps
    with mock.patch.object(vae_layers, "_conv3d_by_taps", convolution):
        for step in tqdm(range(stage.steps), desc=stage.name, mininterval=10):
            key = jax.random.fold_in(jax.random.key(seed), step)
            rate = learning_rate(stage, step)
            params, moments, square = update(params, moments, windows(rng, stage), key, rate)
            squares.append(square)
            if (step + 1) % 100 == 0:
                psnr = -10 * np.log10(np.mean(squares[-100:]) / 4)
                print(f"{stage.name} {step + 1} {psnr:.2f} dB, {time.monotonic() - began:.0f} s")
    nnx.update(vae, params)


def train_step(
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    decoder_only: bool,
    params: nnx.State,
    moments: Any,
    clips: UInt8[Array, "b T H W 3"],
    key: PRNGKeyArray,
    rate: float,
) -> tuple[nnx.State, Any, Float[Array, ""]]:
    """One update; returns the mean square error too."""
    target = clips.astype(jnp.float32) / 127.5 - 1

    def loss(params: nnx.State) -> tuple[Array, Array]:
        vae = nnx.merge(graph, params)
        mean, _ = vae.posterior(target)
        mean = jax.lax.stop_gradient(mean) if decoder_only else mean
        latents = mean + LATENT_NOISE * jax.random.normal(key, mean.shape)
        error = vae.reconstruct(latents) - target
        square = jnp.mean(error**2)
        sharp = jnp.mean(jnp.sqrt(error**2 + 1e-4))
        return sharp + square + LATENT_PENALTY * 0.5 * jnp.mean(mean**2), square

    gradient, square = jax.grad(loss, has_aux=True)(params)
    change, moments = optimizer.update(gradient, moments, params)
    return jax.tree.map(lambda p, c: p - rate * c, params, change), moments, square


def _last_tap(x: Array, kernel: Array, time_stride: int) -> Array:
    """The 3D convolution of a single first frame: before it there are only zeros."""
    assert x.shape[1] == kernel.shape[0]
    return vae_layers.conv2d(x[:, -1], kernel[-1], padding=vae_layers._same(kernel))[:, None]


def learning_rate(stage: Stage, step: int) -> float:
    decay = 0.5 * (1 + np.cos(np.pi * step / stage.steps)) if stage.decay else 1.0
    return stage.rate * min(1.0, (step + 1) / 40) * decay


def windows(rng: np.random.Generator, stage: Stage) -> UInt8[np.ndarray, "b T H W 3"]:
    return np.stack([_window(sample_scene(rng), rng, stage) for _ in range(stage.batch)])


def _window(scene: Scene, rng: np.random.Generator, stage: Stage) -> UInt8[np.ndarray, "T H W 3"]:
    """A random window of a clip, three times out of four around the shape."""
    clip = render(scene)
    start = int(rng.integers(0, len(clip) - stage.frames + 1))
    corner = rng.integers(0, clip.shape[1] - stage.size + 1, size=2)
    if rng.random() < 0.75:
        middle = np.array([(start + stage.frames / 2) / len(clip)])
        x, y, radius = scene.trajectory(middle)[:, 0] * clip.shape[1]
        wanted = np.array([y, x]) + rng.normal(size=2) * radius - stage.size / 2
        corner = np.clip(wanted, 0, clip.shape[1] - stage.size).astype(int)
    rows, columns = (slice(c, c + stage.size) for c in corner)
    return clip[start : start + stage.frames, rows, columns]


def finish(vae: WanVAE, out: Path) -> None:
    """Measure the latents' statistics and the round trip, and store the model as float16."""
    vae.config = measured_statistics(vae)
    for _, parameter in flat_parameters(nnx.state(vae)):
        parameter.set_value(parameter.get_value().astype(jnp.float16).astype(jnp.float32))
    config = {"_class_name": "AutoencoderKLWan", **asdict(vae.config)}
    save_model(vae, rules(vae.config), config, out)
    print(f"round trip of held-out clips: {round_trip_psnr(vae):.2f} dB; wrote {out}")


def measured_statistics(vae: WanVAE, batches: int = 16) -> VAEConfig:
    """The configuration with mean and deviation of each latent channel."""
    encode = nnx.jit(lambda vae, clips: vae.encode(clips))
    clips = (render_clips(np.random.default_rng([1, i]), 8)[0] for i in range(batches))
    latents = np.concatenate([encode(vae, c.astype(np.float32) / 127.5 - 1) for c in clips])
    mean, std = latents.mean((0, 1, 2, 3)), latents.std((0, 1, 2, 3))
    rounded = [tuple(round(float(x), 4) for x in values) for values in (mean, std)]
    return replace(vae.config, latents_mean=rounded[0], latents_std=rounded[1])


def round_trip_psnr(vae: WanVAE, batches: int = 4) -> float:
    """Of 8-bit pixels of held-out clips, over all of them together."""
    through = nnx.jit(lambda vae, clips: vae.decode(vae.encode(clips)))
    errors = []
    for i in range(batches):
        rng = np.random.default_rng([HELD_OUT_SEED, i])
        clips = np.stack([render(sample_scene(rng, held_out=True)) for _ in range(8)])
        decoded = np.asarray(through(vae, clips.astype(np.float32) / 127.5 - 1))
        pixels = np.round((decoded + 1) * 127.5)
        errors.append(np.mean((pixels - clips) ** 2))
    return float(20 * np.log10(255) - 10 * np.log10(np.mean(errors)))


def write_parameters(vae: WanVAE, file: Path) -> None:
    values = {path: np.asarray(p.get_value()) for path, p in flat_parameters(nnx.state(vae))}
    with atomic_path(file) as partial_file:
        np.savez(partial_file, **values)


def read_parameters(vae: WanVAE, file: Path) -> None:
    with np.load(file) as stored:
        for path, parameter in flat_parameters(nnx.state(vae)):
            parameter.set_value(jnp.asarray(stored[path]))


if __name__ == "__main__":
    main()
