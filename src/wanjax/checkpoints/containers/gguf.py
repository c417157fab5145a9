"""What is in a GGUF file, which the package `gguf` reads (the extra `gguf`)."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType
from typing import Any

from wanjax.checkpoints.stored import Blocks, Header, Stored
from wanjax.errors import CheckpointError

_SHAPE = "comfy.gguf.orig_shape."  # beside a tensor that was folded into rows of whole blocks


def gguf_package() -> ModuleType:
    """Raises `CheckpointError` where it is not installed."""
    try:
        import gguf
    except ImportError as error:
        raise CheckpointError(
            'GGUF files are read by the package gguf, which is not here: pip install "wanjax[gguf]"'
        ) from error
    return gguf


def gguf_header(file: Path) -> Header:
    """Raises `CheckpointError` for a file that is none, or cut short."""
    gguf = gguf_package()
    try:
        reader = gguf.GGUFReader(file)
        tensors = {x.name: _stored(file, reader, x, gguf) for x in reader.tensors}
    except CheckpointError:
        raise
    except Exception as error:  # the package raises whatever there is for a damaged one
        raise CheckpointError(f"{file} is no GGUF file, or is cut short: {error}") from error
    return Header(tensors)


def _stored(file: Path, reader: Any, tensor: Any, gguf: ModuleType) -> Stored:
    kind, name = tensor.tensor_type, tensor.name
    shape = folded = tuple(int(size) for size in reversed(tensor.shape))
    field = reader.get_field(_SHAPE + name)
    if field is not None:
        shape = tuple(int(field.parts[i][0]) for i in field.data)
        if math.prod(shape) != math.prod(folded):
            raise CheckpointError(
                f"{file}: {_SHAPE}{name} is {list(shape)}, of a tensor {list(folded)}"
            )
    numbers, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = Blocks(numbers, size, folded[-1]) if numbers > 1 else None
    return Stored(file, name, kind.name, shape, int(tensor.data_offset), blocks=blocks)
