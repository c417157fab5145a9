"""Where tensors lie in files, whatever the files are. No JAX."""

from __future__ import annotations

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

# Of what is given to a device; bytes hold two numbers of four bits.
ARRAYS: Mapping[str, np.dtype] = {**DTYPES, **NARROW, "U8": np.dtype(np.uint8)}


class Kept(NamedTuple):
    """How a matrix stays on a device: `numbers * scale`, and `+ offset` where there is one.

    Each row has a scale for each of `blocks` of its columns. Types as safetensors names them; I4
    are whole numbers from -8 to 7, two in a byte (see `layers.Linear`).
    """

    dtype: str
    blocks: int = 1
    offset: bool = False
    scale: str = "F32"

    @property
    def array(self) -> str:
        """The type of the array that holds the numbers."""
        return "U8" if self.dtype == "I4" else self.dtype

    def shape(self, shape: Sequence[int]) -> tuple[int, int]:
        """Of that array, for a matrix [inputs, outputs]."""
        inputs, outputs = shape
        return inputs // 2 if self.dtype == "I4" else inputs, outputs


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
