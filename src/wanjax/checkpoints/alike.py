"""Which published models a transformer can be of, by the shapes of its tensors. No JAX."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from wanjax.checkpoints.containers import files_of, read_header
from wanjax.checkpoints.layouts.prefixes import holds, of_part
from wanjax.checkpoints.published_models import published
from wanjax.checkpoints.stored import Stored
from wanjax.errors import CheckpointError


class _Shape(NamedTuple):
    """What tells the published transformers apart."""

    width: int
    in_channels: int
    layers: int
    sees_images: bool
    sees_two: bool

    @classmethod
    def of_config(cls, values: Mapping[str, Any]) -> _Shape:
        return cls(
            values["num_attention_heads"] * values["attention_head_dim"],
            values["in_channels"],
            values["num_layers"],
            values.get("image_dim") is not None,
            values.get("pos_embed_seq_len") is not None,
        )


def parts_in(file: Path) -> dict[str, Path]:
    """The parts that a file of several has; else it is a transformer's alone."""
    keys = read_header(file).tensors.keys()
    others = ("vae", "text_encoder", "image_encoder")
    return dict.fromkeys(("transformer", *(part for part in others if holds(part, keys))), file)


def models_of(transformer: Path) -> list[str]:
    """Hub ids of the published models that the transformer's shapes fit.

    Raises `CheckpointError` for a file that is no transformer of Wan.
    """
    found: dict[str, Stored] = {}
    for file in files_of(transformer):
        found |= read_header(file).tensors
    tensors = of_part("transformer", found).tensors
    patches = tensors.get("patch_embedding.weight")
    if patches is None or len(patches.shape) != 5:
        raise CheckpointError(
            f"{transformer} is no transformer of Wan: patch_embedding.weight is not there"
            if patches is None
            else f"{transformer}: patch_embedding.weight is {list(patches.shape)}, expected 5 sizes"
        )
    layers = {match[1] for key in tensors if (match := re.match(r"blocks\.(\d+)\.", key))}
    shape = _Shape(
        patches.shape[0],
        patches.shape[1],
        len(layers),
        any("img_emb." in key or "image_embedder." in key for key in tensors),
        any(key.endswith(("emb_pos", "image_embedder.pos_embed")) for key in tensors),
    )
    return _like(shape)


def models_like(transformer: Mapping[str, Any]) -> list[str]:
    """Hub ids of the published models whose transformer is as this configuration."""
    return _like(_Shape.of_config(transformer))


def _like(shape: _Shape) -> list[str]:
    known = {model: configs.components["transformer"] for model, configs in published().items()}
    return [model for model, values in known.items() if _Shape.of_config(values) == shape]
