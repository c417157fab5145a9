"""Training data of the experts: clips and captions through the trained VAE and text encoder."""

from __future__ import annotations

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
from wanjax.models.vae import WanVAE
from wanjax.tiny.world import caption, sample_scene

CAPTIONS_PER_CLIP = 4
MAX_SEQUENCE_LENGTH = 32
_BATCH = 16


@dataclass(frozen=True)
class Dataset:
    """Latents are normalised; `first` are those of the first frame followed by grey."""

    latents: Float[np.ndarray, "clips z t h w"]
    first: Float[np.ndarray, "clips z t h w"]
    context: Float[np.ndarray, "clips captions length dim"]
    empty_context: Float[np.ndarray, "length dim"]


def make_dataset(root: Path, cache: Path, clips: int, seed: int = 0) -> Dataset:
    """Render, encode and keep in `cache` (an .npz file); read it from there if it exists."""
    if not cache.exists():
        folder = Folder(root, {})
        rng = np.random.default_rng(seed)
        scenes = [sample_scene(rng) for _ in range(clips)]
        texts = [caption(scene, rng) for scene in scenes for _ in range(CAPTIONS_PER_CLIP)]
        context = encode_prompts(folder, ["", *texts])
        vae = folder.load_vae()
        latents, first = [], []
        for i in trange(0, clips, _BATCH, desc="encoding clips", mininterval=10):
            video = render_scenes(scenes[i : i + _BATCH]).astype(np.float32) / 127.5 - 1
            latents.append(encode_clips(vae, video))
            still = np.zeros_like(video)
            still[:, 0] = video[:, 0]
            first.append(encode_clips(vae, still))
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            cache,
            latents=np.concatenate(latents).astype(np.float16),
            first=np.concatenate(first).astype(np.float16),
            context=context[1:].reshape(clips, CAPTIONS_PER_CLIP, *context.shape[1:]),
            empty_context=context[0],
        )
    with np.load(cache) as arrays:
        return Dataset(**{key: arrays[key] for key in arrays.files})


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
