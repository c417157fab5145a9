"""Train the two experts of a bundled model by flow matching.

    python recipes/tiny/train_experts.py t2v --root src/wanjax/tiny/t2v
    python recipes/tiny/train_experts.py i2v --root src/wanjax/tiny/i2v \\
        --start src/wanjax/tiny/t2v/transformer_2

`--root` holds the trained VAE and text encoder. The low-noise expert learns first, for there
it shows what a word means; the high-noise expert starts from it. Image to video starts from a
text-to-video expert and weighs the first frame more, which the given picture decides.
Interrupted, the same command goes on from the last checkpoint.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from data import Dataset, make_dataset
from flax import nnx
from jaxtyping import Array, Float

from wanjax.checkpoints.folder import Folder
from wanjax.checkpoints.layouts.diffusers.transformer import RULES
from wanjax.checkpoints.save import save_model
from wanjax.files import atomic_path
from wanjax.models.configs import TransformerConfig
from wanjax.models.transformer import WanTransformer
from wanjax.schedulers.flow import NUM_TRAIN_TIMESTEPS, shift_sigmas

Z = 16
SMALL = {
    "num_attention_heads": 6,
    "attention_head_dim": 32,
    "out_channels": Z,
    "text_dim": 128,
    "freq_dim": 128,
    "ffn_dim": 512,
    "num_layers": 6,
}
EMPTY_PROMPT_RATE = 0.1  # for classifier-free guidance
EMA = 0.998
ADAM_LR = 1.5e-3
FIRST_FRAME_WEIGHT = 5.0  # image to video, in the loss; the other frames have 1
CHECKPOINT_SECONDS = 120


@dataclass(frozen=True)
class Stage:
    """One expert's training: noise levels `low` < sigma <= `high`, drawn evenly and shifted."""

    low: float
    high: float
    shift: float
    steps: int

    def sigmas(self, rng: np.random.Generator, batch: int) -> Float[np.ndarray, " batch"]:
        ends = [s / (self.shift - (self.shift - 1) * s) for s in (self.low, self.high)]
        return shift_sigmas(rng.uniform(*ends, size=batch), self.shift).astype(np.float32)


# Experts see a little beyond the boundary, so that it may be moved.
STAGES = {
    "t2v": {
        "transformer_2": Stage(0.05, 0.92, 7.0, 5000),
        "transformer": Stage(0.75, 1.0, 10.0, 1000),
    },
    "i2v": {
        "transformer_2": Stage(0.0, 0.94, 3.0, 2000),
        "transformer": Stage(0.8, 1.0, 6.0, 2000),
    },
}


def make_batch(
    data: Dataset, stage: Stage, batch: int, image: bool, rng: np.random.Generator
) -> tuple[np.ndarray, ...]:
    """Model input, timestep, context and the flow velocity to predict."""
    clip = rng.integers(len(data.latents), size=batch)
    context = data.context[clip, rng.integers(data.context.shape[1], size=batch)]
    empty = rng.random(batch) < EMPTY_PROMPT_RATE
    context = np.where(empty[:, None, None], data.empty_context, context).astype(np.float32)
    x0 = data.latents[clip].astype(np.float32)
    noise = rng.normal(size=x0.shape).astype(np.float32)
    sigma = stage.sigmas(rng, batch)
    s = sigma[:, None, None, None, None]
    x = (1 - s) * x0 + s * noise
    if image:
        assert data.first is not None
        x = np.concatenate([x, condition(data.first[clip].astype(np.float32))], axis=1)
    return x, sigma * NUM_TRAIN_TIMESTEPS, context, noise - x0


def condition(first: Float[np.ndarray, "b z t h w"]) -> Float[np.ndarray, "b c t h w"]:
    """Mask (4 channels, one on the first latent frame) and the first frame's latents."""
    mask = np.zeros((first.shape[0], 4, *first.shape[2:]), np.float32)
    mask[:, :, 0] = 1
    return np.concatenate([mask, first], axis=1)


def make_model(image: bool, start: WanTransformer | None) -> WanTransformer:
    """Freshly initialised, or `start` with what it lacks in input channels."""
    config = TransformerConfig(in_channels=Z + (4 + Z if image else 0), **SMALL)
    model = WanTransformer(config, rngs=nnx.Rngs(0))
    if start is None:
        model.proj_out.kernel[...] = jnp.zeros_like(model.proj_out.kernel[...])
        return model
    state = nnx.state(start)
    kernel = np.asarray(start.patch_embedding.kernel[...])
    missing = config.in_channels - start.config.in_channels
    kernel = np.concatenate([kernel, orthogonal_channels(kernel, missing)], axis=3)
    state["patch_embedding"]["kernel"].set_value(jnp.asarray(kernel))
    nnx.update(model, state)
    return model


def orthogonal_channels(
    kernel: Float[np.ndarray, "1 h w channels width"], count: int
) -> Float[np.ndarray, "1 h w count width"]:
    """A patch embedding's kernel for `count` more channels, as strong as `kernel` and in
    directions that it leaves free.

    Channels that start at zero stayed 20 times weaker than the others; started like this the
    image-to-video experts learn to copy the first frame within 150 steps.
    """
    *patch, channels, width = kernel.shape
    rows = kernel.reshape(-1, width)
    free = np.linalg.svd(rows, full_matrices=True)[2][len(rows) :]
    strength = np.sqrt((rows**2).sum(axis=1).mean())
    new = free[: len(rows) // channels * count] * strength
    return new.reshape(*patch, count, width)


def train(
    model: WanTransformer,
    data: Dataset,
    name: str,
    stage: Stage,
    image: bool,
    args: argparse.Namespace,
) -> WanTransformer:
    """Muon with warm-up and cosine decay; returns the moving average of the weights."""
    optimizer = make_optimizer(args.lr, stage.steps)
    graph, params = nnx.split(model)
    weights = np.ones(data.latents.shape[2], np.float32)  # of latent frames
    weights[0] = FIRST_FRAME_WEIGHT if image else 1
    state = (params, params, optimizer.init(params))
    file = args.work / f"{name}.npz"
    step, state = restore(file, state)

    @jax.jit
    def update(state, x, timestep, context, target):
        params, average, opt = state

        def loss_fn(params):
            model = nnx.merge(graph, params)
            velocity = model(x, timestep, model.embed_context(context))
            frames = jnp.mean((velocity - target) ** 2, axis=(0, 1, 3, 4))
            return jnp.average(frames, weights=weights), frames

        (_, frames), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt = optimizer.update(gradient, opt, params)
        params = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda a, p: EMA * a + (1 - EMA) * p, average, params)
        return (params, average, opt), frames

    began = saved = time.time()
    losses: list[Array] = []  # by latent frame
    rng = np.random.default_rng([args.seed, step])
    while step < stage.steps:
        state, frames = update(state, *make_batch(data, stage, args.batch, image, rng))
        losses.append(frames)
        step += 1
        if step % 100 == 0:
            first, *others = np.mean(losses[-100:], axis=0)
            print(
                f"{name} {step}/{stage.steps} loss: first frame {first:.4f}, others "
                f"{np.mean(others):.4f}; {time.time() - began:.0f} s",
                flush=True,
            )
        if time.time() - saved > CHECKPOINT_SECONDS:
            save(file, step, state)
            saved = time.time()
    save(file, step, state)
    return nnx.merge(graph, state[1])


def make_optimizer(lr: float, steps: int) -> optax.GradientTransformation:
    """Muon for the blocks' matrices, Adam for all else.

    200 steps of Muon lowered the held-out loss of a half-trained expert by 4 %, as many of
    AdamW not at all.
    """

    def schedule(peak: float) -> optax.Schedule:
        return optax.warmup_cosine_decay_schedule(0, peak, 100, steps, peak / 50)

    muon = optax.contrib.muon(
        schedule(lr),
        consistent_rms=0.2,
        adam_b2=0.99,
        adam_learning_rate=schedule(ADAM_LR),
        muon_weight_dimension_numbers=block_matrices,
    )
    return optax.chain(optax.clip_by_global_norm(1.0), muon)


def block_matrices(params):
    """The dimensions of the stacked (layers, in, out) kernels, None for other parameters."""

    def matrix(path, value) -> optax.contrib.MuonDimensionNumbers | None:
        stacked = path[0].key == "blocks" and path[-2].key == "kernel"
        return optax.contrib.MuonDimensionNumbers(1, 2) if stacked else None

    return jax.tree_util.tree_map_with_path(matrix, params)


def save(file: Path, step: int, state) -> None:
    """Step and state, never half-written."""
    with atomic_path(file) as partial_file:
        np.savez(partial_file, *map(np.asarray, jax.tree.leaves(state)), step=step)


def restore(file: Path, state):
    if not file.exists():
        return 0, state
    with np.load(file) as arrays:
        leaves = [jnp.asarray(arrays[f"arr_{i}"]) for i in range(len(jax.tree.leaves(state)))]
        return int(arrays["step"]), jax.tree.unflatten(jax.tree.structure(state), leaves)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("form", choices=STAGES)
    parser.add_argument(
        "--root", type=Path, required=True, help="folder with vae/ and text_encoder/"
    )
    parser.add_argument("--start", type=Path, help="folder of the expert to start from")
    parser.add_argument("--work", type=Path, default=Path("work/tiny"), help="checkpoints and data")
    parser.add_argument("--clips", type=int, default=8000)
    parser.add_argument("--scale", type=float, default=1.0, help="times the steps of each stage")
    parser.add_argument("--only", help="train this expert alone: transformer or transformer_2")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=4e-3, help="of Muon")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    image = args.form == "i2v"
    data = make_dataset(args.root, args.work, args.clips, image, args.seed)
    args.work = args.work / args.form
    expert: WanTransformer | None = None
    if args.start:
        folder = Folder(args.start.parent, {})
        expert = folder.load_transformer(args.start.name, dtype=jnp.float32)
    for name, stage in STAGES[args.form].items():
        if args.only not in (None, name):
            continue
        stage = replace(stage, steps=round(stage.steps * args.scale))
        expert = train(make_model(image, expert), data, name, stage, image, args)
        config = {"_class_name": "WanTransformer3DModel", **asdict(expert.config)}
        save_model(expert, RULES, config, args.root / name)


if __name__ == "__main__":
    main()
