"""Where each layout has its parts, under which names, and the small files beside them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from wanjax.checkpoints.folder import Folder
from wanjax.checkpoints.folder_values import folder_values
from wanjax.checkpoints.layouts.diffusers import clip as diffusers_clip
from wanjax.checkpoints.layouts.names import Names, inverted, renamed
from wanjax.checkpoints.layouts.original import folder as original
from wanjax.checkpoints.layouts.original import transformer as original_transformer
from wanjax.checkpoints.layouts.original import umt5 as original_umt5
from wanjax.checkpoints.layouts.original import vae as original_vae
from wanjax.checkpoints.layouts.prefixes import part_of
from wanjax.files import write_json
from wanjax.media.tokenizer import Tokenizer


class PartOut(NamedTuple):
    """A part's place: files of `stem` in a folder, or the one file `stem`; `key` names a tensor."""

    folder: str
    stem: str
    sharded: bool
    key: Callable[[str], str]


def part_out(layout: str, name: str, folder: Folder) -> PartOut:
    part = part_of(name)
    if layout == "diffusers":
        stem = "diffusion_pytorch_model" if part in ("transformer", "vae") else "model"
        return PartOut(name, stem, True, _diffusers_key(part))
    if layout == "original":
        return _original(name, part, folder)
    noise = {"transformer": "_high_noise", "transformer_2": "_low_noise"}
    end = noise.get(name, "") if len(folder.experts) == 2 else ""
    suffix = "gguf" if (layout, part) == ("gguf", "transformer") else "safetensors"
    stem = f"{'clip_vision' if part == 'image_encoder' else part}{end}.{suffix}"
    # ComfyUI has transformers' names of the encoders
    key = _diffusers_key(part) if part.endswith("encoder") else _back(_names(part, folder))
    return PartOut("", stem, False, key)


def _original(name: str, part: str, folder: Folder) -> PartOut:
    if part == "transformer":
        place = original.EXPERTS[name == "transformer_2"] if len(folder.experts) == 2 else ""
        return PartOut(place, "diffusion_pytorch_model", True, _back(_names(part, folder)))
    if part == "image_encoder":  # the authors' file has a text tower, too, which is not at hand
        return PartOut("", f"{original.IMAGE_ENCODER}.safetensors", False, _diffusers_key(part))
    vae = original.VAES[folder.vae_config().is_residual]
    stem = vae if part == "vae" else original.TEXT_ENCODER
    return PartOut("", f"{stem}.pth", False, _back(_names(part, folder)))


def _names(part: str, folder: Folder) -> Names:
    if part == "vae":
        return original_vae.names(folder.vae_config())
    return {"transformer": original_transformer.NAMES, "text_encoder": original_umt5.NAMES}[part]


def _back(names: Names) -> Callable[[str], str]:
    return partial(_renamed, inverted(names))


def _renamed(back: Names, name: str) -> str:
    return renamed(name, back) or name


def _diffusers_key(part: str) -> Callable[[str], str]:
    prefix = diffusers_clip.PREFIX if part == "image_encoder" else ""
    # the projection is not of the tower
    return lambda name: name if name.startswith("visual_") else prefix + name


def small_files(folder: Folder, out: Path, layout: str, parts: Sequence[str]) -> None:
    """Configurations and the tokenizer; last what makes the folder a model, if it is whole."""
    if layout in ("comfyui", "gguf"):
        return
    tokenizer = folder.place("tokenizer")
    whole = set(folder.index.parts) <= set(parts) and tokenizer.exists()
    components = folder.model_configs().components
    place = out / ("tokenizer" if layout == "diffusers" else original.TOKENIZER)
    if tokenizer.is_dir():
        shutil.copytree(tokenizer, place, dirs_exist_ok=True)
    elif tokenizer.exists():  # a text encoder that carries it, or a file of its own
        Tokenizer(tokenizer).save(place)
    if layout == "diffusers":
        _diffusers_files(folder, out, components, parts, whole)
    else:
        _original_files(folder, out, components, parts)


def _diffusers_files(
    folder: Folder,
    out: Path,
    components: Mapping[str, Mapping[str, Any]],
    parts: Sequence[str],
    whole: bool,
) -> None:
    for name in parts:
        write_json(out / name / "config.json", components[name])
    for extra in ("scheduler", "image_processor", "vae/preview.json"):
        source = folder.path / extra
        if source.is_dir():
            shutil.copytree(source, out / extra, dirs_exist_ok=True)
        elif source.is_file() and "vae" in parts:
            shutil.copyfile(source, out / extra)
    if not whole:
        return
    if not (out / "scheduler").is_dir():
        write_json(out / "scheduler/scheduler_config.json", _SCHEDULER | _shift(folder))
    if "image_encoder" in parts and not (out / "image_processor").is_dir():
        write_json(out / "image_processor/preprocessor_config.json", _PROCESSOR)
    write_json(out / "model_index.json", _index(folder, parts))


_CLASSES = {
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "transformer_2": ["diffusers", "WanTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "image_encoder": ["transformers", "CLIPVisionModel"],
}
_ALWAYS = {
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
}
_SCHEDULER = {
    "_class_name": "UniPCMultistepScheduler",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "num_train_timesteps": 1000,
}
_PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "resample": 3,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def _shift(folder: Folder) -> dict[str, float]:
    """What the model's folder suggests, if it is here."""
    values = folder_values(folder.path) if folder.path.is_dir() else {}
    return {"flow_shift": values["flow_shift"]} if "flow_shift" in values else {}


def _index(folder: Folder, parts: Sequence[str]) -> dict[str, Any]:
    index = folder.index
    image = ["transformers", "CLIPImageProcessor"] if "image_encoder" in parts else [None, None]
    return {
        "_class_name": index._class_name,
        "boundary_ratio": index.boundary_ratio,
        "expand_timesteps": bool(index.expand_timesteps),
        **_ALWAYS,
        "image_processor": image,
        "image_encoder": [None, None],
        "transformer_2": [None, None],
        **{name: _CLASSES[name] for name in parts},
    }


def _original_files(
    folder: Folder,
    out: Path,
    components: Mapping[str, Mapping[str, Any]],
    parts: Sequence[str],
) -> None:
    index = folder.index
    extra = {
        "model_index": {
            "_class_name": index._class_name,
            "boundary_ratio": index.boundary_ratio,
            "expand_timesteps": bool(index.expand_timesteps),
        },
        "components": {n: components[n] for n in components if "transformer" not in n},
        **_shift(folder),
    }
    write_json(out / original.EXTRA, extra)
    for name in (n for n in folder.experts if n in parts):
        config = original.original_config(components[name], index)
        write_json(out / part_out("original", name, folder).folder / "config.json", config)
