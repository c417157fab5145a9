"""The tensors of a model's part, read whole or in part, whatever its files are."""

from __future__ import annotations

import math
import mmap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wanjax.checkpoints.containers import files_of, read_header
from wanjax.checkpoints.stored import DTYPES, Stored
from wanjax.errors import CheckpointError

Index = tuple[slice, ...]  # a slice of each dimension, with bounds, of step 1


@dataclass(frozen=True)
class Arranged:
    """Tensors under the names of diffusers' layout; `skipped` says why, by the key in the file."""

    tensors: Mapping[str, Stored]
    layout: str = "as it is"
    skipped: Mapping[str, str] = field(default_factory=dict)
    key: Callable[[str], str] = lambda name: name  # of the name that a tensor has in the file


class TensorFiles:
    """A file, or all of a folder, as one mapping from name to tensor, read on demand.

    `arrange` makes of the tensors in the files those of the layout that is asked for. Threads
    may read at the same time. Raises `CheckpointError` for a key that two files have.
    """

    def __init__(
        self,
        place: Path,
        arrange: Callable[[Mapping[str, Stored]], Arranged] = Arranged,
    ):
        self.place = place
        found: dict[str, Stored] = {}
        for file in files_of(place):
            for key, stored in read_header(file).tensors.items():
                if key in found:
                    raise CheckpointError(
                        f"{key} is in {found[key].file} and in {file}: which of them is meant "
                        "cannot be told; leave one file there"
                    )
                found[key] = stored
        self.arranged = arrange(found)
        self._stored = self.arranged.tensors

    def keys(self) -> Iterable[str]:
        return self._stored.keys()

    def said(self, name: str) -> str:
        """The key that a tensor has, or would have, in the files."""
        return self._stored[name].key if name in self._stored else self.arranged.key(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._stored[name].shape

    def dtype(self, name: str) -> str:
        """Of what is read, as safetensors names it, such as BF16."""
        return self._stored[name].dtype

    def stored_dtypes(self) -> Counter[str]:
        """How many tensors are of which type in the files."""
        return Counter(stored.dtype for stored in self._stored.values())

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
        if stored.strides is None and shape[1:] == stored.shape[1:]:
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


def _copy_mapped(stored: Stored, index: Index, out: np.ndarray) -> None:
    bits = np.dtype(f"u{out.dtype.itemsize}")  # copied without Python's lock, which bfloat16 needs
    with (
        stored.file.open("rb", buffering=0) as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        tensor = np.ndarray(stored.shape, bits, mapped, stored.offset, stored.strides)
        np.copyto(out.view(bits), tensor[index])
        del tensor  # else the map cannot be closed
