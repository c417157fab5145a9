"""GGUF files by the writer of the package `gguf`: a tensor after the other, in pieces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from wanjax.checkpoints.containers.gguf import gguf_package

KINDS = ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")  # that the package can round to


class DeclaredTensor(NamedTuple):
    """A tensor that is to be written; `kind` as GGUF names types of numbers."""

    kind: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class _Pieces:
    """What the writer takes for an array."""

    nbytes: int
    pieces: Iterable[np.ndarray]

    def tofile(self, stream: BinaryIO) -> None:
        for piece in self.pieces:
            stream.write(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)


def write_gguf(
    path: Path,
    declared: Mapping[str, DeclaredTensor],
    values: Iterable[Iterable[np.ndarray]],
) -> None:
    """A transformer; `values` are the tensors in their order, each in pieces of rows.

    Raises `CheckpointError` where the package is not installed.
    """
    gguf = gguf_package()
    writer = gguf.GGUFWriter(path, "wan")
    kinds = gguf.GGMLQuantizationType
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(_file_type(gguf, {tensor.kind for tensor in declared.values()}))
    for name, tensor in declared.items():
        about = (tensor.shape, np.dtype(np.float32), tensor.bytes)
        writer.add_tensor_info(name, *about, raw_dtype=kinds[tensor.kind])
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor, pieces in zip(declared.values(), values, strict=True):
            writer.write_tensor_data(_Pieces(tensor.bytes, pieces))
    finally:
        writer.close()


def _file_type(gguf: Any, kinds: set[str]) -> Any:
    """The package's name of the type that most numbers are of."""
    for kind in (*KINDS, "BF16", "F16"):
        if kind in kinds:
            return gguf.LlamaFileType[f"MOSTLY_{kind}"]
    return gguf.LlamaFileType.ALL_F32


def block_bytes(kind: str, shape: tuple[int, ...]) -> int | None:
    """Of a tensor in blocks of `kind`; None where its rows are not of whole blocks."""
    gguf = gguf_package()
    numbers, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    if len(shape) != 2 or shape[1] % numbers:
        return None
    count: int = shape[0] * shape[1] // numbers * size
    return count


def in_blocks(values: np.ndarray, kind: str) -> np.ndarray:
    """Float32 rows in blocks, as bytes."""
    gguf = gguf_package()
    rounded: np.ndarray = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
    return rounded
