"""The CLIP vision tower and its image preprocessing against transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from PIL import Image

from wanjax.checkpoints.layouts.diffusers import clip as clip_keys
from wanjax.checkpoints.layouts.recognise import part_files
from wanjax.checkpoints.load import load_parameters
from wanjax.checkpoints.mapping import entries
from wanjax.media.clip_processor import ImageProcessor
from wanjax.models.clip import CLIPVisionModel
from wanjax.models.configs import CLIPVisionConfig

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.parity
torch.set_num_threads(1)

REFERENCE = Path(__file__).parents[1] / "reference" / "clip.npz"
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 30,
    "patch_size": 7,  # does not divide the image: the border is dropped
}
# erf GELU in place of tanh, the subtlest mistake tried, shows as 4e-5
TOLERANCE = 2e-5


def build_reference(kind: str = "CLIPVisionModelWithProjection", **changes):
    config = transformers.CLIPVisionConfig(
        **SMALL | {"projection_dim": 16, "hidden_act": "gelu"} | changes,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():  # the library's own initial values are tiny: nothing would show
        for name, value in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                value.copy_(1 + 0.2 * torch.randn_like(value))
            elif value.ndim > 1:
                value.copy_(torch.randn_like(value) / value[0].numel() ** 0.5)
            else:
                value.copy_(0.3 * torch.randn_like(value))
    return model


def load(folder: Path, config: CLIPVisionConfig) -> CLIPVisionModel:
    return load_parameters(
        nnx.eval_shape(lambda: CLIPVisionModel(config, rngs=nnx.Rngs(0))),
        clip_keys.RULES,
        part_files("image_encoder", folder),
        unused=clip_keys.unused(config.num_hidden_layers),
    )


def penultimate(model, images: np.ndarray) -> np.ndarray:
    pixels = torch.tensor(images.transpose(0, 3, 1, 2))
    with torch.no_grad():
        return model(pixel_values=pixels, output_hidden_states=True).hidden_states[-2].numpy()


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("kind", ["CLIPVisionModelWithProjection", "CLIPVisionModel"])
def test_equals_transformers(kind, act, tmp_path):
    reference = build_reference(kind, hidden_act=act)
    reference.save_pretrained(tmp_path)
    model = load(tmp_path, CLIPVisionConfig.from_dict(reference.config.to_dict()))
    images = np.random.default_rng(0).normal(size=(2, 30, 30, 3)).astype(np.float32)
    expected = penultimate(reference, images)
    result = np.asarray(nnx.jit(CLIPVisionModel.__call__)(model, images))
    assert result.shape == expected.shape == (2, 17, 32)
    assert np.abs(result - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_keys_and_shapes_of_full_size():
    config = CLIPVisionConfig()
    abstract = nnx.state(nnx.eval_shape(lambda: CLIPVisionModel(config, rngs=nnx.Rngs(0))))
    ours = {key: e.shape for e in entries(abstract, clip_keys.RULES) for key in e.keys}
    names = {f: getattr(config, f) for f in CLIPVisionConfig.__dataclass_fields__}
    with torch.device("meta"):
        model = transformers.CLIPVisionModelWithProjection(
            transformers.CLIPVisionConfig(**names, projection_dim=1024)
        )
    theirs = {
        key.removeprefix(clip_keys.PREFIX): tuple(tensor.shape)
        for key, tensor in model.state_dict().items()
    }
    assert sum(np.prod(shape) for shape in theirs.values()) == 632_076_800
    left_out = ("encoder.layers.31.", "post_layernorm.", "visual_projection.")
    assert ours == {k: shape for k, shape in theirs.items() if not k.startswith(left_out)}


@pytest.mark.parametrize("size", [(224, 224), (320, 180), (101, 333), (640, 361), (50, 40)])
def test_preprocessing_equals_transformers(size):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, 3))
    image = Image.fromarray(pixels.astype(np.uint8)).resize(size)
    reference = transformers.CLIPImageProcessorPil()
    expected = reference(images=image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    result = ImageProcessor.from_dict(reference.to_dict())(image)
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_stored_reference_is_current():
    """`tests/test_clip.py` compares with these arrays where torch is absent.

    To write them again delete the file.
    """
    reference = build_reference()
    if not REFERENCE.exists():
        tensors = {key: value.numpy() for key, value in reference.state_dict().items()}
        images = np.random.default_rng(1).normal(size=(1, 30, 30, 3)).astype(np.float32)
        expected = penultimate(reference, images)
        np.savez_compressed(REFERENCE, images=images, expected=expected, **tensors)
    stored = dict(np.load(REFERENCE))
    images, expected = stored.pop("images"), stored.pop("expected")
    reference.load_state_dict({key: torch.tensor(value) for key, value in stored.items()})
    np.testing.assert_allclose(penultimate(reference, images), expected, rtol=1e-5, atol=1e-6)
