"""Latents as a low-noise expert leaves them."""

from pathlib import Path

import denoised
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data import Dataset, encode_clips, encode_prompts
from denoised import make_denoised
from render import render_scenes
from train_decoder import Data, make_batch

import wanjax
from wanjax.checkpoints.folder import Folder
from wanjax.tiny.world import caption, sample_scene

TINY = Path(wanjax.__file__).parent / "tiny"


@pytest.fixture(scope="module")
def encoded() -> Dataset:
    """Three clips."""
    rng = np.random.default_rng(7)
    scenes = [sample_scene(rng) for _ in range(3)]
    clips, folder = render_scenes(scenes), Folder(TINY / "t2v", {})
    vae = folder.load_vae()
    context = encode_prompts(folder, ["", *(caption(scene, rng) for scene in scenes)])
    first = encode_clips(vae, clips, grey=True)
    return Dataset(encode_clips(vae, clips), first, context[1:, None], context[0])


@pytest.mark.parametrize("form", ["t2v", "i2v"])
def test_an_expert_leaves_latents_near_the_encoders(form, encoded, tmp_path, monkeypatch):
    monkeypatch.setattr(denoised, "_BATCH", 2)  # of three clips: the last batch is not full
    made = make_denoised(TINY / form, tmp_path, encoded, seed=0).astype(np.float32)
    assert made.shape == encoded.latents.shape
    apart = [np.mean((m - e) ** 2) for m, e in zip(made, encoded.latents, strict=True)]
    assert min(apart) > 1e-4
    assert max(apart) < 0.1  # noise of sigma 0.4 alone would be 0.16 and more
    (kept,) = tmp_path.rglob("*.npy")
    assert kept.relative_to(tmp_path) == Path(f"3-clips/denoised-{form}.npy")


def test_the_decoder_learns_from_every_version_of_the_latents(encoded):
    versions = jnp.stack([jnp.full_like(encoded.latents, value) for value in (0, 100)])
    pixels = jnp.zeros((3, 17, 64, 64, 3), jnp.uint8)
    data = Data(versions, pixels, jnp.full((3, 17, 2), 4.0))
    config = Folder(TINY / "t2v", {}).load_vae().config
    given = make_batch(data, 16, config, jax.random.key(0)).latents
    of_experts = jnp.mean(given, axis=(1, 2, 3, 4)) > 30
    assert 3 < of_experts.sum() < 13
