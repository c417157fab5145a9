"""The CLIP vision tower against stored arrays of transformers', and its preprocessing."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from safetensors.numpy import save_file

from wanjax.checkpoints.layouts.diffusers import clip as clip_keys
from wanjax.checkpoints.layouts.recognise import part_files
from wanjax.checkpoints.load import load_parameters
from wanjax.errors import CheckpointError
from wanjax.media.clip_processor import ImageProcessor
from wanjax.models.clip import CLIPVisionModel
from wanjax.models.configs import CLIPVisionConfig

REFERENCE = Path(__file__).parent / "reference" / "clip.npz"
SMALL = CLIPVisionConfig(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    image_size=30,
    patch_size=7,
)


@pytest.mark.parametrize("prefixed", [True, False])
def test_equals_stored_reference(prefixed, tmp_path):
    tensors = dict(np.load(REFERENCE))
    images, expected = tensors.pop("images"), tensors.pop("expected")
    names = {key: key.removeprefix(clip_keys.PREFIX) for key in tensors}
    if prefixed:
        names = {key: clip_keys.PREFIX + name for key, name in names.items()}
    save_file({names[key]: tensors[key] for key in tensors}, tmp_path / "model.safetensors")
    model = load_parameters(
        nnx.eval_shape(lambda: CLIPVisionModel(SMALL, rngs=nnx.Rngs(0))),
        clip_keys.RULES,
        part_files("image_encoder", tmp_path),
        unused=clip_keys.unused(SMALL.num_hidden_layers),
    )
    assert np.abs(model(jnp.asarray(images)) - expected).max() <= 2e-5 * np.abs(expected).max()


def test_image_of_another_size_is_refused():
    model = nnx.eval_shape(lambda: CLIPVisionModel(SMALL, rngs=nnx.Rngs(0)))
    with pytest.raises(CheckpointError, match=r"takes 30 by 30"):
        model(jnp.zeros((1, 28, 30, 3)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act='relu': must be 'gelu' or 'quick_gelu'"),
        ({"hidden_size": 30, "num_attention_heads": 4}, "hidden_size=30: must be a multiple"),
        ({"num_hidden_layers": 1}, "num_hidden_layers=1: must be at least 2"),
        ({"patch_size": 225}, "patch_size=225: must be at most image_size=224"),
        ({"image_size": [224, 224]}, "must be a whole number"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps=nan: must be a finite number"),
    ],
)
def test_config_is_checked(values, message):
    with pytest.raises(CheckpointError, match=message):
        CLIPVisionConfig.from_dict(values)


def test_preprocessing_keeps_the_centre():
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, 40:80] = 255  # the centre square is white, the sides are black
    processor = ImageProcessor.from_dict(
        {"size": 20, "crop_size": 20, "image_mean": [0, 0.5, 1], "image_std": [1, 0.5, 2]}
    )
    result = processor(Image.fromarray(pixels))
    assert result.shape == (20, 20, 3)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result[10, 10], [1, 1, 0])
    gray = processor(Image.new("L", (33, 20), 255))
    np.testing.assert_allclose(gray, np.broadcast_to([1.0, 1.0, 0.0], (20, 20, 3)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": {"height": 224, "width": 224}}, "size=.* must be pixels, or .* shortest_edge"),
        ({"size": {"shortest_edge": 224}, "crop_size": 336}, "larger than the shortest edge 224"),
        ({"size": 224, "crop_size": {"height": 224}}, "crop_size=.* with height and width"),
        ({"size": "224"}, "shortest_edge='224': must be a whole number"),
        ({"size": 10**6}, "shortest_edge=1000000: must be at most 4096"),
        ({"resample": 9}, "resample=9: must be at most 5"),
        ({"image_mean": [0.5, 0.5]}, r"image_mean\[2\] is missing"),
        ({"image_std": [1, 0, 1]}, r"image_std\[1\]=0: must be above 0"),
    ],
)
def test_preprocessor_config_is_checked(values, message):
    with pytest.raises(CheckpointError, match=message):
        ImageProcessor.from_dict(values)
