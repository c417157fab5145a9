"""Which layout a part's tensors are in, by their keys; under diffusers' names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from wanjax.checkpoints.layouts.diffusers import clip as diffusers_clip
from wanjax.checkpoints.layouts.diffusers import umt5 as diffusers_umt5
from wanjax.checkpoints.layouts.gguf import umt5 as gguf_umt5
from wanjax.checkpoints.layouts.names import Names, inverted, renamed
from wanjax.checkpoints.layouts.original import clip as original_clip
from wanjax.checkpoints.layouts.original import transformer as original_transformer
from wanjax.checkpoints.layouts.original import umt5 as original_umt5
from wanjax.checkpoints.layouts.original import vae as original_vae
from wanjax.checkpoints.layouts.prefixes import of_part, part_of
from wanjax.checkpoints.layouts.scales import with_scales
from wanjax.checkpoints.locate import OTHER_FORMS
from wanjax.checkpoints.stored import DTYPES, Header, Stored
from wanjax.checkpoints.tensor_files import Arranged, TensorFiles
from wanjax.errors import CheckpointError

Tensors = Mapping[str, Stored]

# A key that only this layout of a part has, the layout's name, and its table.
_MARKS: Mapping[str, tuple[tuple[str, str, Callable[[Any], Names]], ...]] = {
    "transformer": (
        ("head.modulation", "the authors' names", lambda config: original_transformer.NAMES),
    ),
    "vae": (("decoder.conv1.weight", "the authors' names", original_vae.names),),
    "text_encoder": (
        ("token_embedding.weight", "the authors' names", lambda config: original_umt5.NAMES),
        ("token_embd.weight", "GGUF's names", lambda config: gguf_umt5.NAMES),
    ),
    "image_encoder": (
        ("visual.cls_embedding", "the authors' names", lambda config: original_clip.NAMES),
    ),
}
# Keys of forms of Wan that are not implemented, and the form's name.
_OTHER_FORMS = {
    "vace_blocks.": "VACE",
    "motion_encoder.": "Animate",
    "face_adapter.": "Animate",
    "control_adapter.": "control",
    "audio_injector.": "S2V",
    "casual_audio_encoder.": "S2V",
}
_SKIPPED = {
    "text_encoder": {
        r"spiece_model": "the tokenizer, which is no weight",
        r"logit_scale": "of CLIP's training, which ComfyUI saves with every text encoder",
    },
    "image_encoder": original_clip.SKIPPED,
}


def part_files(name: str, place: Path, config: Any = None) -> TensorFiles:
    """A part's file or folder, whatever its layout. The VAE's needs its `config`."""
    return TensorFiles(place, partial(arrange, name, config))


def arrange(name: str, config: Any, header: Header) -> Arranged:
    """A part's tensors under diffusers' names, weights with their scales.

    Raises `CheckpointError` for other forms of Wan, and for scales that are missing.
    """
    part = part_of(name)
    found, prefix, skipped = of_part(part, header.tensors)
    layers = {layer.removeprefix(prefix): said for layer, said in header.layers.items()}
    own = {layer: said for layer, said in layers.items() if f"{layer}.weight" in found}
    tensors, of_scales = with_scales(Header(found, own))
    skipped |= of_scales
    for key in tensors:
        form = next((form for mark, form in _OTHER_FORMS.items() if key.startswith(mark)), None)
        if form is not None:
            raise CheckpointError(
                f"{tensors[key].file}: {prefix}{key} is of {OTHER_FORMS[form]}, a form that is "
                "not implemented"
            )
    why = _SKIPPED.get(part, {})
    for key in [key for key in tensors if _reason(key, why)]:
        skipped[tensors[key].key] = str(_reason(key, why))
    tensors = {key: stored for key, stored in tensors.items() if not _reason(key, why)}
    for mark, layout, table in _MARKS[part]:
        if mark in tensors:
            return _renamed(part, tensors, prefix, layout, table(config), skipped)
    return _diffusers(part, tensors, prefix, skipped)


def _reason(key: str, patterns: Mapping[str, str]) -> str | None:
    return next((why for pattern, why in patterns.items() if re.fullmatch(pattern, key)), None)


def _diffusers(part: str, tensors: Tensors, prefix: str, skipped: dict[str, str]) -> Arranged:
    found: dict[str, Stored] = {}
    inner = diffusers_clip.PREFIX if part == "image_encoder" else ""
    aliases = diffusers_umt5.ALIASES if part == "text_encoder" else {}
    for key, stored in tensors.items():
        name = aliases.get(key, key).removeprefix(inner)
        if key in aliases and name in tensors:
            skipped[stored.key] = f"the same as {name}"
        else:
            found[name] = stored
    inner = inner if any(key.startswith(inner) for key in tensors) else ""
    return Arranged(found, "diffusers' names", skipped, lambda name: prefix + inner + name)


def _renamed(
    part: str,
    tensors: Tensors,
    prefix: str,
    layout: str,
    names: Names,
    skipped: dict[str, str],
) -> Arranged:
    found: dict[str, Stored] = {}
    for key, stored in tensors.items():
        split = _split(key, stored) if part == "image_encoder" else None
        # a key that no table has keeps its name, and is an error as one that nobody expects
        for name, tensor in (split or {renamed(key, names) or key: stored}).items():
            if name in found:
                raise CheckpointError(f"{stored.file}: {found[name].key} and {key} are the same")
            found[name] = tensor
    return Arranged(found, layout, skipped, partial(_key, prefix, inverted(names)))


def _key(prefix: str, back: Names, name: str) -> str:
    return prefix + (renamed(name, back) or name)


def _split(key: str, stored: Stored) -> dict[str, Stored] | None:
    """The authors' CLIP keeps three modules in one, and dimensions of size 1."""
    fused = {original_clip.FUSED: "{i}"}
    if stored.dtype not in DTYPES:
        return None
    if (layer := renamed(key, fused)) is not None:
        number, _, leaf = layer.partition(".")
        row = DTYPES[stored.dtype].itemsize * (stored.shape[1] if len(stored.shape) > 1 else 1)
        return {
            f"{module.replace('{i}', number)}.{leaf}": stored.rows(part, 3, row)
            for part, module in enumerate(original_clip.SPLIT)
        }
    if key == "visual.head" and len(stored.shape) == 2:  # the authors multiply it from the right
        item = DTYPES[stored.dtype].itemsize
        turned = replace(stored, shape=stored.shape[::-1], strides=(item, stored.shape[1] * item))
        return {original_clip.NAMES[key]: turned}
    if key in ("visual.cls_embedding", "visual.pos_embedding"):
        name = str(renamed(key, original_clip.NAMES))
        kept = [size for size in stored.shape if size > 1]
        return {name: stored.reshaped(*kept)}
    return None
