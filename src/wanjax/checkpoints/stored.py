"""Where tensors lie in files, whatever the files are. No JAX."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

# Numbers that are read as they lie, by the names that safetensors has for them.
DTYPES: Mapping[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}

# Numbers of eight bits, which are widened as they are read.
NARROW: Mapping[str, np.dtype] = {
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I8": np.dtype(np.int8),
}

# Of what can be given to a device; numbers of four bits are a byte each until they are there.
ARRAYS: Mapping[str, np.dtype] = {**DTYPES, **NARROW, "I4": np.dtype(ml_dtypes.int4)}


def array_bytes(shape: Sequence[int], dtype: Any) -> int:
    """Of an array on a device."""
    half = 2 if np.dtype(dtype) == ARRAYS["I4"] else 1
    size: int = math.prod(shape) * np.dtype(dtype).itemsize
    return -(-size // half)


class Kept(NamedTuple):
    """How a matrix stays on a device: `numbers * scale`, and `+ offset` where there is one.

    Each row has a scale for each of `blocks` of its columns. Types as safetensors names them.
    """

    dtype: str
    blocks: int = 1
    offset: bool = False
    scale: str = "F32"


class Blocks(NamedTuple):
    """How GGUF keeps numbers: so many at a time in so many bytes; a row is of whole blocks."""

    numbers: int
    bytes: int
    row: int


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: `offset` is its first byte's, `strides` in bytes if it is not dense.

    What is read is multiplied by `scale`, of which each number is that of a block: the tensor's
    sizes are multiples of the scale's.
    """

    file: Path
    key: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...] | None = None
    scale: Stored | None = None
    blocks: Blocks | None = None

    def reshaped(self, *shape: int) -> Stored:
        """With dimensions of size 1 added or left out; of a dense one."""
        return replace(self, shape=shape)

    def rows(self, part: int, parts: int, row_bytes: int) -> Stored:
        """One of equal parts along the first dimension; of a dense one."""
        count = self.shape[0] // parts
        shape = (count, *self.shape[1:])
        return replace(self, shape=shape, offset=self.offset + part * count * row_bytes)


@dataclass(frozen=True)
class Header:
    """What a file says of itself."""

    tensors: Mapping[str, Stored]
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # how each is rounded
