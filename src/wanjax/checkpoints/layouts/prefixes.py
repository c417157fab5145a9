"""What stands before a part's keys in files of several parts, and in ComfyUI's of one. No JAX."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from wanjax.checkpoints.stored import Stored
from wanjax.errors import CheckpointError

_PREFIXES: Mapping[str, tuple[str, ...]] = {
    "transformer": ("model.diffusion_model.", "diffusion_model."),
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("text_encoders.umt5xxl.transformer.", "text_encoders.umt5xxl."),
    "image_encoder": ("clip_vision.", "conditioner.embedders.0."),
}


_ANY = "model."  # before all keys of a file of one part, as some programs save it


class OfPart(NamedTuple):
    """Those of a part without their prefix, the prefix, and why others are skipped."""

    tensors: dict[str, Stored]
    prefix: str
    skipped: dict[str, str]


def part_of(name: str) -> str:
    """The kind of model that a part is: `transformer_2` is a transformer."""
    return "transformer" if name == "transformer_2" else name


def holds(part: str, keys: Iterable[str]) -> bool:
    """Whether a file of several parts has this one."""
    return any(key.startswith(_PREFIXES[part]) for key in keys)


def of_part(part: str, tensors: Mapping[str, Stored]) -> OfPart:
    """The tensors of `part` in a file of one part or of several."""
    known = _PREFIXES[part]
    if tensors and all(key.startswith(_ANY) for key in tensors) and not _in_parts(tensors):
        known = (_ANY,)
    found = OfPart({}, next((p for p in known if any(k.startswith(p) for k in tensors)), ""), {})
    for key, stored in tensors.items():
        other = next(
            (o for o, theirs in _PREFIXES.items() if o != part and key.startswith(theirs)), None
        )
        if other is not None:
            found.skipped[key] = f"of the {other.replace('_', ' ')}, which this file has too"
        else:
            name = key.removeprefix(next((p for p in known if key.startswith(p)), ""))
            if name in found.tensors:
                raise CheckpointError(f"{stored.file}: {found.tensors[name].key} and {key} clash")
            found.tensors[name] = stored
    return found


def _in_parts(keys: Iterable[str]) -> bool:
    return any(holds(part, keys) for part in _PREFIXES)
