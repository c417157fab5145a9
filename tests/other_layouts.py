"""A folder in diffusers' layout written anew in others, by the definitions of those formats."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from wanjax.checkpoints.containers.torch_zip_writer import Declared, write_torch_zip
from wanjax.checkpoints.layouts.names import inverted, renamed
from wanjax.checkpoints.layouts.original import vae as vae_names
from wanjax.models.configs import VAEConfig

Tensors = dict[str, np.ndarray]

# diffusers' names to the authors', in this order; none of our tables
TRANSFORMER = (
    (r"condition_embedder\.time_embedder\.linear_1", "time_embedding.0"),
    (r"condition_embedder\.time_embedder\.linear_2", "time_embedding.2"),
    (r"condition_embedder\.text_embedder\.linear_1", "text_embedding.0"),
    (r"condition_embedder\.text_embedder\.linear_2", "text_embedding.2"),
    (r"condition_embedder\.time_proj", "time_projection.1"),
    (r"condition_embedder\.image_embedder\.norm1", "img_emb.proj.0"),
    (r"condition_embedder\.image_embedder\.ff\.net\.0\.proj", "img_emb.proj.1"),
    (r"condition_embedder\.image_embedder\.ff\.net\.2", "img_emb.proj.3"),
    (r"condition_embedder\.image_embedder\.norm2", "img_emb.proj.4"),
    (r"condition_embedder\.image_embedder\.pos_embed", "img_emb.emb_pos"),
    (r"attn1\.", "self_attn."),
    (r"attn2\.", "cross_attn."),
    (r"to_([qkv])\.", r"\1."),
    (r"to_out\.0", "o"),
    (r"add_([kv])_proj", r"\1_img"),
    (r"norm_added_k", "norm_k_img"),
    (r"ffn\.net\.0\.proj", "ffn.0"),
    (r"ffn\.net\.2", "ffn.2"),
    (r"(blocks\.\d+)\.norm2", r"\1.norm3"),
    (r"(blocks\.\d+)\.scale_shift_table", r"\1.modulation"),
    (r"^scale_shift_table", "head.modulation"),
    (r"^proj_out", "head.head"),
)
UMT5 = (
    (r"^shared", "token_embedding"),
    (r"^encoder\.final_layer_norm", "norm"),
    (r"^encoder\.block\.(\d+)\.", r"blocks.\1."),
    (r"layer\.0\.SelfAttention\.relative_attention_bias", "pos_embedding.embedding"),
    (r"layer\.0\.SelfAttention", "attn"),
    (r"layer\.0\.layer_norm", "norm1"),
    (r"layer\.1\.layer_norm", "norm2"),
    (r"layer\.1\.DenseReluDense\.wi_0", "ffn.gate.0"),
    (r"layer\.1\.DenseReluDense\.wi_1", "ffn.fc1"),
    (r"layer\.1\.DenseReluDense\.wo", "ffn.fc2"),
)


def original(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def tensors_of(folder: Path) -> Tensors:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def original_tensors(folder: Path, part: str) -> Tensors:
    """A part of a small folder under the authors' names."""
    found = tensors_of(folder / part)
    if part == "vae":
        config = VAEConfig.from_dict(json.loads((folder / "vae/config.json").read_text()))
        back = inverted(vae_names.names(config))
        return {str(renamed(key, back)): x for key, x in found.items()}
    table = UMT5 if part == "text_encoder" else TRANSFORMER
    return {original(key, table): x for key, x in found.items()}


def save_pth(tensors: Mapping[str, np.ndarray], path: Path) -> Path:
    """As `torch.save` does; a parity test holds the writer to torch."""
    declared = {key: Declared("F32", x.shape) for key, x in tensors.items()}
    write_torch_zip(path, declared, ([x] for x in tensors.values()))
    return path


def save_original(
    folder: Path, path: Path, save: Callable[[Tensors, Path], object] = save_pth, **own: object
) -> Path:
    """A small folder as the authors would publish it, with `wanjax.json` for what is not theirs."""
    values = json.loads((folder / "transformer/config.json").read_text())
    same = ("ffn_dim", "freq_dim", "text_dim", "num_layers", "eps")
    experts = ["transformer", "transformer_2"][: 1 + (folder / "transformer_2").exists()]
    places = [path / f"{which}_noise_model" for which in ("high", "low")]
    for part, place in zip(experts, places if len(experts) == 2 else [path], strict=False):
        place.mkdir(parents=True, exist_ok=True)
        tensors = original_tensors(folder, part)
        save_file(tensors, place / "diffusion_pytorch_model.safetensors")
        config = {
            "_class_name": "WanModel",
            "model_type": "t2v",
            "dim": values["num_attention_heads"] * values["attention_head_dim"],
            "in_dim": values["in_channels"],
            "out_dim": values["out_channels"],
            **{key: values[key] for key in same},
            "num_heads": values["num_attention_heads"],
            **own,
        }
        (place / "config.json").write_text(json.dumps(config))
    save(original_tensors(folder, "vae"), path / "Wan2.1_VAE.pth")
    save(original_tensors(folder, "text_encoder"), path / "models_t5_umt5-xxl-enc-bf16.pth")
    shutil.copytree(folder / "tokenizer", path / "google/umt5-xxl")
    components = {
        part: json.loads((folder / part / "config.json").read_text())
        for part in ("vae", "text_encoder")
    }
    (path / "wanjax.json").write_text(json.dumps({"components": components, "flow_shift": 5.0}))
    return path


def save_narrow(
    tensors: Mapping[str, np.ndarray], path: Path, metadata: dict[str, str] | None = None
) -> Path:
    """With FP8, which safetensors' NumPy interface has no name for: its format, by hand."""
    names = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "int8": "I8", "uint8": "U8"}
    names |= {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64"}
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    content, end = [], 0
    for key, x in ((key, np.asarray(x)) for key, x in tensors.items()):
        start, end = end, end + x.nbytes
        about = {"dtype": names[x.dtype.name], "shape": x.shape, "data_offsets": [start, end]}
        header[key] = about
        content.append(x.tobytes())
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(content))
    return path
