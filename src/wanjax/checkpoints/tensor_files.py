"""The tensors of a model's part, read whole or in part, whatever its files are."""

from __future__ import annotations

import math
import mmap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wanjax.checkpoints.containers import files_of, read_header
from wanjax.checkpoints.containers.gguf import gguf_package
from wanjax.checkpoints.containers.gguf_blocks import Scales, kept_blocks, numbers_of, scales_of
from wanjax.checkpoints.locate import read_shards
from wanjax.checkpoints.stored import DTYPES, NARROW, Blocks, Header, Kept, Stored
from wanjax.errors import CheckpointError

_PAIRED = 2**18  # values for which a table of all pairs is made
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

    `arrange` makes of the tensors in the files those of the layout that is asked for. Numbers of
    eight bits are widened to float32 as they are read. Threads may read at the same time. Raises
    `CheckpointError` for a key that two files have, and where a folder's index and its shards do
    not agree.
    """

    def __init__(self, place: Path, arrange: Callable[[Header], Arranged] | None = None):
        self.place = place
        found: dict[str, Stored] = {}
        layers: dict[str, Mapping[str, Any]] = {}
        for file in files_of(place):
            header = read_header(file)
            layers |= header.layers
            for key, stored in header.tensors.items():
                if key in found:
                    raise CheckpointError(
                        f"{key} is in {found[key].file} and in {file}: which of them is meant "
                        "cannot be told; leave one variant of one download there"
                    )
                found[key] = stored
        if place.is_dir():
            _check_index(place, {key: stored.file.name for key, stored in found.items()})
        self.arranged = arrange(Header(found, layers)) if arrange else Arranged(found)
        self._stored = self.arranged.tensors
        self._scales: dict[str, np.ndarray] = {}

    def keys(self) -> Iterable[str]:
        return self._stored.keys()

    def said(self, name: str) -> str:
        """The key that a tensor has, or would have, in the files."""
        return self._stored[name].key if name in self._stored else self.arranged.key(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._stored[name].shape

    def dtype(self, name: str) -> str:
        """Of what is read, as safetensors names it, such as BF16."""
        stored = self._stored[name]
        return "F32" if _is_rounded(stored) or stored.blocks is not None else stored.dtype

    def stored_dtype(self, name: str) -> str:
        """Of what lies in the file."""
        return self._stored[name].dtype

    def stored_dtypes(self) -> Counter[str]:
        """How many tensors are of which type in the files."""
        return Counter(map(_said_dtype, self._stored.values()))

    @property
    def bare(self) -> Stored | None:
        """One of FP8, if there are some and none has a scale: plain numbers, or lost scales."""
        rounded = [stored for stored in self._stored.values() if _is_rounded(stored)]
        return rounded[0] if rounded and not any(stored.scale for stored in rounded) else None

    def used(self) -> set[str]:
        """The keys in the files that tensors are read from, their scales' included."""
        scales = (stored.scale.key for stored in self._stored.values() if stored.scale)
        return {*(stored.key for stored in self._stored.values()), *scales}

    def kept(self, name: str) -> Kept | None:
        """How a matrix can stay on a device, as its file has it; None: widened."""
        stored = self._stored[name]
        if len(stored.shape) != 2:
            return None
        if stored.blocks is not None:
            return kept_blocks(stored)
        if not _is_rounded(stored):
            return None
        return Kept(stored.dtype, 1 if stored.scale is None else stored.scale.shape[1])

    def read_rounded(self, name: str, index: Index, out: np.ndarray | None = None) -> np.ndarray:
        """A part of such a matrix without its scales: the numbers of the file."""
        stored = self._stored[name]
        if stored.blocks is None:
            values: np.ndarray = read_stored(stored, index, out)
            return values
        numbers = numbers_of(_raw_rows(stored, stored.blocks, index[0]), stored.dtype)[:, index[1]]
        if out is None:
            return numbers
        out[...] = numbers
        return out

    def read_scales(self, name: str, rows: slice) -> Scales:
        """The scales, and perhaps the offsets, of some rows of such a matrix.

        Float32 [rows, blocks].
        """
        stored, scale = self._stored[name], self._scale(name)
        if stored.blocks is not None:
            return scales_of(_raw_rows(stored, stored.blocks, rows), stored.dtype)
        count = rows.stop - rows.start
        if scale is None:
            return np.ones((count, 1), np.float32), None
        columns = scale.shape[1]
        spread = _spread(scale, (stored.shape[0], columns), (rows, slice(0, columns)))
        return np.broadcast_to(spread, (count, columns)), None

    def read(self, name: str, index: Index, out: np.ndarray | None = None) -> np.ndarray:
        """A part of a tensor, into `out` if it is given."""
        stored = self._stored[name]
        shape = tuple(part.stop - part.start for part in index)
        if stored.blocks is not None:
            out = np.empty(shape, np.float32) if out is None else out
            out[...] = _from_blocks(stored, stored.blocks, index)
            return out
        if not _is_rounded(stored):
            values: np.ndarray = read_stored(stored, index, out)
            return values
        out = np.empty(shape, np.float32) if out is None else out
        _widen(read_stored(stored, index), _table(stored.dtype, np.float32(1), out.dtype), out)
        if (scale := self._scale(name)) is not None:
            out *= _spread(scale, stored.shape, index)
        return out

    def read_as(self, name: str, index: Index, dtype: np.dtype) -> np.ndarray:
        """A part of a tensor as `read` has it, rounded to `dtype` where that saves a pass."""
        stored, scale = self._stored[name], self._scale(name)
        if not _is_rounded(stored) or (scale is not None and scale.size > 1):
            return self.read(name, index)
        out = np.empty(tuple(part.stop - part.start for part in index), dtype)
        factor = np.float32(1 if scale is None else scale.item())
        _widen(read_stored(stored, index), _table(stored.dtype, factor, dtype), out)
        return out

    def _scale(self, name: str) -> np.ndarray | None:
        stored = self._stored[name]
        if name not in self._scales and stored.scale is not None:
            self._scales[name] = read_stored(stored.scale).astype(np.float32)
        return self._scales.get(name)


def _check_index(folder: Path, present: Mapping[str, str]) -> None:
    """Raise `CheckpointError` for what an index places in a file that does not have it."""
    for listing in sorted(folder.glob("*.safetensors.index.json")):
        for key, shard in read_shards(listing).items():
            if present.get(key) != shard:
                raise CheckpointError(f"{listing}: {key} is to be in {shard}, and is not")


def _is_rounded(stored: Stored) -> bool:
    """FP8 may have no scale; whole numbers without are no weights."""
    return stored.dtype in NARROW and (stored.dtype != "I8" or stored.scale is not None)


def _said_dtype(stored: Stored) -> str:
    if stored.dtype not in NARROW:
        return stored.dtype
    return stored.dtype + (" without a scale" if stored.scale is None else " with a scale")


def read_stored(stored: Stored, index: Index | None = None, out: np.ndarray | None = None) -> Any:
    """A part of a tensor (or all of it) as it lies in the file, into `out` if it is given.

    Whole rows are read straight into their place: nothing of the file stays in this process's
    memory. For a part of each row the file is mapped, so that no more of it is touched than the
    pages that the part lies in, and unmapped again.
    """
    index = tuple(slice(0, size) for size in stored.shape) if index is None else index
    dtype = {**DTYPES, **NARROW, "U8": np.dtype(np.uint8)}[stored.dtype]
    shape = tuple(part.stop - part.start for part in index)
    out = np.empty(shape, dtype) if out is None else out
    if stored.strides is None and shape[1:] == stored.shape[1:]:
        row = math.prod(shape[1:]) * dtype.itemsize
        start = index[0].start * row if index else 0
        _read_into(stored.file, stored.offset + start, out)
    else:
        _copy_mapped(stored, index, out)
    return out


def _table(dtype: str, scale: np.float32, wanted: np.dtype) -> np.ndarray:
    """What each of the 256 values of eight bits stands for, once scaled."""
    values = np.arange(256, dtype=np.uint8).view(NARROW[dtype]).astype(np.float32)
    return (values * scale).astype(wanted)


def _widen(values: np.ndarray, table: np.ndarray, out: np.ndarray) -> None:
    """Look values of eight bits up, two at a time where that is worth a table of all pairs.

    Twice as fast as one at a time; both are several times as fast as ml_dtypes' conversion.
    """
    bits = np.dtype(f"u{table.dtype.itemsize}")
    codes, table, places = values.view(np.uint8), table.view(bits), out.view(bits)
    whole = codes.flags.c_contiguous and out.flags.c_contiguous and codes.shape[-1:] > (0,)
    if whole and codes.size >= _PAIRED and not codes.shape[-1] % 2:
        pairs = np.empty((256, 256, 2), bits)
        pairs[..., 0], pairs[..., 1] = table, table[:, None]  # the lower byte is the first
        bits = np.dtype(f"u{2 * bits.itemsize}")
        codes, table, places = codes.view("<u2"), pairs.reshape(-1).view(bits), places.view(bits)
    np.take(table, codes, out=places, mode="clip")


def _from_blocks(stored: Stored, blocks: Blocks, index: Index) -> np.ndarray:
    """A part of a tensor that GGUF keeps in blocks, widened by its own package.

    Rows of whole blocks are read alone; else the tensor, which is then a small one.
    """
    gguf = gguf_package()
    shape, rows = stored.shape, slice(0, stored.shape[0])
    if len(shape) > 1 and shape[-1] == blocks.row:
        rows = index[0]
    raw = _raw_rows(stored, blocks, rows)
    values = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[stored.dtype])
    inside = slice(index[0].start - rows.start, index[0].stop - rows.start)
    part: np.ndarray = values.reshape(-1, *shape[1:])[(inside, *index[1:])]
    return part


def _raw_rows(stored: Stored, blocks: Blocks, rows: slice) -> np.ndarray:
    """The bytes [rows of blocks, bytes] of some rows of a tensor."""
    row_bytes = blocks.row // blocks.numbers * blocks.bytes
    before, held = (
        math.prod(stored.shape[1:]) * count // blocks.row
        for count in (rows.start, rows.stop - rows.start)
    )
    raw = np.empty((held, row_bytes), np.uint8)
    _read_into(stored.file, stored.offset + before * row_bytes, raw)
    return raw


def _spread(scale: np.ndarray, shape: tuple[int, ...], index: Index) -> np.ndarray:
    """The scales of a part of a tensor, as an array that multiplies it."""
    for axis, (blocks, size, part) in enumerate(zip(scale.shape, shape, index, strict=True)):
        if blocks > 1:
            of_each = np.arange(part.start, part.stop) // (size // blocks)
            scale = np.take(scale, of_each, axis)
    return scale


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
