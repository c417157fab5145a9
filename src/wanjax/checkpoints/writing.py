"""Files of tensors written as they are made: in pieces, of which few are in memory at a time."""

from __future__ import annotations

import itertools
import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wanjax.checkpoints.containers.gguf_writer import DeclaredTensor, write_gguf
from wanjax.checkpoints.containers.torch_zip_writer import Declared, write_torch_zip
from wanjax.checkpoints.stored import DTYPES, NARROW
from wanjax.files import atomic_path, write_json

_THREADS = 4
_AHEAD = 8  # pieces that are made before their turn
_ITEMS = {**DTYPES, **NARROW, "U8": np.dtype(np.uint8)}


@dataclass(frozen=True)
class Out:
    """A tensor that is to be written: its `pieces` are made when their turn comes."""

    key: str
    dtype: str  # as safetensors names it, or GGUF
    shape: tuple[int, ...]
    pieces: Sequence[Callable[[], np.ndarray]]
    in_blocks: int | None = None  # bytes of what GGUF has in blocks

    @property
    def bytes(self) -> int:
        if self.in_blocks is not None:
            return self.in_blocks
        return math.prod(self.shape) * _ITEMS[self.dtype].itemsize


def shards(tensors: Iterable[Out], largest: int) -> list[list[Out]]:
    """In their order, as many in a file as have `largest` bytes together, at least one."""
    found: list[list[Out]] = [[]]
    held = 0
    for tensor in tensors:
        if found[-1] and held + tensor.bytes > largest:
            found.append([])
            held = 0
        found[-1].append(tensor)
        held += tensor.bytes
    return found


def shard_names(stem: str, count: int) -> list[str]:
    """As diffusers and transformers name them."""
    if count == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]


def write_index(folder: Path, stem: str, held: Mapping[str, Sequence[Out]]) -> None:
    """Which tensor is in which of several files."""
    total = sum(tensor.bytes for tensors in held.values() for tensor in tensors)
    where = {tensor.key: name for name, tensors in held.items() for tensor in tensors}
    index = {"metadata": {"total_size": total}, "weight_map": where}
    write_json(folder / f"{stem}.safetensors.index.json", index)


def write_tensors(path: Path, tensors: Sequence[Out], wrote: Callable[[int], None]) -> None:
    """A safetensors, .pth or GGUF file, whole or not at all.

    `wrote` is told bytes as they are made.
    """
    with atomic_path(path) as partial_path, ThreadPoolExecutor(_THREADS, "wanjax-write") as pool:
        arrays = _made(itertools.chain.from_iterable(t.pieces for t in tensors), pool, wrote)
        try:
            each = (itertools.islice(arrays, len(t.pieces)) for t in tensors)
            if path.suffix == ".pth":
                declared = {t.key: Declared(t.dtype, t.shape) for t in tensors}
                write_torch_zip(partial_path, declared, each)
            elif path.suffix == ".gguf":
                kinds = {t.key: DeclaredTensor(t.dtype, t.shape, t.bytes) for t in tensors}
                write_gguf(partial_path, kinds, each)
            else:
                _write_safetensors(partial_path, tensors, arrays)
        finally:
            pool.shutdown(cancel_futures=True)


def _made(
    makers: Iterable[Callable[[], np.ndarray]],
    pool: ThreadPoolExecutor,
    wrote: Callable[[int], None],
) -> Iterator[np.ndarray]:
    waiting: deque[Future[np.ndarray]] = deque()
    for make in makers:
        if len(waiting) == _AHEAD:
            yield _counted(waiting.popleft().result(), wrote)
        waiting.append(pool.submit(make))
    while waiting:
        yield _counted(waiting.popleft().result(), wrote)


def _counted(array: np.ndarray, wrote: Callable[[int], None]) -> np.ndarray:
    wrote(array.nbytes)
    return array


def _write_safetensors(path: Path, tensors: Sequence[Out], arrays: Iterator[np.ndarray]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers asks for it
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.bytes
        about = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]}
        header[tensor.key] = about
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # numbers begin at a multiple of eight bytes
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for array in arrays:
            stream.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def pieces_of(
    shape: tuple[int, ...], read: Callable[[tuple[slice, ...]], np.ndarray], numbers: int
) -> list[Callable[[], np.ndarray]]:
    """Rows of a tensor, about so many numbers at a time, each read when it is asked for."""
    others = tuple(slice(0, size) for size in shape[1:])
    if not shape:
        return [partial(read, ())]
    step = max(1, numbers // max(1, math.prod(shape[1:])))
    starts = range(0, shape[0], step)
    return [partial(read, (slice(start, min(start + step, shape[0])), *others)) for start in starts]
