"""GGUF's blocks as they can stay on a device: whole numbers, a scale and perhaps an offset each.

    weight = numbers * scale + offset

The numbers are those that the package `gguf` makes of blocks whose scales are one. Kinds that look
their numbers up in a table (IQ4) or have fewer bits than four are widened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from wanjax.checkpoints.containers.gguf import gguf_package
from wanjax.checkpoints.stored import Kept, Stored

Scales = tuple[np.ndarray, np.ndarray | None]  # and offsets, float32 [blocks, parts of a block]

_ONE = b"\x00\x3c"  # 1 as float16
_ONES = bytes([1] * 8 + [17] * 4)  # eight scales and eight minima of six bits, packed: all 1


class _Kind(NamedTuple):
    """`numbers` share a scale; `scales` reads it of the bytes that `unit` takes the place of."""

    dtype: str
    numbers: int
    at: int
    unit: bytes
    scales: Callable[[np.ndarray], Scales]
    offset: bool = False
    scale: str = "F32"


def _plain(header: np.ndarray) -> Scales:
    return _half(header, 0), None


def _with_minimum(centre: int) -> Callable[[np.ndarray], Scales]:
    """`centre` was taken off each number, so that it has a sign."""

    def scales(header: np.ndarray) -> Scales:
        scale = _half(header, 0)
        return scale, _half(header, 2) + np.float32(centre) * scale

    return scales


def _eight(centre: int) -> Callable[[np.ndarray], Scales]:
    """Eight scales and minima of six bits, each times a number of the block's."""

    def scales(header: np.ndarray) -> Scales:
        factors, minima = gguf_package().quants.Q4_K.get_scale_min(header[:, 4:16])
        scale = _half(header, 0) * factors.astype(np.float32)
        return scale, np.float32(centre) * scale - _half(header, 2) * minima.astype(np.float32)

    return scales


def _sixteen(header: np.ndarray) -> Scales:
    return header[:, :16].view(np.int8).astype(np.float32) * _half(header, 16), None


def _half(header: np.ndarray, at: int) -> np.ndarray:
    held: np.ndarray = np.ascontiguousarray(header[:, at : at + 2]).view(np.float16)
    return held.astype(np.float32)


def _number(value: float) -> bytes:
    return np.float16(value).tobytes()


KINDS: Mapping[str, _Kind] = {
    "Q8_0": _Kind("I8", 32, 0, _ONE, _plain, scale="F16"),
    "Q6_K": _Kind("I8", 16, 192, bytes([1] * 16) + _ONE, _sixteen),
    "Q5_0": _Kind("I8", 32, 0, _ONE, _plain, scale="F16"),
    "Q5_1": _Kind("I8", 32, 0, _ONE + _number(0), _with_minimum(0), offset=True),
    "Q5_K": _Kind("I8", 32, 0, _ONE + _number(0) + _ONES, _eight(0), offset=True),
    "Q4_0": _Kind("I4", 32, 0, _ONE, _plain, scale="F16"),
    "Q4_1": _Kind("I4", 32, 0, _ONE + _number(-8), _with_minimum(8), offset=True),
    "Q4_K": _Kind("I4", 32, 0, _ONE + _number(8) + _ONES, _eight(8), offset=True),
}


def kept_blocks(stored: Stored) -> Kept | None:
    """How a matrix of whole rows of blocks can stay; None of other kinds."""
    kind = KINDS.get(stored.dtype)
    if kind is None or stored.blocks is None or stored.blocks.row != stored.shape[-1]:
        return None
    return Kept(kind.dtype, stored.shape[-1] // kind.numbers, kind.offset, kind.scale)


def numbers_of(raw: np.ndarray, dtype: str) -> np.ndarray:
    """Whole numbers [rows, columns] of rows of blocks [rows, bytes], which are changed."""
    gguf, kind = gguf_package(), KINDS[dtype]
    as_kind = gguf.GGMLQuantizationType[dtype]
    blocks = raw.reshape(-1, gguf.GGML_QUANT_SIZES[as_kind][1])
    blocks[:, kind.at : kind.at + len(kind.unit)] = np.frombuffer(kind.unit, np.uint8)
    numbers: np.ndarray = gguf.quants.dequantize(raw, as_kind).astype(np.int8)
    return numbers


def scales_of(raw: np.ndarray, dtype: str) -> Scales:
    """Scales and offsets [rows, parts of a row] of rows of blocks."""
    gguf, kind = gguf_package(), KINDS[dtype]
    blocks = raw.reshape(-1, gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[dtype]][1])
    scale, offset = kind.scales(blocks[:, kind.at : kind.at + len(kind.unit)])
    rows = len(raw)
    return scale.reshape(rows, -1), None if offset is None else offset.reshape(rows, -1)
