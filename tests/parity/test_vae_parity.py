"""The VAE against diffusers' `AutoencoderKLWan`, random weights, float32.

The reference also writes `tests/reference/vae.npz` and `vae22.npz`, which `tests/test_vae.py`
uses without torch: `WANJAX_WRITE_REFERENCE=1 pytest tests/parity/test_vae_parity.py`.
"""

import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

pytestmark = pytest.mark.parity
pytest.importorskip("diffusers")

import torch
from diffusers import AutoencoderKLWan

from wanjax.checkpoints.configs import model_configs
from wanjax.checkpoints.layouts.diffusers.vae import rules
from wanjax.checkpoints.mapping import entries, flat_parameters
from wanjax.models.configs import VAEConfig
from wanjax.models.vae import WanVAE
from wanjax.pipeline.vae_stream import decode_video, encode_video
from wanjax.sampling.programs import Programs

REFERENCE = Path(__file__).parents[1] / "reference"
TOLERANCE = 2e-5  # maximum error over maximum value; the subtlest known mistake shows as 4e-5
FORMS = {
    "small": {"base_dim": 8, "z_dim": 4, "num_res_blocks": 1},
    "two_blocks_wide_decoder": {
        "base_dim": 8,
        "decoder_base_dim": 16,
        "z_dim": 4,
        "num_res_blocks": 2,
    },
    "three_levels": {
        "base_dim": 8,
        "z_dim": 3,
        "num_res_blocks": 1,
        "dim_mult": [1, 3, 2],
        "temperal_downsample": [True, True],
    },
}
# of Wan 2.2's 5B model; the second has every case of widening, narrowing and of both resolutions
RESIDUAL = {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12}
RESIDUAL_FORMS = {
    "residual": RESIDUAL | {"base_dim": 8, "decoder_base_dim": 16, "z_dim": 6, "num_res_blocks": 2},
    "residual_three_levels": RESIDUAL
    | {
        "base_dim": 8,
        "z_dim": 3,
        "num_res_blocks": 1,
        "dim_mult": [2, 4, 4],
        "temperal_downsample": [True, True],
    },
}
FORMS |= RESIDUAL_FORMS


def diffusers_vae(**form):
    torch.manual_seed(0)
    z = form["z_dim"]
    vae = AutoencoderKLWan(latents_mean=[0.1] * z, latents_std=[2.0] * z, **form).eval()
    with torch.no_grad():
        for name, value in vae.named_parameters():
            if name.endswith("gamma"):
                value.copy_(1 + 0.3 * torch.randn_like(value))
            elif name.endswith("bias"):
                value.copy_(0.1 * torch.randn_like(value))
    return vae


def load(vae) -> WanVAE:
    config = VAEConfig.from_dict(dict(vae.config))
    graph, state = nnx.split(nnx.eval_shape(lambda: WanVAE(config, rngs=nnx.Rngs(0))))
    tensors = {key: value.numpy() for key, value in vae.state_dict().items()}
    variables = dict(flat_parameters(state))
    for entry in entries(state, rules(config)):
        value = entry.transform.load(tensors[entry.keys[0]])
        variables[entry.path].set_value(jnp.asarray(value))
    return nnx.merge(graph, state)


def channels_last(tensor) -> np.ndarray:
    return tensor.detach().numpy().transpose(0, 2, 3, 4, 1)


def assert_equal(got, expected):
    assert got.shape == expected.shape
    assert np.abs(np.asarray(got) - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.fixture(params=FORMS.values(), ids=FORMS.keys(), scope="module")
def pair(request):
    vae = diffusers_vae(**request.param)
    return vae, load(vae)


@pytest.fixture(scope="module")
def video():
    rng = np.random.default_rng(1)
    return rng.uniform(-1, 1, (2, 3, 9, 32, 48)).astype(np.float32)


def test_encode(pair, video):
    vae, ours = pair
    with torch.no_grad():
        posterior = vae.encode(torch.from_numpy(video)).latent_dist
    posterior_of = nnx.jit(lambda vae, video: vae.posterior(video))
    mean, log_variance = posterior_of(ours, jnp.asarray(video.transpose(0, 2, 3, 4, 1)))
    assert_equal(mean, channels_last(posterior.mean))
    assert_equal(log_variance, channels_last(posterior.logvar))


def test_decode(pair):
    vae, ours = pair
    z = vae.config.z_dim
    latents = np.random.default_rng(2).normal(size=(2, z, 3, 2, 3)).astype(np.float32)
    with torch.no_grad():
        expected = vae.decode(torch.from_numpy(latents)).sample
    video = nnx.jit(lambda vae, latents: vae.decode(latents))(
        ours, jnp.asarray(latents.transpose(0, 2, 3, 4, 1))
    )
    assert_equal(video, channels_last(expected))
    assert np.std(video) > 0.1


def test_streams_equal_diffusers_chunks(pair, video):
    vae, ours = pair
    with torch.no_grad():
        latents = vae.encode(torch.from_numpy(video)).latent_dist.mode()
        expected = vae.decode(latents).sample
    ours_latents = encode_video(ours, video.transpose(0, 2, 3, 4, 1), Programs())
    assert_equal(ours_latents, channels_last(latents))
    for stripe_rows in (None, 1):
        frames = decode_video(
            ours, jnp.asarray(channels_last(latents)), Programs(), stripe_rows=stripe_rows
        )
        assert_equal(frames, channels_last(expected))


@pytest.mark.parametrize(
    ("model", "count"),
    [
        ("Wan-AI/Wan2.2-T2V-A14B-Diffusers", 126_892_531),
        ("Wan-AI/Wan2.2-TI2V-5B-Diffusers", 704_688_668),
    ],
)
def test_keys_of_the_published_sizes(model, count):
    values = dict(model_configs(model).components["vae"])
    with torch.device("meta"):
        vae = AutoencoderKLWan.from_config(values)
    expected = {key: tuple(value.shape) for key, value in vae.state_dict().items()}
    config = VAEConfig.from_dict(values)
    abstract = nnx.eval_shape(lambda: WanVAE(config, rngs=nnx.Rngs(0)))
    table = entries(nnx.state(abstract), rules(config))
    assert {entry.keys[0]: entry.shape for entry in table} == expected
    assert sum(np.prod(entry.shape) for entry in table) == count


@pytest.mark.parametrize("name", ["vae", "vae22"])
def test_reference_arrays_are_current(name):
    """Weights rounded to float16, to keep the file small."""
    form = {"base_dim": 4, "z_dim": 4, "num_res_blocks": 1, "dim_mult": [1, 2, 2, 2]}
    vae = diffusers_vae(**form | (RESIDUAL if name == "vae22" else {})).half().float()
    tensors = {key: value.half().numpy() for key, value in vae.state_dict().items()}
    rng = np.random.default_rng(3)
    size = (16, 24) if name == "vae" else (32, 32)
    clip = rng.uniform(-1, 1, (1, 3, 9, *size)).astype(np.float16).astype(np.float32)
    with torch.no_grad():
        mean = vae.encode(torch.from_numpy(clip)).latent_dist.mode()
        decoded = vae.decode(mean).sample
    arrays = {
        "in.video": channels_last(torch.from_numpy(clip)),
        "out.mean": channels_last(mean),
        "out.video": channels_last(decoded),
    }
    if os.environ.get("WANJAX_WRITE_REFERENCE"):
        np.savez_compressed(REFERENCE / f"{name}.npz", **tensors, **arrays)
    stored = np.load(REFERENCE / f"{name}.npz")
    assert set(stored.files) == {*tensors, *arrays}
    for name in arrays:
        assert_equal(stored[name], arrays[name])
