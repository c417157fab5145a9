"""Merging a LoRA against diffusers' own (`load_lora_weights`, `fuse_lora`)."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from folders import make_folder
from safetensors.numpy import save_file

from wanjax.checkpoints.lora_merge import MergedFiles
from wanjax.checkpoints.loras import LoRA
from wanjax.checkpoints.tensor_files import TensorFiles

pytest.importorskip("peft")
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

pytestmark = pytest.mark.parity

RANK, STRENGTH = 3, 0.7
MODULES = {  # of both blocks: the authors' name, and diffusers'
    f"blocks.{i}.{theirs}": f"blocks.{i}.{ours}"
    for i in (0, 1)
    for theirs, ours in (
        *((f"self_attn.{x}", f"attn1.to_{x}") for x in "qkv"),
        *((f"cross_attn.{x}", f"attn2.to_{x}") for x in "qkv"),
        ("self_attn.o", "attn1.to_out.0"),
        ("cross_attn.o", "attn2.to_out.0"),
        ("ffn.0", "ffn.net.0.proj"),
        ("ffn.2", "ffn.net.2"),
    )
}
SPELLINGS = ("original", "kohya", "diffusers", "diffusers, written by it", "peft, written by it")


@pytest.mark.parametrize("alpha", [None, 6.0])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_merged_weights_equal_diffusers(tmp_path, spelling, alpha):
    if alpha is not None and spelling == "diffusers":
        pytest.skip("files in diffusers' spelling carry no alpha as a tensor")
    if alpha is None and spelling == "kohya":
        pytest.skip("diffusers reads none without")
    pipeline = make_folder(tmp_path / "model", two_experts=False)
    rng, tensors = np.random.default_rng(0), {}
    for original, ours in MODULES.items():
        out, inputs = pipeline.transformer.get_submodule(ours).weight.shape
        down, up = "lora_down.weight", "lora_up.weight"
        module = f"diffusion_model.{original}"
        if spelling == "kohya":
            module = f"lora_unet_{original.replace('.', '_')}"
        if "written" in spelling or spelling == "diffusers":
            down, up, module = "lora_A.weight", "lora_B.weight", f"transformer.{ours}"
        tensors[f"{module}.{down}"] = rng.normal(size=(RANK, inputs)).astype(np.float32)
        tensors[f"{module}.{up}"] = rng.normal(size=(out, RANK)).astype(np.float32)
        if alpha is not None and "written" not in spelling:
            tensors[f"{module}.alpha"] = np.array(alpha, np.float32)
    file = tmp_path / "lora.safetensors"
    if spelling.startswith("diffusers, "):
        about = {"r": RANK, "lora_alpha": alpha or RANK, "target_modules": [*MODULES.values()]}
        halves = {k.removeprefix("transformer."): torch.tensor(x) for k, x in tensors.items()}
        pipeline.save_lora_weights(
            tmp_path, halves, weight_name=file.name, transformer_lora_adapter_metadata=about
        )
    else:
        save_file(tensors, file)
    if spelling.startswith("peft, "):
        file = _by_peft(tmp_path / "peft", pipeline.transformer, tensors, alpha)
    else:
        pipeline.load_lora_weights(str(file))
    pipeline.fuse_lora(lora_scale=STRENGTH)
    pipeline.unload_lora_weights()
    merged = MergedFiles(TensorFiles(tmp_path / "model" / "transformer"), [LoRA(file, STRENGTH)])
    changed = 0
    with torch.no_grad():
        for key, value in pipeline.transformer.state_dict().items():
            expected = value.numpy()
            got = merged.read(key, tuple(slice(0, size) for size in merged.shape(key)))
            assert np.abs(got - expected).max() <= 1e-6 * np.abs(expected).max()
            changed += (
                merged.dtype(key) == "F32" and key.removesuffix(".weight") in MODULES.values()
            )
    assert changed == len(MODULES)


def _by_peft(place, transformer, tensors, alpha):
    """The halves as peft's `save_pretrained` writes them, and in the transformer as its adapter."""
    about = LoraConfig(r=RANK, lora_alpha=alpha or RANK, target_modules=[*MODULES.values()])
    halves = {key.removeprefix("transformer."): torch.tensor(x) for key, x in tensors.items()}
    model = get_peft_model(copy.deepcopy(transformer), about)
    theirs = {f"base_model.model.{key}": x for key, x in halves.items()}
    assert not set_peft_model_state_dict(model, theirs).unexpected_keys
    model.save_pretrained(place)
    transformer.add_adapter(about, "default")
    assert not set_peft_model_state_dict(transformer, halves).unexpected_keys
    return place / "adapter_model.safetensors"
