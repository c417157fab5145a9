"""Latents as a low-noise expert leaves them."""

from pathlib import Path

import denoised
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data import Dataset, make_held_out
from denoised import make_denoised
from train_decoder import Data, make_batch

import wanjax
from wanjax.checkpoints.folder import Folder

TINY = Path(wanjax.__file__).parent / "tiny"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def encoded(tmp_path_factory) -> Dataset:
    """Three clips."""
    return make_held_out(TINY / "t2v", tmp_path_factory.mktemp("work"), 3)


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
