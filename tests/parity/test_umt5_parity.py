"""The UMT5 encoder and the tokenizer against transformers."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import wanjax.tiny
from wanjax.checkpoints.layouts.diffusers.umt5 import ALIASES, RULES
from wanjax.checkpoints.layouts.recognise import part_files
from wanjax.checkpoints.load import load_parameters
from wanjax.checkpoints.mapping import checkpoint_tensors, entries
from wanjax.media.tokenizer import Tokenizer
from wanjax.models.configs import UMT5Config
from wanjax.models.umt5 import UMT5Encoder, relative_position_buckets

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity
torch.set_num_threads(1)

REFERENCE = Path(__file__).parents[1] / "reference" / "umt5.npz"
SMALL = {"vocab_size": 100, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 3, "num_heads": 6}
# erf GELU in place of tanh, the subtlest mistake tried, shows as 4e-5
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def encoder() -> UMT5Encoder:
    return UMT5Encoder(UMT5Config(**SMALL), rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def reference(encoder: UMT5Encoder):
    return build_reference(checkpoint_tensors(nnx.state(encoder), RULES))


def build_reference(tensors: dict[str, np.ndarray]):
    config = transformers.UMT5Config(**SMALL, attn_implementation="eager")
    model = transformers.UMT5EncoderModel(config).eval()
    tensors |= {alias: tensors[key] for alias, key in ALIASES.items()}
    model.load_state_dict({key: torch.tensor(value) for key, value in tensors.items()})
    return model


def run(reference, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return reference(torch.tensor(ids), torch.tensor(mask)).last_hidden_state.numpy()


@pytest.mark.parametrize("length", [1, 5, 32, 300])
def test_encoder_equals_transformers(encoder, reference, length):
    rng = np.random.default_rng(length)
    ids = rng.integers(2, SMALL["vocab_size"], (3, length))
    lengths = np.array([length, length // 2 + 1, 1])
    mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
    ids *= mask
    expected = run(reference, ids, mask)
    result = np.asarray(nnx.jit(UMT5Encoder.__call__)(encoder, ids, mask))
    assert np.abs(result - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize(("buckets", "farthest"), [(32, 128), (16, 64)])
def test_buckets_equal_transformers(buckets, farthest):
    fields = {
        "relative_attention_num_buckets": buckets,
        "relative_attention_max_distance": farthest,
    }
    attention = transformers.models.umt5.modeling_umt5.UMT5Attention(
        transformers.UMT5Config(**fields), has_relative_attention_bias=True
    )
    position = torch.arange(600)
    expected = attention._relative_position_bucket(position[None] - position[:, None])
    result = relative_position_buckets(600, UMT5Config(**fields))
    np.testing.assert_array_equal(result, expected)


def test_keys_and_shapes_of_full_size():
    config = UMT5Config()
    abstract = nnx.state(nnx.eval_shape(lambda: UMT5Encoder(config, rngs=nnx.Rngs(0))))
    ours = {key: entry.shape for entry in entries(abstract, RULES) for key in entry.keys}
    names = {f: getattr(config, f) for f in UMT5Config.__dataclass_fields__}
    with torch.device("meta"):
        model = transformers.UMT5EncoderModel(transformers.UMT5Config(**names))
    theirs = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    for alias, key in ALIASES.items():
        assert theirs.pop(alias) == theirs[key]
    assert ours == theirs
    assert sum(leaf.size for leaf in jax.tree.leaves(abstract)) == 5_680_910_336


def test_stored_reference_is_current(encoder):
    """`tests/test_umt5.py` compares with these arrays where torch is absent.

    To write them again delete the file.
    """
    if not REFERENCE.exists():
        tensors = checkpoint_tensors(nnx.state(encoder), RULES)
        ids = np.array([[7, 42, 99, 3, 1, 0, 0, 0], [5, 17, 17, 64, 2, 31, 80, 1]])
        mask = (ids > 0).astype(np.int64)
        expected = run(build_reference(dict(tensors)), ids, mask)
        np.savez_compressed(REFERENCE, ids=ids, mask=mask, expected=expected, **tensors)
    stored = dict(np.load(REFERENCE))
    ids, mask, expected = (stored.pop(name) for name in ("ids", "mask", "expected"))
    result = run(build_reference(stored), ids, mask)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_bundled_encoder_and_tokenizer_in_transformers():
    """The bundled folders are read by transformers, with equal ids and outputs."""
    folder = Path(wanjax.tiny.__file__).parent / "t2v"
    prompts = ["a red ball moving right", "", "A Cyan CROSS, growing 😀", "a pale backdrop. " * 20]
    ids, mask = Tokenizer(folder / "tokenizer")(prompts, 32)
    fast = transformers.AutoTokenizer.from_pretrained(folder / "tokenizer")
    theirs = fast(prompts, padding="max_length", max_length=32, truncation=True)
    np.testing.assert_array_equal(ids, theirs["input_ids"])
    np.testing.assert_array_equal(mask, theirs["attention_mask"])
    model = transformers.UMT5EncoderModel.from_pretrained(
        folder / "text_encoder", dtype=torch.float32
    )
    expected = run(model.eval(), ids.astype(np.int64), mask)
    config = UMT5Config.from_dict(model.config.to_dict())
    encoder = load_parameters(
        nnx.eval_shape(lambda: UMT5Encoder(config, rngs=nnx.Rngs(0))),
        RULES,
        part_files("text_encoder", folder / "text_encoder"),
    )
    result = np.asarray(encoder(jnp.asarray(ids), jnp.asarray(mask)))
    assert np.abs(result - expected).max() <= TOLERANCE * np.abs(expected).max()
