"""The VAE without torch: stored arrays of diffusers, chunks, configuration."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wanjax.checkpoints.layouts.diffusers.vae import rules
from wanjax.checkpoints.mapping import entries, flat_parameters
from wanjax.errors import CheckpointError, UsageError
from wanjax.models.configs import VAEConfig
from wanjax.models.vae import WanVAE
from wanjax.models.vae_layers import _conv3d_by_taps, _conv3d_direct
from wanjax.pipeline.vae_stream import decode_pieces, encode_video
from wanjax.sampling.programs import Programs

REFERENCE = Path(__file__).parent / "reference"
FORM = {
    "base_dim": 4,
    "z_dim": 4,
    "num_res_blocks": 1,
    "dim_mult": [1, 2, 2, 2],
    "latents_mean": [0.5, -1.0, 0.0, 2.0],
    "latents_std": [2.0, 0.5, 1.0, 3.0],
}
RESIDUAL = {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12}
FORMS = {"vae": FORM, "vae22": FORM | RESIDUAL}


@pytest.fixture(scope="module", params=FORMS)
def form(request):
    return request.param


@pytest.fixture(scope="module")
def stored(form):
    with np.load(REFERENCE / f"{form}.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def vae(form, stored):
    """The model whose results `tests/parity/test_vae_parity.py` stored."""
    config = VAEConfig.from_dict(FORMS[form])
    graph, state = nnx.split(nnx.eval_shape(lambda: WanVAE(config, rngs=nnx.Rngs(0))))
    variables = dict(flat_parameters(state))
    for entry in entries(state, rules(config)):
        value = entry.transform.load(stored[entry.keys[0]])
        variables[entry.path].set_value(jnp.asarray(value, jnp.float32))
    return nnx.merge(graph, state)


def assert_equal(got, expected, tolerance=2e-5):
    assert got.shape == expected.shape
    assert np.abs(np.asarray(got) - expected).max() <= tolerance * np.abs(expected).max()


def test_whole_video_equals_diffusers(vae, stored):
    @nnx.jit
    def round_trip(vae, video):
        mean = vae.encode(video)
        return mean, vae.decode(mean)

    mean, video = round_trip(vae, stored["in.video"])
    assert_equal(mean, stored["out.mean"])
    assert_equal(video, stored["out.video"])


def test_streams_equal_diffusers_with_three_programs_each(vae, stored):
    programs = Programs()
    latents = encode_video(vae, stored["in.video"], programs)
    assert len(programs) == 3
    pieces = list(decode_pieces(vae, jnp.asarray(stored["out.mean"]), programs))
    assert len(programs) == 6
    assert [(piece.frame, piece.row, piece.pixels.shape[1]) for piece in pieces] == [
        (0, 0, 1),
        (1, 0, 4),
        (5, 0, 4),
    ]
    assert_equal(latents, stored["out.mean"])
    assert_equal(np.concatenate([piece.pixels for piece in pieces], axis=1), stored["out.video"])


def test_bfloat16_stays_bfloat16(vae):
    latents = jax.ShapeDtypeStruct((1, 2, 2, 3, 4), jnp.bfloat16)
    video = jax.eval_shape(vae.decode, latents)
    factor = vae.config.spatial_factor
    assert (video.dtype, video.shape) == (jnp.bfloat16, (1, 5, 2 * factor, 3 * factor, 3))
    assert jax.eval_shape(vae.encode, video) == latents


@pytest.mark.parametrize("time_stride", [1, 2])
def test_the_two_convolutions_agree(time_stride):
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (2, 7, 6, 5, 3))
    kernel = jax.random.normal(keys[1], (3, 3, 3, 3, 4))
    direct = _conv3d_direct(x, kernel, time_stride)
    assert_equal(_conv3d_by_taps(x, kernel, time_stride), direct, 1e-6)


def test_normalize(vae):
    latents = jnp.array([[0.5, -1.0, 0.0, 5.0], [2.5, -0.5, 1.0, 2.0]])
    expected = [[0, 0, 0, 1], [1, 1, 1, 0]]
    np.testing.assert_allclose(vae.normalize(latents), expected)
    np.testing.assert_allclose(vae.denormalize(vae.normalize(latents)), latents)


def test_config():
    config = VAEConfig.from_dict({"base_dim": 96, "clip_output": True, "attn_scales": []})
    assert config == VAEConfig()
    assert (config.temporal_factor, config.spatial_factor) == (4, 8)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"patch_size": 2}, "in_channels=3: must be 12, the colours of a patch, for patch_size=2"),
        ({"is_residual": True, "dim_mult": [1, 2, 4, 8]}, "width must divide"),
        ({"attn_scales": [0.5]}, "attn_scales="),
        ({"z_dim": 4}, "latents_mean has 16 values, expected 4"),
        ({"dim_mult": [1, 2, 4]}, "temperal_downsample has 3 values, expected 2"),
        ({"dim_mult": []}, r"dim_mult=\[\]: must have a length of at least 1"),
        ({"dim_mult": [1] * 99}, "must have a length of at most 6"),
        ({"temperal_downsample": [0, 1, 1]}, r"temperal_downsample\[0\]=0: must be true or false"),
        ({"latents_std": [0.0] + [1.0] * 15}, r"latents_std\[0\]=0.0: must be above 0"),
        ({"latents_mean": [float("nan")] * 16}, r"latents_mean\[0\]=nan.*; and 13 more"),
        ({"num_res_blocks": 10**9}, "num_res_blocks=1000000000: must be at most 8"),
        ({"base_dim": 0}, "base_dim=0: must be at least 1"),
    ],
)
def test_config_refuses(values, key):
    with pytest.raises(CheckpointError, match=key):
        VAEConfig.from_dict(values)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 4, 16, 16, 3), "num_frames=4.* such as 5"), ((1, 5, 16, 20, 3), "16x20.*multiples of ")],
)
def test_encode_refuses(vae, shape, message):
    with pytest.raises(UsageError, match=message):
        vae.encode(jnp.zeros(shape))
