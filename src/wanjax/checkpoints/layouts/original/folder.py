"""A folder as the authors publish it: what the model is, and where its parts lie. No JAX.

Wan 2.1 has its transformer at the root, Wan 2.2 two in folders of their own, or one at the root;
beside them lie the VAE, the text encoder and CLIP as .pth, and the tokenizer in google/umt5-xxl.
What such a folder has no place for, `wanjax convert` writes into `wanjax.json`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from wanjax.checkpoints.locate import ModelIndex, read_json
from wanjax.checkpoints.published_models import ModelConfigs, published
from wanjax.errors import CheckpointError
from wanjax.validation import Positive, named, validate

EXPERTS = ("high_noise_model", "low_noise_model")
VAES = ("Wan2.1_VAE", "Wan2.2_VAE")
TEXT_ENCODER = "models_t5_umt5-xxl-enc-bf16"
IMAGE_ENCODER = "models_clip_open-clip-xlm-roberta-large-vit-huge-14"
TOKENIZER = "google/umt5-xxl"
EXTRA = "wanjax.json"
_SUFFIXES = (".pth", ".safetensors")
_PLACES = {  # of a part's files
    "transformer": ("config.json", "diffusion_pytorch_model*", f"{EXPERTS[0]}/*"),
    "transformer_2": (f"{EXPERTS[1]}/*",),
    "vae": tuple(f"{name}.*" for name in VAES),
    "text_encoder": (f"{TEXT_ENCODER}.*",),
    "image_encoder": (f"{IMAGE_ENCODER}.*",),
    "tokenizer": (f"{TOKENIZER}/*",),
}
_BOUNDARIES = {"t2v": 0.875, "i2v": 0.9}  # of two experts, as the authors' configurations say

# The authors' fields of config.json, and diffusers'.
_FIELDS = {
    "in_dim": "in_channels",
    "out_dim": "out_channels",
    "num_heads": "num_attention_heads",
    "ffn_dim": "ffn_dim",
    "freq_dim": "freq_dim",
    "text_dim": "text_dim",
    "num_layers": "num_layers",
    "patch_size": "patch_size",
    "cross_attn_norm": "cross_attn_norm",
    "eps": "eps",
}
_CLIP = "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers"
_WITH_VAE = {"Wan2.1_VAE": _CLIP, "Wan2.2_VAE": "Wan-AI/Wan2.2-TI2V-5B-Diffusers"}


@dataclass(frozen=True)
class OriginalFolder:
    """`files` has where each part lies; `flow_shift` is known of converted folders alone."""

    configs: ModelConfigs
    files: Mapping[str, Path]
    flow_shift: float | None = None


def original_files(names: Iterable[str]) -> dict[str, list[str]]:
    """A repository's files, by name, that belong to the model's parts."""
    read = (*_SUFFIXES, ".json", ".model")
    held = [name for name in names if name.endswith(read)]
    found = {
        part: [name for name in held if any(fnmatch(name, place) for place in places)]
        for part, places in _PLACES.items()
    }
    return {part: files for part, files in found.items() if files}


def require_implemented(config: Path) -> None:
    """Raise `CheckpointError` for the transformer's config.json of another form of Wan."""
    with named(config):
        kind = str(read_json(config).get("model_type", "t2v"))
        ModelIndex.from_dict({"_class_name": _class_name(kind), "transformer": ["wanjax", kind]})


def original_folder(folder: Path) -> OriginalFolder | None:
    """None for a folder in another layout.

    Raises `CheckpointError` for one that lacks a configuration, and for other forms of Wan.
    """
    files = _files(folder)
    if (folder / "model_index.json").exists() or not {"vae", "text_encoder"} & files.keys():
        return None
    if "transformer" not in files:
        raise CheckpointError(
            f"model={folder} is not whole: it lacks {EXPERTS[0]}/ or a transformer beside the VAE"
        )
    extra = read_json(folder / EXTRA) if (folder / EXTRA).exists() else {}
    own = read_json(_config(folder))
    components = _components(own, files, extra)
    with named(_config(folder)):
        index = ModelIndex.from_dict(_index(own, files, components) | extra.get("model_index", {}))
    with named(folder / EXTRA):
        shift = validate(Positive | None, extra.get("flow_shift"), "flow_shift", CheckpointError)
    return OriginalFolder(ModelConfigs(index, components), files, shift)


def _files(folder: Path) -> dict[str, Path]:
    named_so = {
        "transformer": [folder / EXPERTS[0]],
        "transformer_2": [folder / EXPERTS[1]],
        "vae": [folder / (name + suffix) for name in VAES for suffix in _SUFFIXES],
        "text_encoder": [folder / (TEXT_ENCODER + suffix) for suffix in _SUFFIXES],
        "image_encoder": [folder / (IMAGE_ENCODER + suffix) for suffix in _SUFFIXES],
    }
    found = {
        part: place for part, places in named_so.items() for place in places[::-1] if place.exists()
    }
    if "transformer" not in found and any(folder.glob("diffusion_pytorch_model*.safetensors")):
        found["transformer"] = folder
    return found | {"tokenizer": folder / TOKENIZER}


def _config(folder: Path) -> Path:
    high = folder / EXPERTS[0]
    return (high if high.is_dir() else folder) / "config.json"


def _components(
    own: Mapping[str, Any], files: Mapping[str, Path], extra: Mapping[str, Any]
) -> dict[str, Mapping[str, Any]]:
    """The configurations of the parts: the transformer's own, the others' as published."""
    vae = _WITH_VAE.get(files["vae"].stem if "vae" in files else VAES[0], _CLIP)
    like = dict(published()[vae].components) | {
        "image_encoder": published()[_CLIP].components["image_encoder"]
    }
    like |= extra.get("components", {})
    seen = like["image_encoder"]["hidden_size"] if "image_encoder" in files else None
    transformer = _transformer(own, seen)
    experts = {name: transformer for name in ("transformer", "transformer_2") if name in files}
    others = ("vae", "text_encoder", *(["image_encoder"] if "image_encoder" in files else []))
    return experts | {name: like[name] for name in others}


def _transformer(own: Mapping[str, Any], image_dim: int | None) -> dict[str, Any]:
    """As diffusers' config.json has it; `image_dim` is CLIP's width."""
    values = {theirs: own[ours] for ours, theirs in _FIELDS.items() if ours in own}
    width, heads = own.get("dim", 5120), own.get("num_heads", 40)
    ends = own.get("model_type") == "flf2v"
    return {
        "_class_name": "WanTransformer3DModel",
        "patch_size": [1, 2, 2],
        "text_dim": 4096,
        "freq_dim": 256,
        "eps": 1e-6,
        "cross_attn_norm": True,
        **values,
        "attention_head_dim": width // heads,
        "image_dim": image_dim,
        "added_kv_proj_dim": None if image_dim is None else width,
        "pos_embed_seq_len": 514 if ends else None,
    }


def _index(
    own: Mapping[str, Any], files: Mapping[str, Path], components: Mapping[str, Any]
) -> dict[str, Any]:
    kind = str(own.get("model_type", "t2v"))
    return {
        "_class_name": _class_name(kind),
        "boundary_ratio": _BOUNDARIES.get(kind) if "transformer_2" in files else None,
        "expand_timesteps": kind == "ti2v",
        **{name: ["wanjax", name] for name in components},
    }


def _class_name(kind: str) -> str:
    """Of diffusers' pipeline for a `model_type`; the index refuses others by their name."""
    if kind in ("i2v", "flf2v"):
        return "WanImageToVideoPipeline"
    other = {"vace": "VACE", "animate": "Animate", "s2v": "S2V"}
    return "WanPipeline" if kind in ("t2v", "ti2v") else f"Wan{other.get(kind, kind)}Pipeline"


def original_config(values: Mapping[str, Any], index: ModelIndex) -> dict[str, Any]:
    """The authors' config.json of a transformer, from diffusers'."""
    image = values["in_channels"] > values["out_channels"]
    kind = "ti2v" if index.expand_timesteps else "i2v" if image else "t2v"
    if values.get("pos_embed_seq_len") is not None:
        kind = "flf2v"
    return {
        "_class_name": "WanModel",
        "model_type": kind,
        "dim": values["num_attention_heads"] * values["attention_head_dim"],
        "text_len": 512,
        **{ours: values[theirs] for ours, theirs in _FIELDS.items() if theirs in values},
    }
