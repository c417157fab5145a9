"""The VAE in stripes of rows: equal to whole frames, few programs, bounded memory."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wanjax.checkpoints.configs import model_configs
from wanjax.models.configs import VAEConfig
from wanjax.models.vae import WanVAE
from wanjax.models.vae_layers import Stripe, conv3d
from wanjax.models.vae_memory import Size, choose_stripes, parameter_count, running_bytes
from wanjax.models.vae_stripes import (
    cache_shapes,
    decoder_middle,
    decoder_stripes,
    encoder_middle,
    encoder_stripes,
    rounds,
    stripe_starts,
)
from wanjax.pipeline import vae_stream
from wanjax.pipeline.vae_stream import decode_pieces, decode_video, encode_video
from wanjax.sampling.programs import Programs

ROWS, COLUMNS = 23, 2  # tall enough for a stripe with nothing but neighbours on either side
CONFIG = VAEConfig(
    base_dim=4, z_dim=4, num_res_blocks=1, latents_mean=(0.0,) * 4, latents_std=(1.0,) * 4
)
# Equal to rounding: other shapes let XLA sum in another order. Two rows too few of a margin show
# as 1e-3 at the least.
TOLERANCE = 1e-5


RESIDUAL = replace(
    CONFIG, is_residual=True, patch_size=2, in_channels=12, out_channels=12, decoder_base_dim=8
)


@pytest.fixture(scope="module")
def vae():
    return WanVAE(CONFIG, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def latents():
    return 0.3 * jax.random.normal(jax.random.key(1), (1, 2, ROWS, COLUMNS, 4))


@pytest.fixture(scope="module")
def video():
    rng = np.random.default_rng(2)
    return rng.uniform(-1, 1, (1, 5, 8 * ROWS, 8 * COLUMNS, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def decoded(vae, latents, programs):
    """In one stripe, which `test_vae.py` holds against diffusers."""
    return decode_video(vae, latents, programs)


@pytest.fixture(scope="module")
def encoded(vae, video, programs):
    return encode_video(vae, video, programs)


@pytest.fixture(scope="module")
def programs():
    return Programs()


class CountedCalls(Programs):
    """Counts the calls of its programs."""

    calls = 0

    def get(self, *args):
        program = super().get(*args)

        def counted(*values):
            self.calls += 1
            return program(*values)

        return counted


def assert_equal(got, expected):
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("rows", [1, 6, 22])
def test_striped_decode_equals_the_whole(vae, latents, decoded, programs, rows):
    assert_equal(decode_video(vae, latents, programs, stripe_rows=rows), decoded)


@pytest.mark.parametrize("rows", [4])
def test_striped_encode_equals_the_whole(vae, video, encoded, programs, rows):
    assert_equal(encode_video(vae, video, programs, stripe_rows=rows), encoded)


@pytest.mark.slow
@pytest.mark.parametrize("residual", [False, True])
def test_other_forms_have_their_own_margins(residual):
    patches = {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12}
    config = VAEConfig(
        base_dim=2,
        decoder_base_dim=4,
        z_dim=2,
        num_res_blocks=2,
        dim_mult=(1, 4, 4) if residual else (1, 3, 2),
        temperal_downsample=(True, True),
        **(patches if residual else {}),
        latents_mean=(0.0,) * 2,
        latents_std=(1.0,) * 2,
    )
    vae, programs = WanVAE(config, rngs=nnx.Rngs(3)), Programs()
    latents = 0.3 * jax.random.normal(jax.random.key(4), (1, 2, ROWS, 1, 2))
    video = decode_video(vae, latents, programs)
    assert_equal(decode_video(vae, latents, programs, stripe_rows=4), video)
    encoded = encode_video(vae, video, programs)
    assert_equal(encode_video(vae, video, programs, stripe_rows=4), encoded)


def test_three_programs_whatever_the_number_of_frames_and_stripes(vae):
    programs = Programs()
    for frames in (2, 3):
        latents = jnp.zeros((1, frames, ROWS, COLUMNS, 4))
        pieces = list(decode_pieces(vae, latents, programs, stripe_rows=6))
        assert len(programs) == 3
        assert [piece.row for piece in pieces[::frames]] == [0, 48, 96, 136]
        assert [piece.frame for piece in pieces[:frames]] == [0, 1, 5][:frames]


def test_the_last_stripe_moves_up_to_be_as_high_as_the_others():
    assert stripe_starts(6, 23) == [0, 6, 12, 17]
    assert stripe_starts(23, 23) == [0]


def test_devices_take_stripes_in_rounds():
    """Those for which no rows are left do the last stripe once more."""
    assert rounds(6, 23, devices=1) == [[0], [6], [12], [17]]
    assert rounds(3, 23, devices=8) == [[0, 3, 6, 9, 12, 15, 18, 20]]
    assert rounds(6, 23, devices=3) == [[0, 6, 12], [17, 17, 17]]


@pytest.fixture(scope="module")
def on_a_mesh():
    """What `striped_vae.py` finds with eight CPU devices, by name of the case."""
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "striped_vae.py")],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["devices"] == 8
    return facts["cases"]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["overlapping", "two rounds", "dividing"])
def test_a_stripe_on_each_of_eight_devices_equals_the_whole(on_a_mesh, case):
    facts = on_a_mesh[case]
    assert max(facts["decode"], facts["encode"]) < TOLERANCE
    assert facts["programs"] == 6  # three each way
    assert facts["cache held"] == [1 / 8]
    assert facts["collectives"] == {"all-gather": 1}  # of the results; stripes need no neighbours


@pytest.mark.parametrize("rows", [2, ROWS])
@pytest.mark.parametrize("direction", ["decode", "encode"])
@pytest.mark.parametrize("config", [CONFIG, RESIDUAL], ids=["2.1", "2.2"])
def test_the_layers_declared_are_those_of_the_network(config, direction, rows):
    """Caches have the declared sizes, and the same ones from chunk to chunk."""
    decode = direction == "decode"
    graph, params = nnx.split(nnx.eval_shape(lambda: WanVAE(config, rngs=nnx.Rngs(0))))
    vae = nnx.merge(graph, jax.tree.map(lambda x: jnp.zeros(x.shape), params))
    middle, layers = (
        (decoder_middle(config), decoder_stripes(config))
        if decode
        else (encoder_middle(config), encoder_stripes(config))
    )

    def abstract(shape):
        return jax.ShapeDtypeStruct(tuple(shape), jnp.float32)

    def stripe(x, cache):
        return getattr(vae, f"{direction}_stripe")(x, cache, Stripe(jnp.int32(1), rows, ROWS))

    first = layers[0]
    size = (ROWS * first.scale, COLUMNS * first.scale, first.inputs)
    if not decode:  # pixels, of which the network makes patches
        size = (ROWS * config.spatial_factor, COLUMNS * config.spatial_factor, 3)
    expected = tuple(map(abstract, cache_shapes(layers, 1, ROWS, COLUMNS, rows)))
    assert jax.eval_shape(stripe, abstract((1, 1, *size)), None)[1] == expected
    result, cache = jax.eval_shape(stripe, abstract((1, first.frames, *size)), expected)
    assert cache == expected
    last = layers[-1]
    scale, outputs = (config.spatial_factor, 3) if decode else (1, last.outputs)
    assert result.shape == (1, last.frames, rows * scale, COLUMNS * scale, outputs)

    whole = abstract((1, 1, ROWS, COLUMNS, middle[0].inputs))
    _, cache = jax.eval_shape(getattr(vae, f"{direction}_middle"), whole, None)
    assert cache == tuple(map(abstract, cache_shapes(middle, 1, ROWS, COLUMNS)))


def test_the_cache_is_not_held_twice(vae, latents):
    """All of it is given up to the program which returns the next one."""
    graph, params = nnx.split(vae)
    shapes = cache_shapes(decoder_stripes(CONFIG), 1, ROWS, COLUMNS, 4)
    cache = tuple(map(jnp.zeros, shapes))
    features = jnp.zeros((1, 1, ROWS, COLUMNS, decoder_stripes(CONFIG)[0].inputs))
    args = (params, features, cache, np.zeros(1, np.int32))
    program = vae_stream._next.lower(graph, "decode_stripe", 4, ROWS, *args).compile()
    assert program.memory_analysis().alias_size_in_bytes >= sum(x.nbytes for x in cache)
    program(*args)
    assert all(x.is_deleted() for x in cache)


def test_grey_frames_behind_an_image_are_looked_at_once(vae, monkeypatch):
    video = np.zeros((1, 57, 16, 16, 3), np.float32)  # 14 chunks behind the first frame
    video[:, 0] = np.random.default_rng(5).uniform(-1, 1, (16, 16, 3))
    video[:, -1] = -1  # and a last frame after them
    programs = CountedCalls()
    got = encode_video(vae, video, programs)
    calls = programs.calls
    monkeypatch.setattr(vae_stream, "_unchanged", lambda chunks, memory: [False] * len(chunks))
    expected = encode_video(vae, video, programs)
    assert np.array_equal(got, expected)
    assert programs.calls - calls == 30  # every chunk once below, once at the latents' resolution
    assert calls < 28


def test_convolutions_follow_the_platform_which_is_compiled_for():
    """Not the one that compiles: a laptop compiles for TPUs too."""
    x, kernel = jnp.zeros((1, 4, 4, 4, 2)), jnp.zeros((3, 3, 3, 2, 2))
    traced = jax.jit(conv3d).trace(x, kernel)
    text = {
        platform: traced.lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "tpu", "cuda")
    }
    whole = "tensor<3x3x3x2x2xf32>) -> tensor<1x2x4x4x2xf32>"
    assert {platform: text[platform].count("stablehlo.convolution") for platform in text} == {
        "cpu": 3,
        "tpu": 1,
        "cuda": 1,
    }
    assert whole in text["tpu"]


def test_a_whole_frame_is_not_cut():
    """One stripe costs nothing over a network without stripes."""
    first = decoder_stripes(CONFIG)[0]
    x = jnp.zeros((1, 1, ROWS, COLUMNS, first.inputs))
    assert Stripe.whole(ROWS).cut(x, first) is x


SIZE_720P = Size(height=720, width=1280, frames=81)


@pytest.mark.parametrize(
    ("direction", "rows", "lanes", "compiled_gib"),
    [
        ("decode", 90, 1, 14.48),
        ("decode", 45, 1, 9.38),
        ("decode", 30, 1, 6.60),
        ("encode", 90, 1, 12.99),
        ("encode", 45, 1, 8.04),
        ("decode", 45, 128, 10.97),
        ("encode", 45, 128, 9.19),
    ],
)
def test_the_estimate_is_within_15_percent_of_what_was_compiled(
    direction, rows, lanes, compiled_gib
):
    """XLA's figures for the full size on an H100 (1 lane) and a v5e (128), `docs/vae_memory.md`."""
    layers = {"decode": decoder_stripes, "encode": encoder_stripes}[direction](VAEConfig())
    estimate = running_bytes(layers, replace(SIZE_720P, lanes=lanes), 90, 160, rows)
    assert abs(estimate / 2**30 / compiled_gib - 1) < 0.15


def test_as_few_stripes_as_fit():
    config = VAEConfig()
    assert choose_stripes(config, "decode", SIZE_720P, 23 * 2**30).count == 1
    tpu = replace(SIZE_720P, lanes=128)
    assert choose_stripes(config, "decode", tpu, 15 * 2**30).rows == 45
    tight = choose_stripes(config, "decode", tpu, 8 * 2**30)
    assert tight.count > 2
    assert tight.peak_bytes <= 8 * 2**30
    assert choose_stripes(config, "decode", tpu, 15 * 2**30, devices=8).rows == 12  # of 90
    assert choose_stripes(config, "decode", tpu, 4 * 2**30, devices=8).rows == 6  # twice
    with pytest.raises(ValueError, match=r"720x1280.* even in stripes of one row, 1\.0 GiB"):
        choose_stripes(config, "decode", SIZE_720P, 2**30)


def test_parameters_are_counted():
    """Diffusers' model has 126,892,531, of which biases and norms are few."""
    assert parameter_count(VAEConfig()) == pytest.approx(126_892_531, rel=1e-3)
    published = model_configs("Wan-AI/Wan2.2-TI2V-5B-Diffusers").components["vae"]
    count = parameter_count(VAEConfig.from_dict(dict(published)))
    assert count == pytest.approx(704_688_668, rel=1e-3)
