"""Training data of the experts: clips and captions through the trained VAE and text encoder.

    python recipes/tiny/data.py --root src/wanjax/tiny/t2v --clips 24000

makes it in `work/tiny`, from which the training programs read it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from convolutions import computed_by, fastest
from flax import nnx
from jaxtyping import Float, UInt8
from loop import COMPUTE
from render import render_scenes, training_scenes
from tqdm import tqdm

from wanjax.checkpoints.folder import Folder
from wanjax.files import atomic_path
from wanjax.models.vae import WanVAE
from wanjax.tiny.world import Scene, caption, sample_scene

CAPTIONS_PER_CLIP = 4
MAX_SEQUENCE_LENGTH = 32
HELD_OUT = 256  # clips to measure the loss on
HELD_OUT_SEED = 11_000
_BATCH = 64


@dataclass(frozen=True)
class Dataset:
    """Latents are normalised; `first` are those of the first frame followed by grey."""

    latents: Float[np.ndarray, "clips z t h w"]
    first: Float[np.ndarray, "clips z t h w"]
    context: Float[np.ndarray, "clips captions length dim"]
    empty_context: Float[np.ndarray, "length dim"]


def make_dataset(root: Path, work: Path, clips: int, seed: int = 0) -> Dataset:
    """Encode the first of the drawn clips, `work/clips.npy`; what is there already is read."""
    scenes = training_scenes(clips, seed)
    drawn = np.load(work / "clips.npy", mmap_mode="r")
    if len(drawn) < clips:
        raise SystemExit(f"{work}/clips.npy has {len(drawn)} clips, {clips} are wanted")
    return _encoded(root, work / f"{clips}-clips", scenes, drawn[:clips], seed)


def make_held_out(root: Path, work: Path, clips: int) -> Dataset:
    """The same of combinations that training does not see, as many or fewer."""
    clips = min(clips, HELD_OUT)
    rng = np.random.default_rng(HELD_OUT_SEED)
    scenes = [sample_scene(rng, held_out=True) for _ in range(clips)]
    return _encoded(root, work / f"{clips}-held-out", scenes, render_scenes(scenes), HELD_OUT_SEED)


def _encoded(root: Path, work: Path, scenes: list[Scene], clips: np.ndarray, seed: int) -> Dataset:
    rng = np.random.default_rng([seed, 1])
    texts = [caption(scene, rng) for scene in scenes for _ in range(CAPTIONS_PER_CLIP)]
    folder = Folder(root, {})
    context = kept(work / "context.npy", lambda: encode_prompts(folder, ["", *texts]))
    latents = kept(work / "latents.npy", lambda: encode_clips(folder.load_vae(), clips))
    first = kept(work / "first.npy", lambda: encode_clips(folder.load_vae(), clips, grey=True))
    captions = context[1:].reshape(len(scenes), CAPTIONS_PER_CLIP, *context.shape[1:])
    return Dataset(latents, first, captions, context[0])


def kept(file: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """What `make` gives as half precision, made once: afterwards `file` has it."""
    if not file.exists():
        with atomic_path(file) as partial_file:
            np.save(partial_file, make().astype(np.float16))
    return np.load(file)


def encode_clips(
    vae: WanVAE, clips: UInt8[np.ndarray, "b T H W 3"], *, grey: bool = False
) -> Float[np.ndarray, "b z t h w"]:
    """Normalised latents, channels where the transformer has them, of the clips or (`grey`) of
    their first frames before grey ones."""

    @nnx.jit
    def encode(vae: WanVAE, video: jax.Array) -> jax.Array:
        video = video.astype(jnp.float32) / 127.5 - 1
        video = video.at[:, 1:].set(0) if grey else video
        latents = vae.encode(video.astype(COMPUTE)).astype(jnp.float32)
        return jnp.moveaxis(vae.normalize(latents), -1, 1).astype(jnp.float16)

    parts = []
    with computed_by(fastest()):
        for i in tqdm(range(0, len(clips), _BATCH), "first frames" if grey else "clips"):
            part = clips[i : i + _BATCH]
            whole = padded(part, _BATCH) if i else part
            parts.append(np.asarray(encode(vae, whole)[: len(part)]))
    return np.concatenate(parts)


def padded(part: np.ndarray, length: int) -> np.ndarray:
    """With zeros at its end as long as a whole batch, so that one shape alone is compiled."""
    return np.pad(part, [(0, length - len(part)), *[(0, 0)] * (part.ndim - 1)])


def encode_prompts(folder: Folder, prompts: list[str]) -> Float[np.ndarray, "b length dim"]:
    """Text embeddings as the pipeline makes them: zero beyond each prompt's end."""
    ids, mask = folder.load_tokenizer()(prompts, MAX_SEQUENCE_LENGTH)
    encoder = folder.load_text_encoder(dtype=jnp.float32)
    encode = nnx.jit(lambda model, ids, mask: model(ids, mask) * mask[..., None])
    batches = range(0, len(prompts), 1024)
    return np.concatenate(
        [
            np.asarray(encode(encoder, ids[i : i + 1024], mask[i : i + 1024]), np.float16)
            for i in batches
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="with vae/ and text_encoder/")
    parser.add_argument("--work", type=Path, default=Path("work/tiny"), help="with clips.npy")
    parser.add_argument("--clips", type=int, default=24_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    data = make_dataset(args.root, args.work, args.clips, args.seed)
    make_held_out(args.root, args.work, args.clips)
    spread = data.latents.astype(np.float32)[:1000].std()
    print(f"{args.clips} clips encoded; deviation of the latents {spread:.3f}")


if __name__ == "__main__":
    main()
