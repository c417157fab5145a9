"""Merging a LoRA against diffusers' own (`load_lora_weights`, `fuse_lora`)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from folders import make_folder
from safetensors.numpy import save_file

from wanjax.checkpoints.lora_merge import MergedFiles
from wanjax.checkpoints.loras import LoRA
from wanjax.checkpoints.tensor_files import TensorFiles

pytest.importorskip("peft")
pytestmark = pytest.mark.parity

RANK, STRENGTH = 3, 0.7
MODULES = {  # the authors' name: ours, and whether the file has an alpha
    "blocks.0.self_attn.q": "blocks.0.attn1.to_q",
    "blocks.1.cross_attn.o": "blocks.1.attn2.to_out.0",
    "blocks.1.ffn.0": "blocks.1.ffn.net.0.proj",
    "blocks.0.ffn.2": "blocks.0.ffn.net.2",
}


@pytest.mark.parametrize("alpha", [None, 6.0])
@pytest.mark.parametrize("spelling", ["original", "diffusers"])
def test_merged_weights_equal_diffusers(tmp_path, spelling, alpha):
    if alpha is not None and spelling == "diffusers":
        pytest.skip("files in diffusers' spelling carry no alpha")
    pipeline = make_folder(tmp_path / "model", two_experts=False)
    rng, tensors = np.random.default_rng(0), {}
    for original, ours in MODULES.items():
        out, inputs = pipeline.transformer.get_submodule(ours).weight.shape
        down, up = "lora_down.weight", "lora_up.weight"
        module = f"diffusion_model.{original}"
        if spelling == "diffusers":
            down, up, module = "lora_A.weight", "lora_B.weight", f"transformer.{ours}"
        tensors[f"{module}.{down}"] = rng.normal(size=(RANK, inputs)).astype(np.float32)
        tensors[f"{module}.{up}"] = rng.normal(size=(out, RANK)).astype(np.float32)
        if alpha is not None:
            tensors[f"{module}.alpha"] = np.array(alpha, np.float32)
    file = tmp_path / "lora.safetensors"
    save_file(tensors, file)
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
