"""Train the decoder of the bundled VAE further, from the latents that `data.py` has encoded.

    python recipes/tiny/train_decoder.py --root src/wanjax/tiny/t2v \\
        --experts src/wanjax/tiny/t2v src/wanjax/tiny/i2v

The encoder stays, and so do the experts that have learnt its latents. Whole clips pass the layers
at the latents' resolution; above it, where nearly all the time goes, a square around the shape
does. Generated latents are not exact: those here carry noise, and from what the models in
`--experts` make of noised clips (`denoised.py`) the decoder learns as often as from the encoder's.
Interrupted, the same command goes on where it was.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import loop
import numpy as np
import optax
import optax.contrib
from convolutions import computed_by, fastest
from data import make_dataset
from denoised import make_denoised
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8
from optimizers import Trained, descend, muon, untrained
from train_vae import edge_weights, load_clips, reconstruction_loss, store

from wanjax.checkpoints.folder import Folder
from wanjax.models.vae import WanVAE
from wanjax.models.vae_layers import Past, Stripe

CROP = 4  # latent pixels in each direction
BLIND = 4  # pixels along a crop's edge inside the picture: their neighbours are missing
NOISE = 0.12  # at most, of the latents' spread
STEPS = 6000
ADAM_LR = 1e-3


class Data(NamedTuple):
    """Normalised latents, their clips and where the shape's centre is, in latent pixels.

    The first version of the latents is the encoder's, the others are those of experts.
    """

    latents: Float[Array, "versions clips z t h w"]
    pixels: UInt8[Array, "clips T H W 3"]
    centres: Float[Array, "clips T 2"]


class Batch(NamedTuple):
    """Latents (not normalised) of whole clips, and the squares of pixels to make of them."""

    latents: Float[Array, "b t h w z"]
    corner: Int[Array, "b 2"]  # of the square, in latent pixels
    target: Float[Array, "b T crop crop 3"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True, help="with vae/ and text_encoder/")
    parser.add_argument("--clips", type=int, default=24_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2.5e-3, help="of Muon")
    parser.add_argument("--experts", type=Path, nargs="*", default=(), help="folders of models")
    loop.add_arguments(parser)
    args = parser.parse_args()
    vae = Folder(args.root, {}).load_vae()
    drawn = load_clips(args.work / "clips.npy", args.seed)
    encoded = make_dataset(args.root, args.work, args.clips, args.seed)
    denoised = [make_denoised(root, args.work, encoded, args.seed) for root in args.experts]
    clips = min(args.clips, len(drawn.pixels))
    latents = jnp.stack([jnp.asarray(each[:clips]) for each in (encoded.latents, *denoised)])
    centres = drawn.centres / vae.config.spatial_factor
    train(vae, Data(latents, drawn.pixels[:clips], centres[:clips]), args)
    store(vae, args.root / "vae")


def train(vae: WanVAE, data: Data, args: argparse.Namespace) -> None:
    """Muon; the decoder of `vae` becomes the moving average of its weights."""
    graph, params, encoder = nnx.split(vae, of_decoder, ...)
    batch = max(1, round(args.batch * args.batch_scale))
    steps = round(STEPS * args.scale)
    optimizer = make_optimizer(args.lr, jnp.float32(steps))
    with computed_by(fastest()):
        _, average, _ = loop.run(
            "decoder",
            partial(train_step, graph, encoder, args.lr, batch, jax.random.key(args.seed)),
            untrained(params, optimizer),
            data,
            steps,
            limit=args.limit,
            checkpoint=args.work / "vae/further.npz",
            describe=lambda losses: f"{-10 * np.log10(losses[0] / 4):.2f} dB around the shape",
        )
    nnx.update(vae, average)


def of_decoder(path: tuple[Any, ...], _: Any) -> bool:
    return path[0] in ("decoder", "post_quant_conv")


def train_step(
    graph: nnx.GraphDef,
    encoder: nnx.State,
    lr: float,
    batch: int,
    seed: PRNGKeyArray,
    trained: Trained,
    data: Data,
    step: Int[Array, ""],
    total: Float[Array, ""],
) -> tuple[Trained, Float[Array, "1"]]:
    """One update; returns the mean square error where it counts too."""
    config = nnx.merge(graph, trained[0], encoder).config
    given = make_batch(data, batch, config, jax.random.fold_in(seed, step))
    seen = judged(given.corner, data.latents.shape[-1])[:, None, ..., None]

    def loss(params: nnx.State) -> tuple[Array, Array]:
        video = decode_crop(nnx.merge(graph, params, encoder), given)
        error = video - given.target
        square = jnp.sum(seen * error**2) / (jnp.sum(seen) * error.shape[1] * error.shape[-1])
        return reconstruction_loss(error, seen * edge_weights(given.target)), square[None]

    return descend(loss, make_optimizer(lr, total), trained, step, total)


def make_batch(data: Data, batch: int, config: Any, key: PRNGKeyArray) -> Batch:
    """Random clips, each with a square around where the shape is at a random time."""
    keys = jax.random.split(key, 6)
    clips, frames = data.centres.shape[:2]
    side, crop = data.latents.shape[-1], CROP * config.spatial_factor
    clip = jax.random.randint(keys[0], (batch,), 0, clips)
    time = jax.random.randint(keys[1], (batch,), 0, frames)
    aside = jax.random.uniform(keys[2], (batch, 2), minval=-0.7, maxval=0.7)
    corner = jnp.round(data.centres[clip, time] - CROP / 2 + aside)
    corner = jnp.clip(corner, 0, side - CROP).astype(jnp.int32)
    version = jax.random.randint(keys[5], (batch,), 0, len(data.latents))
    latents = jnp.moveaxis(data.latents[version, clip].astype(jnp.float32), 1, -1)
    scale = NOISE * jax.random.uniform(keys[3], (batch, 1, 1, 1, 1))
    noisy = latents + scale * jax.random.normal(keys[4], latents.shape)
    latents = noisy * jnp.array(config.latents_std) + jnp.array(config.latents_mean)

    def cut(clip: Array, corner: Array) -> Array:
        row, column = corner * config.spatial_factor
        return jax.lax.dynamic_slice(
            data.pixels, (clip, 0, row, column, 0), (1, frames, crop, crop, 3)
        )[0]

    pixels = jax.vmap(cut)(clip, corner)
    return Batch(latents, corner, pixels.astype(jnp.float32) / 127.5 - 1)


def decode_crop(vae: WanVAE, given: Batch) -> Float[Array, "b T crop crop 3"]:
    """The square alone, of which the layers at the latents' resolution saw the whole."""
    features, _ = vae.decode_middle(given.latents.astype(loop.COMPUTE), None)

    def cut(features: Array, corner: Array) -> Array:
        frames, _, _, channels = features.shape
        return jax.lax.dynamic_slice(features, (0, *corner, 0), (frames, CROP, CROP, channels))

    crop = jax.vmap(cut)(features, given.corner)
    return vae.decoder.enlarge(crop, Past(None), Stripe.whole(CROP)).astype(jnp.float32)


def judged(corner: Int[Array, "b 2"], side: int) -> Bool[Array, "b crop crop"]:
    """The pixels of a square that are not close to an edge of it inside the picture."""
    pixel = jnp.arange(8 * CROP)

    def along(first: Array) -> Array:
        after = (pixel >= BLIND) | (first == 0)[:, None]
        before = (pixel < 8 * CROP - BLIND) | (first == side - CROP)[:, None]
        return after & before

    return along(corner[:, 0])[:, :, None] & along(corner[:, 1])[:, None, :]


def make_optimizer(lr: float, total: Float[Array, ""]) -> optax.GradientTransformation:
    """Muon for the convolutions' kernels as matrices, Adam for all else, over `total` steps."""
    return muon(lr, ADAM_LR, total, kernel_matrices, warm_up=50)


def kernel_matrices(params):
    """The dimensions of windows of 3 x 3 with many outputs as (window and inputs, outputs)."""

    def matrix(value: Array) -> optax.contrib.MuonDimensionNumbers | None:
        wide = value.ndim in (4, 5) and value.shape[-3] == 3 and value.shape[-1] > 3
        inputs = tuple(range(value.ndim - 1))
        return optax.contrib.MuonDimensionNumbers(inputs, value.ndim - 1) if wide else None

    return jax.tree.map(matrix, params)


if __name__ == "__main__":
    main()
