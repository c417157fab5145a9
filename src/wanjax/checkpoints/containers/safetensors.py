"""What is in a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from wanjax.checkpoints.stored import Header, Stored
from wanjax.errors import CheckpointError


def safetensors_header(file: Path) -> Header:
    """Raises `CheckpointError` for a file that is none, or cut short."""
    try:
        with safe_open(file, framework="np"):  # which checks that the file is whole
            pass
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            entries = json.loads(stream.read(size))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is no safetensors file, or is cut short: {error}") from error
    layers = _rounded(file, entries.pop("__metadata__", None) or {})
    start = 8 + size
    tensors = {
        key: Stored(file, key, e["dtype"], tuple(e["shape"]), start + e["data_offsets"][0])
        for key, e in entries.items()
    }
    return Header(tensors, layers)


def _rounded(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """How ComfyUI's files say layers are rounded: an object a layer, or a format's name."""
    text = metadata.get("_quantization_metadata")
    try:
        layers = json.loads(text)["layers"] if text else {}
        return {
            layer: said if isinstance(said, dict) else {"format": said}
            for layer, said in layers.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{file}: _quantization_metadata is no JSON object with layers"
        ) from error
