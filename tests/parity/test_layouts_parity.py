"""The authors' layout against diffusers' own conversion, and our .pth against torch."""

from __future__ import annotations

import numpy as np
import pytest
from flax import nnx

torch = pytest.importorskip("torch")
single_file = pytest.importorskip("diffusers.loaders.single_file_utils")

from other_layouts import (
    TRANSFORMER,
    original,
    original_tensors,
    save_original,
    save_pth,
    tensors_of,
)
from small_folder import make_small_folder

from wanjax.checkpoints.convert import convert, open_sources
from wanjax.checkpoints.folder import Folder
from wanjax.checkpoints.layouts.diffusers import vae as vae_keys
from wanjax.checkpoints.layouts.names import inverted, renamed
from wanjax.checkpoints.layouts.original import transformer as transformer_names
from wanjax.checkpoints.layouts.original import vae as vae_names
from wanjax.checkpoints.layouts.recognise import part_files
from wanjax.checkpoints.mapping import entries
from wanjax.models.configs import VAEConfig
from wanjax.models.layers import Undrawn
from wanjax.models.vae import WanVAE

pytestmark = pytest.mark.parity


def test_the_transformers_names_are_those_of_diffusers_conversion():
    modules = [name.replace("{i}", "3") for name in transformer_names.NAMES]
    modules.remove("img_emb.emb_pos")  # which diffusers' script for whole folders alone knows
    theirs = single_file.convert_wan_transformer_to_diffusers(
        {f"{name}.weight" if _has_leaf(name) else name: name for name in modules}
    )
    assert theirs
    for name, module in theirs.items():
        key = f"{module}.weight" if _has_leaf(module) else module
        assert renamed(key, transformer_names.NAMES) == name


def _has_leaf(name: str) -> bool:
    return not name.endswith(("modulation", "emb_pos"))


def test_the_tests_own_names_are_those_too():
    for ours, theirs in transformer_names.NAMES.items():
        ours, theirs = ours.replace("{i}", "7"), theirs.replace("{i}", "7")
        leaf = ".weight" if _has_leaf(ours) else ""
        if "self_attn" in ours and "img" in ours:
            continue  # which no model has
        assert original(theirs + leaf, TRANSFORMER) == ours + leaf


def test_the_vaes_names_are_those_of_diffusers_conversion():
    config = VAEConfig()
    model = WanVAE(config, rngs=Undrawn())
    found = entries(nnx.split(model)[1], vae_keys.rules(config))
    ours = [key for entry in found for key in entry.keys]
    back = inverted(vae_names.names(config))
    theirs = single_file.convert_wan_vae_to_diffusers({renamed(key, back): key for key in ours})
    assert theirs == {key: key for key in ours}


def test_torch_reads_our_pth(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {"a.weight": (3, 4, 1, 2), "b": (), "c.bias": (5,)}
    tensors = {key: np.asarray(rng.normal(size=s), np.float32) for key, s in shapes.items()}
    found = torch.load(save_pth(tensors, tmp_path / "x.pth"), weights_only=True)
    assert found.keys() == tensors.keys()
    for key, tensor in found.items():
        np.testing.assert_array_equal(tensor.numpy(), tensors[key])


def test_we_read_torchs_pth(tmp_path):
    """Of parameters, several dtypes, and a tensor whose numbers do not lie in order."""
    made = torch.nn.Linear(4, 3)
    tensors = made.state_dict()
    tensors["parameter"] = made.weight
    tensors["half"] = torch.randn(2, 3).to(torch.bfloat16)
    tensors["turned"] = torch.randn(4, 6).T
    tensors["part"] = torch.randn(6, 4)[2:4]
    torch.save(tensors, tmp_path / "x.pth")
    files = part_files("transformer", tmp_path / "x.pth")
    for key, tensor in tensors.items():
        for rows in (slice(0, tensor.shape[0]), slice(1, tensor.shape[0])):
            others = tuple(slice(0, size) for size in tensor.shape[1:])
            expected = tensor.detach().to(torch.float32).numpy()[(rows, *others)]
            np.testing.assert_array_equal(files.read(key, (rows, *others)), expected)


def test_diffusers_loads_what_we_convert(tmp_path):
    """Of the authors' folder: the reference finds every weight, and none that it does not know."""
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    source = make_small_folder(tmp_path / "source", two_experts=False)
    original = save_original(source, tmp_path / "original")
    parts = ("transformer", "vae", "text_encoder")
    convert(open_sources(Folder.open(original), parts), tmp_path / "made", "diffusers", None)
    for kind, part in ((WanTransformer3DModel, "transformer"), (AutoencoderKLWan, "vae")):
        model, about = kind.from_pretrained(tmp_path / "made" / part, output_loading_info=True)
        assert not about["missing_keys"]
        assert not about["unexpected_keys"]
        ours = tensors_of(source / part)
        for key, tensor in model.state_dict().items():
            np.testing.assert_array_equal(tensor.numpy(), ours[key])


def test_torch_reads_the_files_of_the_original_layout(tmp_path):
    source = make_small_folder(tmp_path / "source", two_experts=False)
    opening = open_sources(Folder.open(source), ("vae", "text_encoder"))
    convert(opening, tmp_path / "made", "original", "bfloat16")
    found = torch.load(tmp_path / "made/models_t5_umt5-xxl-enc-bf16.pth", weights_only=True)
    expected = original_tensors(source, "text_encoder")
    assert found.keys() == expected.keys()
    key = "blocks.1.ffn.fc2.weight"
    assert torch.equal(found[key], torch.tensor(expected[key]).to(torch.bfloat16))
    vae = torch.load(tmp_path / "made/Wan2.1_VAE.pth", weights_only=True)
    assert vae.keys() == original_tensors(source, "vae").keys()
