"""The transformer against stored arrays of diffusers (written by tests/parity), and alone."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from wanjax.checkpoints.layouts.diffusers.transformer import RULES
from wanjax.checkpoints.load import load_parameters
from wanjax.checkpoints.tensor_files import TensorFiles
from wanjax.errors import CheckpointError, UsageError
from wanjax.models.configs import TransformerConfig
from wanjax.models.kernels.choose import Blocks, Kernel
from wanjax.models.rope import apply_rope, rope_tables
from wanjax.models.transformer import WanTransformer
from wanjax.parallel.sharding import constrain

REFERENCE = Path(__file__).parent / "reference" / "transformer.npz"
FORMS = ("t2v", "i2v-2.2", "i2v-2.1")
# erf GELU in place of tanh, the subtlest mistake tried, shows as 5e-5
TOLERANCE = 2e-5


@nnx.jit
def call(model, latents, timestep, text, image=None):
    return model(latents, timestep, model.embed_context(text, image))


@pytest.fixture(scope="module")
def stored():
    """Arrays by form and name; inputs and weights (a checkpoint's tensors) are float16."""
    cases: dict[str, dict] = {form: {"weights": {}} for form in FORMS}
    with np.load(REFERENCE) as arrays:
        for name in arrays.files:
            form, *rest = name.split("/")
            target = cases[form]["weights"] if rest[0] == "weights" else cases[form]
            target[rest[-1]] = arrays[name]
    return cases


@pytest.fixture(scope="module")
def load(stored, tmp_path_factory):
    """A function from a form's name to its model."""

    def load_form(form: str, **options) -> WanTransformer:
        folder = tmp_path_factory.mktemp("transformer")
        save_file(stored[form]["weights"], folder / "model.safetensors")
        config = TransformerConfig.from_dict(json.loads(str(stored[form]["config"])))
        abstract = nnx.eval_shape(lambda: WanTransformer(config, rngs=nnx.Rngs(0), **options))
        return load_parameters(abstract, RULES, TensorFiles(folder))

    return load_form


@pytest.fixture(scope="module")
def t2v(load):
    return load("t2v")


def inputs(case):
    names = ("latents", "timestep", "text", "image")
    return [case[name].astype(np.float32) for name in names if name in case]


def assert_equal(got, expected, tolerance=TOLERANCE):
    assert got.shape == expected.shape
    assert np.abs(np.asarray(got) - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("form", FORMS)
def test_equals_stored_reference(load, stored, form):
    assert_equal(call(load(form), *inputs(stored[form])), stored[form]["velocity"])


def test_a_timestep_per_token(t2v, stored):
    """With all tokens at one timestep nothing changes."""
    latents, timestep, text = inputs(stored["t2v"])
    tokens = np.prod(t2v.grid(latents.shape))
    per_token = np.repeat(timestep[:, None], tokens, axis=1)
    assert_equal(call(t2v, latents, per_token, text), stored["t2v"]["velocity"])


def test_chunked_attention_in_the_model(load, stored):
    """Tiles of five queries against all keys."""
    model = load("t2v", kernel=Kernel("chunked", score_bytes=4 * 4 * 24 * 5))
    assert_equal(call(model, *inputs(stored["t2v"])), stored["t2v"]["velocity"])


def test_rotary_embedding_laid_out_for_tpus(load, stored):
    """Neighbouring channels are turned by a product there; the kernel is splash, interpreted."""
    model = load("t2v", kernel=Kernel("splash", Blocks(128, 128, 128), 2**24, interpret=True))
    assert_equal(call(model, *inputs(stored["t2v"])), stored["t2v"]["velocity"])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_turning_by_product_is_exact(dtype):
    x = jax.random.normal(jax.random.key(0), (2, 24, 3, 12), dtype)
    tables = rope_tables((2, 3, 4), 12)
    pairs, product = (
        jax.jit(partial(apply_rope, by_product=way))(x, *tables) for way in (False, True)
    )
    # where products and sums are fused, float32 may differ by one rounding of its 24 bits
    np.testing.assert_allclose(product, pairs, atol=2**-22 if dtype == jnp.float32 else 2**-7)


def test_cached_keys_and_values_change_nothing(load, stored):
    model = load("i2v-2.1")
    latents, timestep, text, image = inputs(stored["i2v-2.1"])

    @nnx.jit
    def cached(model, latents, timestep, text, image):
        grid = model.grid(latents.shape)
        tokens, time = model.embed(latents, timestep)
        context = model.keys_values(model.embed_context(text, image))
        return model.head(model.run_blocks(tokens, time, context, grid), time, grid)

    velocity = cached(model, latents, timestep, text, image)
    assert_equal(velocity, stored["i2v-2.1"]["velocity"])


def test_branches_of_a_context(t2v):
    text = np.random.default_rng(0).normal(size=(4, 3, t2v.config.text_dim)).astype(np.float32)
    context = t2v.embed_context(jnp.asarray(text))
    np.testing.assert_array_equal(context.branch(1, 2).text, context.text[2:])
    keys_values = t2v.keys_values(context)
    for whole, part in zip(keys_values.text, keys_values.branch(0, 2).text, strict=True):
        np.testing.assert_array_equal(part, whole[:, :2])


def test_the_program_does_not_grow_with_depth(stored):
    config = json.loads(str(stored["t2v"]["config"]))

    def equations(depth):
        shape = TransformerConfig.from_dict(config | {"num_layers": depth})
        model = nnx.eval_shape(lambda: WanTransformer(shape, rngs=nnx.Rngs(0)))
        graph, params = nnx.split(model)
        arrays = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in inputs(stored["t2v"])]
        jaxpr = jax.make_jaxpr(lambda params, *args: call(nnx.merge(graph, params), *args))
        return str(jaxpr(params, *arrays)).count("\n")

    assert equations(2) == equations(9)


def test_bfloat16_in_bfloat16_out(t2v, stored):
    graph, params = nnx.split(t2v)
    latents, timestep, text = inputs(stored["t2v"])
    low = [jax.ShapeDtypeStruct(x.shape, jnp.bfloat16) for x in (latents, text)]
    velocity = jax.eval_shape(
        lambda params, latents, text: call(nnx.merge(graph, params), latents, timestep, text),
        params,
        *low,
    )
    assert (velocity.dtype, velocity.shape) == (jnp.bfloat16, latents.shape)


def test_without_a_mesh_constrain_does_nothing():
    x = jnp.ones((2, 3))
    assert constrain(x, "batch", "tokens") is x


def test_image_embeddings_go_with_the_model(load, t2v):
    text, image = jnp.zeros((1, 4, 8)), jnp.zeros((1, 7, 20))
    with pytest.raises(UsageError, match=r"image embeddings are needed.*got some"):
        t2v.embed_context(text, image)
    with pytest.raises(UsageError, match="got none"):
        load("i2v-2.1").embed_context(text)


def test_config_ignores_other_keys():
    config = TransformerConfig.from_dict({"num_layers": 2, "_class_name": "x", "added": None})
    assert (config.num_layers, config.width) == (2, 5120)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"qk_norm": "rms_norm"}, "qk_norm='rms_norm': must be 'rms_norm_across_heads'"),
        ({"cross_attn_norm": False}, "cross_attn_norm=False: must be True"),
        ({"image_dim": 1280}, "added_kv_proj_dim=None: must be 5120"),
        ({"image_dim": 1280, "added_kv_proj_dim": 1280}, "added_kv_proj_dim=1280: must be 5120"),
        ({"added_kv_proj_dim": 5120}, "else null; image_dim=None"),
        ({"pos_embed_seq_len": 514}, "pos_embed_seq_len .* needs an image_dim"),
        ({"num_layers": 10**9}, "num_layers=1000000000: must be at most 1000"),
        ({"num_layers": 0}, "num_layers=0: must be at least 1"),
        ({"num_attention_heads": -40}, "num_attention_heads=-40: must be at least 1"),
        ({"num_attention_heads": True}, "num_attention_heads=True: must be a whole number"),
        ({"attention_head_dim": 128.5}, "attention_head_dim=128.5: must be a whole number"),
        ({"attention_head_dim": 127}, "attention_head_dim=127: must be a multiple of 2"),
        ({"freq_dim": 255}, "freq_dim=255: must be a multiple of 2"),
        ({"text_dim": "4096"}, "text_dim='4096': must be a whole number"),
        ({"ffn_dim": 10**12}, "ffn_dim=1000000000000: must be at most 1048576"),
        ({"in_channels": None}, "in_channels=None: must be a whole number"),
        ({"eps": float("nan")}, "eps=nan: must be a finite number"),
        ({"eps": float("inf")}, "eps=inf: must be a finite number"),
        ({"eps": 0}, "eps=0: must be above 0"),
        ({"patch_size": [1, 2]}, r"patch_size\[2\] is missing"),
        ({"patch_size": [1, 2, 0]}, r"patch_size\[2\]=0: must be at least 1"),
        ({"patch_size": 2}, "patch_size=2: must be a list"),
    ],
)
def test_config_refuses_other_architectures_and_what_cannot_be(values, text):
    with pytest.raises(CheckpointError, match=text):
        TransformerConfig.from_dict(values)
