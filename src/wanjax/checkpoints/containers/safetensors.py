"""What is in a safetensors file."""

from __future__ import annotations

import json
from pathlib import Path

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
    metadata = entries.pop("__metadata__", None) or {}
    start = 8 + size
    tensors = {
        key: Stored(file, key, e["dtype"], tuple(e["shape"]), start + e["data_offsets"][0])
        for key, e in entries.items()
    }
    return Header(tensors, metadata)
