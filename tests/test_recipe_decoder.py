"""Training the bundled VAE's decoder on squares around the shape."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import train_decoder
from flax import nnx
from render import render_clips
from train_decoder import BLIND, CROP, Batch, decode_crop, judged, kernel_matrices, of_decoder

import wanjax
from wanjax.checkpoints.folder import Folder
from wanjax.models.vae import WanVAE

TINY = Path(wanjax.__file__).parent / "tiny/t2v"


@pytest.fixture(scope="module")
def tiny_vae() -> WanVAE:
    return Folder(TINY, {}).load_vae()


@pytest.mark.slow
def test_a_square_of_the_whole_picture_is_what_the_vae_decodes(tiny_vae, monkeypatch):
    latents = jax.random.normal(jax.random.key(0), (2, 2, 8, 8, 16))
    monkeypatch.setattr(train_decoder, "CROP", 8)
    whole = decode_crop(tiny_vae, Batch(latents, jnp.zeros((2, 2), int), jnp.zeros(0)))
    np.testing.assert_allclose(whole, tiny_vae.reconstruct(latents), atol=2e-5)


@pytest.mark.slow
def test_a_square_is_cut_where_its_corner_is(tiny_vae):
    """Its middle hardly feels the zeros beyond its edges."""
    clips, _ = render_clips(np.random.default_rng(0), 2, frames=5)
    latents = tiny_vae.encode(jnp.asarray(clips, jnp.float32) / 127.5 - 1)
    corner = jnp.array([[0, 3], [4, 1]])
    found = decode_crop(tiny_vae, Batch(latents, corner, jnp.zeros(0)))
    whole = tiny_vae.reconstruct(latents)
    for square, video, (row, column) in zip(found, whole, 8 * np.asarray(corner), strict=True):
        expected = video[:, row : row + 8 * CROP, column : column + 8 * CROP]
        at = slice(14, 18)
        np.testing.assert_allclose(square[:, at, at], expected[:, at, at], atol=0.15)
        assert jnp.abs(square - jnp.roll(expected, 8, axis=1)).max() > 0.5


def test_pixels_next_to_what_is_cut_off_do_not_count():
    at_corner, inside = np.asarray(judged(jnp.array([[0, 4], [2, 1]]), 8))
    side = 8 * CROP
    assert at_corner[: side - BLIND, BLIND:].all()
    assert not at_corner[side - BLIND :].any()
    assert not at_corner[:, :BLIND].any()
    assert inside.sum() == (side - 2 * BLIND) ** 2


def test_muon_takes_the_decoders_kernels_and_nothing_else(tiny_vae):
    _, params, _ = nnx.split(tiny_vae, of_decoder, ...)
    taken = {
        "/".join(map(str, path)): dims
        for path, dims in nnx.to_flat_state(kernel_matrices(params))
        if dims.get_value() is not None
    }
    assert len(taken) > 20
    assert all(path.startswith("decoder/") for path in taken)
    assert "decoder/conv_out/kernel" not in taken  # 3 colours
