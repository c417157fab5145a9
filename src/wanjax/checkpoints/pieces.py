"""Parameters from tensors of files: read in pieces by threads, transposed and stacked.

Each process reads the parts that its own devices hold, and no more. Where a device has memory
of its own, what was read goes there as it lies in the file, to be transposed and cast by the
device; where its memory is the host's, or the parameter small, threads write it into its place.
"""

from __future__ import annotations

import itertools
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int32, Shaped

from wanjax.checkpoints.mapping import Entry, Transform
from wanjax.checkpoints.stored import ARRAYS
from wanjax.checkpoints.tensor_files import Index, TensorFiles
from wanjax.parallel.layouts import laid_out

PIECE_BYTES = 64 * 2**20
_AHEAD_BYTES = 8 * PIECE_BYTES  # of pieces that are read before their turn
_BLOCK = 256  # rows and columns that are transposed at once: both sides stay in the cache
_ALIGNMENT = 64  # bytes; XLA takes an array that lies so as it is, without a copy

Raw = Shaped[np.ndarray, "..."]


@dataclass(frozen=True)
class Piece:
    """Rows of one layer's tensor, counted in the part that a device holds."""

    layer: int
    start: int
    stop: int


@dataclass(frozen=True)
class Parameter:
    """A parameter that is to be made: `shape` and `dtype` are its own, `entry` says of what."""

    entry: Entry
    files: TensorFiles
    shape: tuple[int, ...]
    dtype: np.dtype
    sharding: NamedSharding | None
    piece_bytes: int = PIECE_BYTES

    @cached_property
    def parts(self) -> dict[tuple[tuple[int, int], ...], list[jax.Device | None]]:
        """Bounds of what this process's devices hold, and which device holds it."""
        if self.sharding is None:
            return {tuple((0, size) for size in self.shape): [None]}
        found: dict[tuple[tuple[int, int], ...], list[jax.Device | None]] = {}
        for device, index in self.sharding.addressable_devices_indices_map(self.shape).items():
            sizes = zip(index or (), self.shape, strict=True)
            found.setdefault(tuple(s.indices(size)[:2] for s, size in sizes), []).append(device)
        return found

    @cached_property
    def part_shape(self) -> tuple[int, ...]:
        bounds = next(iter(self.parts))
        return tuple(stop - start for start, stop in bounds)

    @cached_property
    def stored_part(self) -> tuple[int, ...]:
        """The shape of a part of one layer as it lies in the file."""
        return self._stored(self.part_shape, 1)

    @property
    def part_bytes(self) -> int:
        """Of one device, as it keeps them."""
        return math.prod(self.part_shape) * self.dtype.itemsize

    @property
    def read_bytes(self) -> int:
        """What this process reads of it."""
        rows = math.prod(self.stored_part[:1])
        layers = range(len(self.entry.keys))
        return sum(self.bytes_of(Piece(layer, 0, rows)) for layer in layers)

    def pieces(self) -> Iterator[Piece]:
        rows = math.prod(self.stored_part[:1])
        for layer in range(len(self.entry.keys)):
            whole = Piece(layer, 0, rows)
            step = math.ceil(rows / math.ceil(self.bytes_of(whole) / self.piece_bytes))
            for start in range(0, rows, step):
                yield Piece(layer, start, min(start + step, rows))

    def bytes_of(self, piece: Piece) -> int:
        """In the file, of all of this process's parts."""
        itemsize = ARRAYS[self.files.dtype(self.entry.keys[piece.layer])].itemsize
        row = math.prod(self.stored_part[1:]) * itemsize
        return (piece.stop - piece.start) * row * len(self.parts)

    def index(self, part: Sequence[tuple[int, int]], piece: Piece) -> Index:
        """Where a piece of a part lies in its layer's tensor."""
        bounds = self._stored(part, (0, 1))
        if not bounds:
            return ()
        begin, _ = bounds[0]
        rows = slice(begin + piece.start, begin + piece.stop)
        return (rows, *(slice(*others) for others in bounds[1:]))

    def _stored(self, ours: Sequence[Any], of_ones: Any) -> tuple[Any, ...]:
        return self.entry.transform.stored(ours[1:] if self.entry.stacked else ours, of_ones)


class OnHost:
    """Makes a parameter in this process's memory and gives it to the devices whole."""

    def __init__(self, parameter: Parameter):
        self.parameter = parameter
        self._made: dict[Any, np.ndarray] = {}

    def tasks(self) -> Iterator[list[Piece]]:
        """Small pieces together, so that there are few tasks."""
        p = self.parameter
        self._made = {part: _aligned(p.part_shape, p.dtype) for part in p.parts}
        several = max(1, p.piece_bytes // max(1, p.bytes_of(next(p.pieces()))))
        pieces = p.pieces()
        while batch := list(itertools.islice(pieces, several)):
            yield batch

    def read(self, pieces: Sequence[Piece]) -> None:
        entry, files = self.parameter.entry, self.parameter.files
        for piece, (part, made) in itertools.product(pieces, self._made.items()):
            key, index = entry.keys[piece.layer], self.parameter.index(part, piece)
            layer = made[piece.layer] if entry.stacked else made
            place = entry.transform.save(layer)
            place = place[piece.start : piece.stop] if place.ndim else place
            if place.flags.c_contiguous and place.dtype == ARRAYS[files.dtype(key)]:
                files.read(key, index, place)
            else:
                _copy(place, files.read_as(key, index, place.dtype))

    def place(self, pieces: Sequence[Piece], raw: None) -> None:
        """Nothing: threads have written it where it belongs."""

    def finish(self) -> Array:
        arrays = [
            jax.device_put(self._made[part], device)
            for part, devices in self.parameter.parts.items()
            for device in devices
        ]
        self._made.clear()
        return _joined(self.parameter.shape, self.parameter.sharding, arrays)


class OnDevice:
    """Sends pieces to the devices as they lie in the file; a program puts them in their place."""

    def __init__(self, parameter: Parameter):
        self.parameter = parameter
        self._buffer: Array | None = None

    def tasks(self) -> Iterator[list[Piece]]:
        return ([piece] for piece in self.parameter.pieces())

    def read(self, pieces: Sequence[Piece]) -> list[Raw]:
        (piece,) = pieces
        p = self.parameter
        return [p.files.read(p.entry.keys[piece.layer], p.index(part, piece)) for part in p.parts]

    def place(self, pieces: Sequence[Piece], raw: Sequence[Raw]) -> None:
        (piece,) = pieces
        p = self.parameter
        if self._buffer is None:
            self._buffer = jnp.zeros(p.shape, p.dtype, device=p.sharding)
        sent = self._send(raw)
        at = np.zeros(len(p.shape), np.int32)
        at[p.entry.stacked + (p.entry.transform.order or (0,)).index(0)] = piece.start
        if p.entry.stacked:
            at[0] = piece.layer
        self._buffer = _write(self._buffer, sent, at, p.entry.transform, p.sharding)
        sent.block_until_ready()  # what was read must not pile up

    def finish(self) -> Array:
        assert self._buffer is not None
        buffer, self._buffer = self._buffer, None
        return buffer

    def _send(self, raw: Sequence[Raw]) -> Array:
        p = self.parameter
        everywhere = zip(raw, p.parts.values(), strict=True)
        arrays: list[Array] = [
            jax.device_put(x, device) for x, devices in everywhere for device in devices
        ]
        if p.sharding is None:
            return arrays[0]
        whole = p._stored(p.shape, 1)
        parts = [a // b for a, b in zip(whole, p.stored_part, strict=True)]
        shape = tuple(a * b for a, b in zip(raw[0].shape, parts, strict=True))
        spec = _stored_spec(p.sharding.spec, len(p.shape), shape, p.entry.transform)
        return _joined(shape, NamedSharding(p.sharding.mesh, spec), arrays)


Maker = OnHost | OnDevice


def maker(parameter: Parameter, *, host_memory: bool) -> Maker:
    """`host_memory`: whether the devices have no memory of their own."""
    small = parameter.part_bytes <= parameter.piece_bytes
    return OnHost(parameter) if host_memory or small else OnDevice(parameter)


def make(makers: Iterable[Maker], report: Callable[[int], None]) -> Iterator[Array]:
    """The parameters in turn. Threads read ahead; `report` is told the bytes that were placed."""
    makers = list(makers)
    largest = max((m.parameter.part_bytes for m in makers), default=0)
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1), "wanjax-load") as pool:
        try:
            yield from _make(makers, pool, min(_AHEAD_BYTES, largest), report)
        finally:
            pool.shutdown(cancel_futures=True)


def _make(
    makers: Sequence[Maker], pool: ThreadPoolExecutor, limit: int, report: Callable[[int], None]
) -> Iterator[Array]:
    waiting: deque[tuple[Maker, list[Piece], int, bool, Future[Any]]] = deque()
    ahead = 0
    for each in makers:
        tasks = list(each.tasks())
        for pieces in tasks:
            size = sum(map(each.parameter.bytes_of, pieces))
            while waiting and ahead + size > limit:
                ahead -= waiting[0][2]
                yield from _place(*waiting.popleft(), report)
            ahead += size
            waiting.append(
                (each, pieces, size, pieces is tasks[-1], pool.submit(each.read, pieces))
            )
    while waiting:
        yield from _place(*waiting.popleft(), report)


def _place(
    each: Maker,
    pieces: Sequence[Piece],
    size: int,
    last: bool,
    read: Future[Any],
    report: Callable[[int], None],
) -> Iterator[Array]:
    each.place(pieces, read.result())
    report(size)
    if last:
        array, parameter = each.finish(), each.parameter
        place = laid_out(parameter.shape, parameter.dtype, parameter.sharding)
        yield array if place is parameter.sharding else jax.device_put(array, place, donate=True)


def _joined(
    shape: tuple[int, ...], sharding: NamedSharding | None, arrays: Sequence[Array]
) -> Array:
    if sharding is None:
        return arrays[0]
    joined: Array = jax.make_array_from_single_device_arrays(shape, sharding, list(arrays))
    return joined


def _stored_spec(
    spec: PartitionSpec, ndim: int, shape: Sequence[int], transform: Transform
) -> PartitionSpec:
    """How a parameter's sharding divides one layer as it lies in the file."""
    ours = (*spec, *[None] * (ndim - len(spec)))
    return PartitionSpec(*transform.stored(ours[ndim + transform.ones - len(shape) :], None))


@partial(jax.jit, donate_argnums=0, static_argnums=(3, 4))
def _write(
    buffer: Shaped[Array, "..."],
    piece: Shaped[Array, "..."],
    at: Int32[Array | np.ndarray, " ndim"],
    transform: Transform,
    sharding: NamedSharding | None,
) -> Shaped[Array, "..."]:
    """`buffer` with a piece, as it lies in the file, from `at` on in each device's part."""

    def write(buffer: Array, piece: Array, at: Array) -> Array:
        values = transform.load(piece).astype(buffer.dtype)
        values = values.reshape((1,) * (buffer.ndim - values.ndim) + values.shape)
        return jax.lax.dynamic_update_slice(buffer, values, tuple(at))

    if sharding is None:
        return write(buffer, piece, jnp.asarray(at))
    of_piece = _stored_spec(sharding.spec, buffer.ndim, piece.shape, transform)
    specs = (sharding.spec, of_piece, PartitionSpec())
    written: Array = jax.shard_map(
        write, mesh=sharding.mesh, in_specs=specs, out_specs=sharding.spec
    )(buffer, piece, jnp.asarray(at))
    return written


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> Raw:
    size = math.prod(shape) * dtype.itemsize
    space = np.empty(size + _ALIGNMENT, np.uint8)
    start = -space.ctypes.data % _ALIGNMENT
    return space[start : start + size].view(dtype).reshape(shape)


def _copy(place: Raw, values: Raw) -> None:
    """Values into their place, whose dimensions may lie in another order."""
    if place.dtype == values.dtype:  # as bits: Python's lock is not held, as for bfloat16
        bits = np.dtype(f"u{place.dtype.itemsize}")
        place, values = place.view(bits), values.view(bits)
    if place.ndim < 2 or place.flags.c_contiguous:
        place[...] = values
        return
    for tap in np.ndindex(place.shape[2:]):
        into, of = place[:, :, *tap], values[:, :, *tap]
        for row in range(0, len(into), _BLOCK):
            for column in range(0, into.shape[1], _BLOCK):
                block = slice(row, row + _BLOCK), slice(column, column + _BLOCK)
                into[block] = of[block]
