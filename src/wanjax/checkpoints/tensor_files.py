"""The tensors of a folder of safetensors files, read whole or in part."""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from wanjax.errors import CheckpointError

Index = tuple[slice, ...]  # a slice of each dimension, with bounds, of step 1

DTYPES: Mapping[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
}


@dataclass(frozen=True)
class _Stored:
    """Where a tensor lies; `offset` counts from the start of the file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int


class TensorFiles:
    """A safetensors file, or all of a folder, as one mapping from key to tensor, read on demand.

    `aliases` maps names under which some checkpoints store a tensor to the name we ask for.
    `prefix` is dropped from keys that have it. Threads may read at the same time.
    """

    def __init__(self, folder: Path, aliases: Mapping[str, str] | None = None, prefix: str = ""):
        self.folder = folder
        files = [folder] if folder.is_file() else sorted(folder.glob("*.safetensors"))
        if not files:
            raise CheckpointError(f"{folder}: no *.safetensors file")
        self._stored: dict[str, _Stored] = {}
        for file in files:
            for key, stored in _header(file).items():
                name = (aliases or {}).get(key, key)
                self._stored.setdefault(name.removeprefix(prefix), stored)

    def keys(self) -> Iterable[str]:
        return self._stored.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._stored[name].shape

    def dtype(self, name: str) -> str:
        """As safetensors names it, such as BF16."""
        return self._stored[name].dtype

    def read(self, name: str, index: Index, out: np.ndarray | None = None) -> np.ndarray:
        """A part of a tensor, into `out` if it is given.

        Whole rows are read straight into their place: nothing of the file stays in this
        process's memory. For a part of each row the file is mapped, so that no more of it
        is touched than the pages that the part lies in, and unmapped again.
        """
        stored = self._stored[name]
        dtype = DTYPES[stored.dtype]
        shape = tuple(part.stop - part.start for part in index)
        out = np.empty(shape, dtype) if out is None else out
        if shape[1:] == stored.shape[1:]:
            row = math.prod(shape[1:]) * dtype.itemsize
            start = index[0].start * row if index else 0
            _read_into(stored.file, stored.offset + start, out)
        else:
            _copy_mapped(stored, index, out)
        return out


def _read_into(file: Path, offset: int, out: np.ndarray) -> None:
    space = out.reshape(-1).view(np.uint8).data
    with file.open("rb", buffering=0) as stream:
        stream.seek(offset)
        while space:
            count = stream.readinto(space)  # two GiB at most
            if not count:
                raise CheckpointError(f"{file} is cut short: it was whole when it was opened")
            space = space[count:]


def _copy_mapped(stored: _Stored, index: Index, out: np.ndarray) -> None:
    bits = np.dtype(f"u{out.dtype.itemsize}")  # copied without Python's lock, which bfloat16 needs
    with (
        stored.file.open("rb", buffering=0) as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        tensor = np.ndarray(stored.shape, bits, mapped, stored.offset)
        np.copyto(out.view(bits), tensor[index])
        del tensor  # else the map cannot be closed


def _header(file: Path) -> dict[str, _Stored]:
    try:
        with safe_open(file, framework="np"):  # which checks that the file is whole
            pass
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            entries = json.loads(stream.read(size))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is no safetensors file, or is cut short: {error}") from error
    return {
        key: _Stored(
            file, entry["dtype"], tuple(entry["shape"]), 8 + size + entry["data_offsets"][0]
        )
        for key, entry in entries.items()
        if key != "__metadata__"
    }
