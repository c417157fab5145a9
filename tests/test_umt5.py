"""The UMT5 encoder against stored arrays of transformers' (written by tests/parity)."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from wanjax.checkpoints.layouts.diffusers.umt5 import ALIASES, RULES
from wanjax.checkpoints.layouts.recognise import part_files
from wanjax.checkpoints.load import load_parameters
from wanjax.checkpoints.mapping import entries
from wanjax.errors import CheckpointError
from wanjax.models.configs import UMT5Config
from wanjax.models.umt5 import UMT5Encoder, relative_position_buckets

REFERENCE = Path(__file__).parent / "reference" / "umt5.npz"
SMALL = UMT5Config(vocab_size=100, d_model=32, d_kv=8, d_ff=64, num_layers=3, num_heads=6)


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    return dict(np.load(REFERENCE))


@pytest.fixture(scope="module")
def encoder(stored, tmp_path_factory) -> UMT5Encoder:
    folder = tmp_path_factory.mktemp("text_encoder")
    weights = {key: stored[key] for key in stored if "." in key}
    weights["encoder.embed_tokens.weight"] = weights.pop("shared.weight")  # as some are saved
    save_file(weights, folder / "model.safetensors")
    abstract = nnx.eval_shape(lambda: UMT5Encoder(SMALL, rngs=nnx.Rngs(0)))
    return load_parameters(abstract, RULES, part_files("text_encoder", folder))


def run(encoder: UMT5Encoder, ids, mask, **options) -> jax.Array:
    return nnx.jit(UMT5Encoder.__call__, static_argnames="dtype")(encoder, ids, mask, **options)


def test_equals_stored_reference(encoder, stored):
    result = run(encoder, jnp.asarray(stored["ids"]), jnp.asarray(stored["mask"]))
    expected = stored["expected"]
    assert np.abs(result - expected).max() <= 2e-5 * np.abs(expected).max()


def test_padding_does_not_change_tokens(encoder):
    ids = np.array([[7, 42, 99, 3, 1]])
    short = run(encoder, ids, np.ones_like(ids))
    padded = np.pad(ids, ((0, 0), (0, 11)), constant_values=5)
    long = run(encoder, padded, (np.arange(16) < 5).astype(np.int32)[None])
    np.testing.assert_allclose(long[:, :5], short, atol=1e-5)


def test_every_layer_has_its_own_bias():
    state = nnx.state(nnx.eval_shape(lambda: UMT5Encoder(SMALL, rngs=nnx.Rngs(0))))
    keys = [key for entry in entries(state, RULES) for key in entry.keys]
    assert sum(key.endswith("relative_attention_bias.weight") for key in keys) == SMALL.num_layers
    assert set(ALIASES.values()) <= set(keys)


def test_buckets_by_hand():
    buckets = relative_position_buckets(200, UMT5Config())
    # the key is 0, 1, 7, 8, 16, 32, 64, 127 and 199 tokens after the query, then before it
    assert [int(buckets[0, k]) for k in (0, 1, 7, 8, 16, 32, 64, 127, 199)] == [
        *(0, 17, 23, 24, 26, 28, 30, 31, 31)
    ]
    assert [int(buckets[q, 0]) for q in (1, 7, 8, 16, 199)] == [1, 7, 8, 10, 15]


def test_activations_dtype(encoder, stored):
    ids, mask = jnp.asarray(stored["ids"]), jnp.asarray(stored["mask"])
    low = run(encoder, ids, mask, dtype=jnp.bfloat16)
    assert low.dtype == jnp.bfloat16
    assert np.abs(low.astype(jnp.float32) - stored["expected"]).max() < 0.1
    graph, state = nnx.split(encoder)
    halved = nnx.merge(graph, jax.tree.map(lambda x: x.astype(jnp.bfloat16), state))
    assert run(halved, ids, mask).dtype == jnp.bfloat16


def test_config_ignores_other_keys():
    config = UMT5Config.from_dict({"d_model": 64, "dropout_rate": 0.1, "architectures": ["x"]})
    assert config.d_model == 64
    assert config.num_layers == 24


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"feed_forward_proj": "relu"}, "feed_forward_proj='relu': must be 'gated-gelu'"),
        ({"vocab_size": 0}, "vocab_size=0: must be at least 1"),
        ({"num_layers": 2.5}, "num_layers=2.5: must be a whole number"),
        ({"layer_norm_epsilon": float("inf")}, "layer_norm_epsilon=inf: must be a finite number"),
        ({"relative_attention_num_buckets": 2}, "num_buckets=2: must be at least 4"),
        ({"relative_attention_num_buckets": 33}, "num_buckets=33: must be a multiple of 2"),
        ({"relative_attention_max_distance": 8}, "max_distance=8: must be above 8, a quarter"),
    ],
)
def test_config_refuses_what_cannot_be(values, text):
    with pytest.raises(CheckpointError, match=text):
        UMT5Config.from_dict(values)
