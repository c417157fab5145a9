"""What is in a safetensors file, checked whole before a tensor is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from wanjax.checkpoints.stored import Header, Stored
from wanjax.errors import CheckpointError
from wanjax.files import parse_json, require_regular

_LENGTH = 8  # bytes before the header, which say how long it is
_LARGEST = 2**22  # bytes of a header: those of published models have a tenth of it


def safetensors_header(file: Path) -> Header:
    """Raises `CheckpointError` for a file that is none, cut short, or says what cannot be."""
    require_regular(file, CheckpointError)
    try:
        size, text = _header_text(file)
        entries = parse_json(text.decode())
        with safe_open(file, framework="np"):  # types, shapes and offsets, and the file's size
            pass
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is no safetensors file, or is cut short: {error}") from error
    layers = _rounded(file, entries.pop("__metadata__", None) or {})
    start = _LENGTH + size
    tensors = {
        key: Stored(file, key, e["dtype"], tuple(e["shape"]), start + e["data_offsets"][0])
        for key, e in entries.items()
    }
    return Header(tensors, layers)


def metadata_of(file: Path) -> dict[str, str]:
    """What the writer says of a file; nothing of one that is another kind or cannot be read."""
    if file.suffix != ".safetensors":
        return {}
    try:
        with safe_open(file, framework="np") as opened:
            return opened.metadata() or {}
    except (SafetensorError, OSError):  # which reading its tensors says
        return {}


def _header_text(file: Path) -> tuple[int, bytes]:
    there = file.stat().st_size
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(_LENGTH), "little")
        if there < _LENGTH or size > there - _LENGTH:
            raise ValueError(f"its header would have {size:,} bytes, the file has {there:,}")
        if size > _LARGEST:
            raise ValueError(f"its header has {size:,} bytes, more than the {_LARGEST:,} allowed")
        return size, stream.read(size)


def _rounded(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """How ComfyUI's files say layers are rounded: an object a layer, or a format's name."""
    text = metadata.get("_quantization_metadata")
    try:
        layers = parse_json(text)["layers"] if text else {}
        return {
            layer: said if isinstance(said, dict) else {"format": said}
            for layer, said in layers.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{file}: _quantization_metadata is no JSON object with layers"
        ) from error
