"""Train the small VAE of the bundled models.

    python recipes/tiny/train_vae.py --out src/wanjax/tiny/t2v/vae

First on single images, where a step costs a small part of a video's; then, with the temporal
kernels starting from "no change in time", on windows of clips around the moving shape. It is
causal, so what it learns on short windows holds for whole clips; `train_decoder.py` trains the
decoder further. The clips, drawn by `render.py`, lie on the device. Interrupted, the same command
goes on where it was.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import loop
import numpy as np
import optax
from convolutions import computed_by, fastest, last_tap
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8
from optimizers import Trained, descend, untrained
from render import render, render_clips, training_scenes

from wanjax.checkpoints.layouts.diffusers.vae import rules
from wanjax.checkpoints.mapping import flat_parameters
from wanjax.checkpoints.save import save_model
from wanjax.models.configs import VAEConfig
from wanjax.models.vae import WanVAE
from wanjax.tiny.world import sample_scene

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
EDGE_WEIGHT = 3.0  # of a pixel on a shape's edge, beyond the 1 of any other
CLIPS = 10_000  # at most: fewer than 2**31 bytes, which indices of 32 bits reach


@dataclass(frozen=True)
class Stage:
    """Windows of `frames` frames and `size` pixels, `batch` of them a step.

    `share` is that of the time where it is limited.
    """

    name: str
    frames: int
    size: int
    batch: int
    steps: int
    rate: float
    share: float

    def rate_at(self, step: Array, total: Array) -> Array:
        decay = loop.cosine(step, total, 100)
        return self.rate * (jnp.minimum(1.0, (step + 1) / 100) if self.frames == 1 else decay)


STAGES = (
    Stage("images", 1, 64, 64, 1500, 1.5e-3, 0.25),
    Stage("clips", 9, 32, 32, 4000, 1.2e-3, 0.75),
)


class Clips(NamedTuple):
    """Training clips and where the shape's centre is, in pixels (row, column)."""

    pixels: UInt8[Array, "clips T H W 3"]
    centres: Float[Array, "clips T 2"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for config and weights")
    loop.add_arguments(parser)
    args = parser.parse_args()
    vae = initialised(args.seed)
    clips = load_clips(args.work / "clips.npy", args.seed)
    for stage in STAGES:
        if stage.name == "clips":
            still_in_time(vae)
        train(vae, clips, stage, args)
    finish(vae, args.out)


def load_clips(file: Path, seed: int) -> Clips:
    """The drawn clips, or the first of them, on the device."""
    pixels = np.load(file, mmap_mode="r")[:CLIPS]
    times = np.linspace(0, 1, pixels.shape[1])
    tracks = [s.trajectory(times)[1::-1].T for s in training_scenes(len(pixels), seed)]
    centres = np.stack(tracks).astype(np.float32) * pixels.shape[2]
    return Clips(jnp.asarray(pixels), jnp.asarray(centres))


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


def train(vae: WanVAE, clips: Clips, stage: Stage, args: argparse.Namespace) -> None:
    """Adam; `vae` becomes the moving average of the weights."""
    stage = replace(stage, batch=max(1, round(stage.batch * args.batch_scale)))
    graph, params = nnx.split(vae)
    step = partial(train_step, graph, stage, jax.random.key(args.seed))
    with computed_by(last_tap if stage.frames == 1 else fastest()):
        _, average, _ = loop.run(
            f"vae {stage.name}",
            step,
            untrained(params, make_optimizer(jnp.float32(0))),
            clips,
            round(stage.steps * args.scale),
            limit=args.limit and args.limit * stage.share,
            checkpoint=args.work / f"vae/{stage.name}.npz",
            describe=lambda losses: f"{-10 * np.log10(losses[0] / 4):.2f} dB",
        )
    nnx.update(vae, average)


def train_step(
    graph: nnx.GraphDef,
    stage: Stage,
    seed: PRNGKeyArray,
    trained: Trained,
    clips: Clips,
    step: Int[Array, ""],
    total: Float[Array, ""],
) -> tuple[Trained, Float[Array, "1"]]:
    """One update; returns the mean square error too."""
    for_clips, for_noise = jax.random.split(jax.random.fold_in(seed, step))
    target = windows(clips, stage, for_clips).astype(jnp.float32) / 127.5 - 1
    weights = edge_weights(target)

    def loss(params: nnx.State) -> tuple[Array, Array]:
        vae = nnx.merge(graph, params)
        mean = vae.posterior(target.astype(loop.COMPUTE))[0].astype(jnp.float32)
        latents = mean + LATENT_NOISE * jax.random.normal(for_noise, mean.shape)
        video = vae.reconstruct(latents.astype(loop.COMPUTE)).astype(jnp.float32)
        error = video - target
        penalty = LATENT_PENALTY * 0.5 * jnp.mean(mean**2)
        return reconstruction_loss(error, weights) + penalty, jnp.mean(error**2)[None]

    return descend(loss, make_optimizer(stage.rate_at(step, total)), trained, step, total)


def make_optimizer(rate: Float[Array, ""]) -> optax.GradientTransformation:
    """Adam at this step's `rate`."""
    adam = optax.scale_by_adam(b2=0.99)
    return optax.chain(optax.clip_by_global_norm(1.0), adam, optax.scale(-rate))


def windows(clips: Clips, stage: Stage, key: PRNGKeyArray) -> UInt8[Array, "b T H W 3"]:
    """Random windows of clips, three times out of four around the shape."""
    keys = jax.random.split(key, 5)
    count, frames, side = clips.pixels.shape[:3]
    free = side - stage.size
    clip = jax.random.randint(keys[0], (stage.batch,), 0, count)
    start = jax.random.randint(keys[1], (stage.batch,), 0, frames - stage.frames + 1)
    anywhere = jax.random.randint(keys[2], (stage.batch, 2), 0, free + 1)
    middle = clips.centres[clip, start + stage.frames // 2] - stage.size / 2
    middle += jax.random.normal(keys[3], middle.shape) * side / 6  # about a radius
    near = jnp.clip(middle, 0, free).astype(jnp.int32)
    around = jax.random.uniform(keys[4], (stage.batch, 1)) < 0.75
    corner = jnp.where(around, near, anywhere)

    def cut(clip: Array, start: Array, corner: Array) -> Array:
        at = (clip, start, corner[0], corner[1], 0)
        size = (1, stage.frames, stage.size, stage.size, 3)
        return jax.lax.dynamic_slice(clips.pixels, at, size)[0]

    return jax.vmap(cut)(clip, start, corner)


def edge_weights(target: Float[Array, "b T H W 3"]) -> Float[Array, "b T H W 1"]:
    """More where a pixel differs from its neighbours."""
    window, strides = (1, 1, 3, 3, 1), (1,) * 5
    most = jax.lax.reduce_window(target, -jnp.inf, jax.lax.max, window, strides, "SAME")
    least = jax.lax.reduce_window(target, jnp.inf, jax.lax.min, window, strides, "SAME")
    return 1 + EDGE_WEIGHT * jnp.clip((most - least).max(axis=-1, keepdims=True), 0, 1)


def reconstruction_loss(
    error: Float[Array, "b T H W 3"], weights: Float[Array, "b T H W 1"]
) -> Float[Array, ""]:
    """Nearly the absolute error, for sharp edges, and the square."""
    return jnp.mean(weights * (jnp.sqrt(error**2 + 1e-4) + error**2))


def finish(vae: WanVAE, out: Path) -> None:
    """Measure the latents' statistics, and store the model."""
    vae.config = measured_statistics(vae)
    store(vae, out)


def store(vae: WanVAE, out: Path) -> None:
    """As float16; tells the round trip."""
    for _, parameter in flat_parameters(nnx.state(vae)):
        parameter.set_value(parameter.get_value().astype(jnp.float16).astype(jnp.float32))
    config = {"_class_name": "AutoencoderKLWan", **asdict(vae.config)}
    save_model(vae, rules(vae.config), config, out)
    with jax.default_matmul_precision("highest"):
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


if __name__ == "__main__":
    main()
