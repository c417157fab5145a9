"""Which matrices of a transformer's blocks stay in eight bits or fewer, by their files. No JAX."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from wanjax.checkpoints.layouts.recognise import part_files
from wanjax.checkpoints.stored import ARRAYS, Kept
from wanjax.checkpoints.tensor_files import TensorFiles

Quantize = Literal["int8", "fp8"]

# How matrices are kept, by diffusers' name of the linear layer in its block, such as `attn1.to_q`.
Rounding = Mapping[str, Kept]

WHOLE: Rounding = {}
_TYPES: Mapping[Quantize, str] = {"int8": "I8", "fp8": "F8_E4M3"}
_MATRIX = re.compile(r"blocks\.\d+\.(.+)\.weight")
_PRODUCTS = ("to_q", "to_k", "to_v", "to_out.0")
# All linear layers that a block can have; of models without CLIP some are not there.
LAYERS = (
    *(f"{attention}.{name}" for attention in ("attn1", "attn2") for name in _PRODUCTS),
    *("attn2.add_k_proj", "attn2.add_v_proj", "ffn.net.0.proj", "ffn.net.2"),
)


def layer_of(key: str) -> str | None:
    """The layer that a tensor is the matrix of, by diffusers' name; None: of no block."""
    match = _MATRIX.fullmatch(key)
    return match[1] if match else None


def every_layer(quantize: Quantize) -> dict[str, Kept]:
    """All of them rounded, each output with a scale."""
    return dict.fromkeys(LAYERS, Kept(_TYPES[quantize]))


def as_files_have(files: Sequence[TensorFiles]) -> dict[str, Kept]:
    """The layers that can stay, in all blocks of all experts' files, in a form that holds each."""
    found: dict[str, Kept | None] = {}
    for of in files:
        for key in of.keys():  # noqa: SIM118 (no mapping)
            layer = layer_of(key)
            if layer in LAYERS:
                kept = of.kept(key)
                found[layer] = united(found[layer], kept) if layer in found else kept
    return {layer: kept for layer, kept in found.items() if kept is not None}


def kept_in(places: Iterable[Path]) -> dict[str, Kept]:
    """The layers that can stay of experts whose files lie in `places`; reads headers alone."""
    return as_files_have([part_files("transformer", place) for place in places])


def united(one: Kept | None, other: Kept | None) -> Kept | None:
    """A form that holds the numbers of both as they are; None where there is none.

    GGUF's files have some blocks' matrices in more bits than others'. The wider numbers and the
    smaller blocks hold both. FP8 and whole numbers have no form in common.
    """
    if one is None or other is None or one == other:
        return one if one == other else None
    wider = other if one.dtype == "I4" else one
    blocks = max(one.blocks, other.blocks)
    floats = sum(not kept.dtype.startswith("I") for kept in (one, other))
    same_type = one.dtype == other.dtype or not floats
    if not same_type or blocks % one.blocks or blocks % other.blocks:
        return None
    scale = one.scale if one.scale == other.scale else "F32"
    return Kept(wider.dtype, blocks, one.offset or other.offset, scale)


def kept_bytes(kept: Kept, shape: Sequence[int]) -> tuple[int, int]:
    """Of the numbers of a matrix [inputs, outputs], and of what they are multiplied by."""
    numbers = math.prod(kept.shape(shape)) * ARRAYS[kept.array].itemsize
    scales = kept.blocks * shape[1] * ARRAYS[kept.scale].itemsize
    return numbers, scales * (1 + kept.offset)


def in_words(rounding: Rounding) -> str:
    """The types of the numbers, such as `int4 and int8`."""
    names = {"int4" if k.dtype == "I4" else ARRAYS[k.dtype].name for k in rounding.values()}
    return " and ".join(sorted(names))
