"""Training data of the experts: clips and captions through the trained VAE and text encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float
from render import render_scenes
from tqdm import trange

from wanjax.checkpoints.folder import Folder
from wanjax.files import atomic_path
from wanjax.models.vae import WanVAE
from wanjax.tiny.world import Scene, caption, sample_scene

CAPTIONS_PER_CLIP = 4
MAX_SEQUENCE_LENGTH = 32
_BATCH = 16


@dataclass(frozen=True)
class Dataset:
    """Latents are normalised; `first` are those of the first frame followed by grey."""

    latents: Float[np.ndarray, "clips z t h w"]
    context: Float[np.ndarray, "clips captions length dim"]
    empty_context: Float[np.ndarray, "length dim"]
    first: Float[np.ndarray, "clips z t h w"] | None = None


def make_dataset(root: Path, work: Path, clips: int, image: bool, seed: int = 0) -> Dataset:
    """Render and encode; each part is kept in `work` and read from there if it exists."""
    rng = np.random.default_rng(seed)
    scenes = [sample_scene(rng) for _ in range(clips)]
    texts = [caption(scene, rng) for scene in scenes for _ in range(CAPTIONS_PER_CLIP)]
    folder = Folder(root, {})
    context = _kept(work / "context.npy", lambda: encode_prompts(folder, ["", *texts]))
    latents = _kept(work / "latents.npy", lambda: encode_scenes(folder, scenes, grey=False))
    first = None
    if image:
        first = _kept(work / "first.npy", lambda: encode_scenes(folder, scenes, grey=True))
    captions = context[1:].reshape(clips, CAPTIONS_PER_CLIP, *context.shape[1:])
    return Dataset(latents, captions, context[0], first)


def _kept(file: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    if not file.exists():
        with atomic_path(file) as partial_file:
            np.save(partial_file, make().astype(np.float16))
    return np.load(file)


def encode_scenes(
    folder: Folder, scenes: Sequence[Scene], grey: bool
) -> Float[np.ndarray, "clips z t h w"]:
    """Latents of the scenes' clips, or (`grey`) of their first frames before grey ones."""
    vae, latents = folder.load_vae(), []
    for i in trange(0, len(scenes), _BATCH, desc="encoding clips", mininterval=10):
        video = render_scenes(scenes[i : i + _BATCH]).astype(np.float32) / 127.5 - 1
        if grey:
            video[:, 1:] = 0
        latents.append(encode_clips(vae, video))
    return np.concatenate(latents)


def encode_clips(
    vae: WanVAE, video: Float[np.ndarray, "b T H W 3"]
) -> Float[np.ndarray, "b z t h w"]:
    """Normalised latents with the channels where the transformer has them."""
    return np.moveaxis(np.asarray(_encode(vae, video)), -1, 1)


@nnx.jit
def _encode(vae: WanVAE, video: jax.Array) -> jax.Array:
    return vae.normalize(vae.encode(video))


def encode_prompts(folder: Folder, prompts: list[str]) -> Float[np.ndarray, "b length dim"]:
    """Text embeddings as the pipeline makes them: zero beyond each prompt's end."""
    ids, mask = folder.load_tokenizer()(prompts, MAX_SEQUENCE_LENGTH)
    encoder = folder.load_text_encoder(dtype=jnp.float32)
    encode = nnx.jit(lambda model, ids, mask: model(ids, mask) * mask[..., None])
    batches = range(0, len(prompts), 256)
    return np.concatenate(
        [
            np.asarray(encode(encoder, ids[i : i + 256], mask[i : i + 256]), np.float16)
            for i in batches
        ]
    )
