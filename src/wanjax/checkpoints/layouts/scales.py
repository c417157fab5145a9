"""Weights of eight bits with their scales, in ComfyUI's conventions, old and new.

    weight = values * scale

Old: `LAYER.scale_weight` beside an FP8 `LAYER.weight`, and a marker `scaled_fp8` in the file. New:
`LAYER.weight_scale`, and `LAYER.comfy_quant` (JSON, as bytes) or the file's metadata say the
format. A scale is one number, one a row, or one a block of rows and columns. FP8 without scales
is about, too: such values are the weights themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from wanjax.checkpoints.stored import DTYPES, NARROW, Header, Stored
from wanjax.checkpoints.tensor_files import read_stored
from wanjax.errors import CheckpointError

_SCALES = (".scale_weight", ".weight_scale")
_FORMATS = {
    "float8_e4m3fn": "F8_E4M3",
    "float8_e4m3fn_rowwise": "F8_E4M3",
    "float8_e4m3fn_blockwise": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int8_tensorwise": "I8",
    "int8_rowwise": "I8",
    "int8_blockwise": "I8",
}
_OF_ACTIVATIONS = "scales of activations, which are not rounded here"
_SKIPPED = {
    r"scaled_fp8": "the mark of a file with scales, which are applied",
    r".*\.(scale_input|input_scale)": _OF_ACTIVATIONS,
    r".*\.comfy_quant": "the name of a layer's format, which is heeded",
}
# Weights of two dimensions that no product multiplies: these have no scale in any convention.
_TABLES = re.compile(
    r".*(shared|embed_tokens|token_embedding|token_embd|attention_bias|pos_embedding.*)\.weight"
)


def with_scales(header: Header) -> tuple[dict[str, Stored], dict[str, str]]:
    """The tensors, each weight with its scale, and why keys are skipped.

    Raises `CheckpointError` naming file and key where a scale is missing, is of another shape or
    of a weight that is not rounded, and for formats that are not implemented.
    """
    found = dict(header.tensors)
    formats = _formats(header)
    scales = {key: end for key in found for end in _SCALES if key.endswith(end)}
    scaled = bool(scales or formats or "scaled_fp8" in found)
    for key, end in scales.items():
        weight = key.removesuffix(end) + ".weight"
        if weight in found:  # else the scale is a key that nobody reads: an error
            if found[weight].scale is not None:
                raise CheckpointError(f"{_at(found[key])}: a second scale of {weight}")
            found[weight] = _scaled(found[weight], found.pop(key))
    for layer, name in formats.items():
        said = found.get(f"{layer}.weight")  # a missing one is told of with all that is missing
        if said is not None and said.dtype != _FORMATS[name]:
            raise CheckpointError(f"{_at(said)} is {said.dtype}, and its file says {name}")
    for key, stored in found.items():
        if stored.scale is None and _needs_scale(key, stored, scaled):
            layer = stored.key.removesuffix(".weight")
            raise CheckpointError(
                f"{stored.file}: {layer}{_convention(header)} is missing: {stored.key} is "
                f"{stored.dtype}, whose values without their scale are no weights"
            )
    skipped = {
        stored.key: why
        for key, stored in found.items()
        for pattern, why in _SKIPPED.items()
        if re.fullmatch(pattern, key)
    }
    kept = {key: stored for key, stored in found.items() if stored.key not in skipped}
    return kept, skipped


def _at(stored: Stored) -> str:
    return f"{stored.file}: {stored.key}"


def _needs_scale(key: str, stored: Stored, scaled: bool) -> bool:
    """Whole numbers do; FP8 does if the file has scales at all, and it is a product's weight."""
    if stored.dtype == "I8":
        return True
    product = len(stored.shape) == 2 and key.endswith(".weight") and not _TABLES.fullmatch(key)
    return stored.dtype in NARROW and scaled and product


def _convention(header: Header) -> str:
    old = "scaled_fp8" in header.tensors or any(k.endswith(_SCALES[0]) for k in header.tensors)
    return _SCALES[0] if old else _SCALES[1]


def _scaled(weight: Stored, scale: Stored) -> Stored:
    if weight.dtype not in NARROW:
        raise CheckpointError(
            f"{_at(scale)} is the scale of a weight which is {weight.dtype}, not rounded to one of "
            + ", ".join(NARROW)
        )
    if scale.dtype not in DTYPES:
        raise CheckpointError(f"{_at(scale)} is {scale.dtype}, expected {', '.join(DTYPES)}")
    shape = _as_blocks(weight.shape, scale.shape)
    if shape is None:
        raise CheckpointError(
            f"{_at(scale)} is {list(scale.shape)}, expected one number, one a row, or one a block, "
            f"for {weight.key} {list(weight.shape)}"
        )
    return replace(weight, scale=scale.reshaped(*shape))


def _as_blocks(weight: tuple[int, ...], scale: tuple[int, ...]) -> tuple[int, ...] | None:
    """A scale's shape with the weight's dimensions; each divides the weight's."""
    if all(size == 1 for size in scale):
        return (1,) * len(weight)
    if len(scale) == 1 or (len(scale) == len(weight) and set(scale[1:]) == {1}):
        return (scale[0], *[1] * (len(weight) - 1)) if weight and scale[0] == weight[0] else None
    if len(scale) != len(weight):
        return None
    whole = all(not ours % blocks for ours, blocks in zip(weight, scale, strict=True) if blocks)
    return scale if whole and all(scale) else None


def _formats(header: Header) -> dict[str, str]:
    """The format of each layer that says so; a layer's name has no prefix."""
    given: dict[str, Mapping[str, Any]] = dict(header.layers)
    where = {layer: f"_quantization_metadata of {layer}" for layer in given}
    for key, stored in header.tensors.items():
        if key.endswith(".comfy_quant"):
            layer = key.removesuffix(".comfy_quant")
            given[layer], where[layer] = _from_bytes(stored), _at(stored)
    return {layer: _format(said, where[layer]) for layer, said in given.items()}


def _from_bytes(stored: Stored) -> Mapping[str, Any]:
    if stored.dtype != "U8":
        raise CheckpointError(f"{_at(stored)} is {stored.dtype}, expected U8, the bytes of JSON")
    try:
        said = json.loads(read_stored(stored).tobytes())
    except ValueError as error:
        raise CheckpointError(f"{_at(stored)} holds no JSON: {error}") from error
    return said if isinstance(said, dict) else {"format": said}


def _format(said: Mapping[str, Any], where: str) -> str:
    name = said.get("format")
    values = {**said, **(said["params"] if isinstance(said.get("params"), dict) else {})}
    if name not in _FORMATS:
        raise CheckpointError(
            f"{where}: format={name!r} is not implemented; read are {', '.join(_FORMATS)}"
        )
    if values.get("convrot"):
        raise CheckpointError(
            f"{where}: convrot=true, weights that are rotated before they are rounded, is not "
            "implemented; take a file without"
        )
    return str(name)
