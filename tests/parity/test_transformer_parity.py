"""The transformer against diffusers' `WanTransformer3DModel`."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from against import randomize, relative_error
from diffusers import WanTransformer3DModel
from flax import nnx

from wanjax.checkpoints.layouts.diffusers.transformer import RULES
from wanjax.checkpoints.load import load_parameters
from wanjax.checkpoints.tensor_files import TensorFiles
from wanjax.models.configs import TransformerConfig
from wanjax.models.transformer import WanTransformer

pytestmark = pytest.mark.parity

REFERENCE = Path(__file__).parents[1] / "reference" / "transformer.npz"
SMALL = {
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "text_dim": 24,
    "freq_dim": 32,
    "ffn_dim": 96,
    "num_layers": 3,
}
FORMS = {
    "t2v": {},
    "i2v-2.2": {"in_channels": 36},
    "i2v-2.1": {"in_channels": 36, "image_dim": 20, "added_kv_proj_dim": 64},
}
# still smaller, for the stored arrays; an odd number of rotary pairs along time
TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 14,
    "text_dim": 8,
    "freq_dim": 8,
    "ffn_dim": 40,
    "num_layers": 2,
}


@pytest.fixture(params=FORMS, ids=FORMS)
def models(request, tmp_path):
    config = SMALL | FORMS[request.param]
    reference = randomize(WanTransformer3DModel(**config))
    reference.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    config = TransformerConfig.from_dict(dict(reference.config))
    abstract = nnx.eval_shape(lambda: WanTransformer(config, rngs=nnx.Rngs(0)))
    return load_parameters(abstract, RULES, TensorFiles(tmp_path)), reference


def test_call(models):
    ours, reference = models
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(2, ours.config.in_channels, 3, 8, 12)).astype(np.float32)
    timestep = np.array([931, 47])
    # with an image the reference finds the text by its length, 512
    text = rng.normal(size=(2, 512, 24)).astype(np.float32)
    image = None
    if ours.config.image_dim:
        image = rng.normal(size=(2, 7, 20)).astype(np.float32)
    with torch.no_grad():
        expected = reference(
            torch.tensor(latents),
            torch.tensor(timestep),
            torch.tensor(text),
            None if image is None else torch.tensor(image),
        ).sample.numpy()
    context = ours.embed_context(jnp.asarray(text), None if image is None else jnp.asarray(image))
    velocity = ours(jnp.asarray(latents), jnp.asarray(timestep, jnp.float32), context)
    assert relative_error(velocity, expected) < 1e-5


def test_timestep_per_token(models):
    ours, reference = models
    if ours.config.image_dim:
        pytest.skip("The published model with a timestep per token has no image embeddings.")
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(1, ours.config.in_channels, 2, 4, 4)).astype(np.float32)
    timestep = rng.integers(0, 1000, size=(1, 8))
    text = rng.normal(size=(1, 5, 24)).astype(np.float32)
    with torch.no_grad():
        arrays = (torch.tensor(x) for x in (latents, timestep, text))
        expected = reference(*arrays).sample.numpy()
    context = ours.embed_context(jnp.asarray(text))
    velocity = ours(jnp.asarray(latents), jnp.asarray(timestep, jnp.float32), context)
    assert relative_error(velocity, expected) < 1e-5


def test_stored_reference_is_current():
    """`tests/test_transformer.py` compares with these arrays where torch is absent.

    Weights and inputs are rounded to float16, to keep the file small. To write it again
    delete it.
    """
    arrays = {
        f"{form}/{name}": value
        for form, changes in FORMS.items()
        for name, value in reference_case(TINY | changes).items()
    }
    if not REFERENCE.exists():
        np.savez_compressed(REFERENCE, **arrays)
    with np.load(REFERENCE) as stored:
        assert set(stored.files) == set(arrays)
        for name, value in arrays.items():
            if name.endswith("velocity"):
                np.testing.assert_allclose(stored[name], value, rtol=1e-5, atol=1e-6)
            else:
                np.testing.assert_array_equal(stored[name], value)


def reference_case(config):
    """A random model's weights, its inputs and what it makes of them."""
    has_image = "image_dim" in config
    if has_image:
        config["added_kv_proj_dim"] = 28  # as wide as the model
    model = randomize(WanTransformer3DModel(**config))
    for weight in model.parameters():  # not the rotary tables, as `model.half()` would
        weight.data = weight.data.half().float()
    rng = np.random.default_rng(1)
    shapes = {"latents": (2, model.config.in_channels, 2, 4, 6), "text": (2, 5, 8)}
    if has_image:
        shapes |= {"text": (2, 512, 8), "image": (2, 7, 20)}
    inputs = {name: rng.normal(size=shape).astype(np.float16) for name, shape in shapes.items()}
    timestep = np.array([931, 47])
    latents, text, *image = (torch.tensor(x).float() for x in inputs.values())
    with torch.no_grad():
        velocity = model(latents, torch.tensor(timestep), text, *image).sample.numpy()
    weights = {f"weights/{key}": x.half().numpy() for key, x in model.state_dict().items()}
    about = {"config": np.array(json.dumps(config)), "timestep": timestep}
    return weights | inputs | about | {"velocity": velocity}
