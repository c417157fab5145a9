"""What is in a file of `torch.save` (.pth, .pt), read without torch and without running code.

Such a file is a zip archive, not compressed: `data.pkl` says which tensors there are, and each
lies in an entry of its own. A pickle can name any function to be called. Here it may name the
few that stand for tensors, none of which does anything; for another it is refused before it runs.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanjax.checkpoints.stored import Header, Stored
from wanjax.errors import CheckpointError

_STORAGES: Mapping[str, tuple[str, int]] = {  # torch's class to safetensors' name, and bytes
    "DoubleStorage": ("F64", 8),
    "FloatStorage": ("F32", 4),
    "HalfStorage": ("F16", 2),
    "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8),
    "IntStorage": ("I32", 4),
    "ShortStorage": ("I16", 2),
    "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1),
    "BoolStorage": ("BOOL", 1),
    "Float8_e4m3fnStorage": ("F8_E4M3", 1),
    "Float8_e5m2Storage": ("F8_E5M2", 1),
}
_PICKLE_BYTES = 64 * 2**20
_MEMO = 10**7  # remembered objects: Python sets a table of so many aside


@dataclass(frozen=True)
class _Storage:
    kind: str  # torch's class
    key: str
    count: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *others: Any) -> _Tensor:
    numbers = [offset, *shape, *strides]
    known = isinstance(storage, _Storage) and storage.kind in _STORAGES
    if not known or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError("a tensor of other things than a storage and sizes")
    if len(shape) != len(strides):
        raise ValueError(f"a tensor of {len(shape)} sizes and {len(strides)} strides")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor: Any, *others: Any) -> Any:
    return tensor


_ALLOWED: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", name): name for name in _STORAGES},
}


class _Unpickler(pickle.Unpickler):
    """Makes descriptions of tensors, and nothing else."""

    def __init__(self, file: Path, data: bytes):
        super().__init__(io.BytesIO(data))
        self.file = file

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) not in _ALLOWED:
            raise CheckpointError(
                f"{self.file} is refused: it asks for {module}.{name}, and a file of weights has "
                "no need of it; none of its code was run. Take a .safetensors file of this model"
            )
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any, /) -> _Storage:
        _, kind, key, _, count = pid
        return _Storage(kind, key, count)


def torch_header(file: Path) -> Header:
    """Raises `CheckpointError` for what is no such file, is cut short, or names other code."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            pickles = [name for name in entries if name.endswith("/data.pkl")]
            if len(pickles) != 1 or any(e.compress_type for e in entries.values()):
                raise CheckpointError(f"{file} is no file of torch.save: {_NEWER}")
            if entries[pickles[0]].file_size > _PICKLE_BYTES:
                raise CheckpointError(f"{file} is refused: {pickles[0]} is larger than any model's")
            found = _unpickled(file, archive.read(pickles[0]))
        root = pickles[0].removesuffix("data.pkl")
        return Header(_tensors(file, found, root, entries))
    except CheckpointError:
        raise
    except Exception as error:  # zipfile raises whatever there is for a damaged one, too
        raise CheckpointError(
            f"{file} is no file of torch.save, or is cut short: {error}; {_NEWER}"
        ) from error


_NEWER = "read is the form of torch since 1.6, a zip archive that is not compressed"


def _unpickled(file: Path, data: bytes) -> Mapping[str, Any]:
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if "PUT" in opcode.name and argument is not None and argument > _MEMO:
                raise CheckpointError(f"{file} is refused: its pickle asks for too much memory")
        found = _Unpickler(file, data).load()
    except CheckpointError:
        raise
    except Exception as error:  # damaged pickles raise whatever there is
        raise CheckpointError(f"{file} holds a damaged pickle: {error}") from error
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{file} holds a {type(found).__name__}, expected named tensors")
    return found


def _tensors(
    file: Path, found: Mapping[str, Any], root: str, entries: Mapping[str, zipfile.ZipInfo]
) -> dict[str, Stored]:
    tensors = {}
    held = file.stat().st_size
    with file.open("rb") as stream:
        for key, value in found.items():
            if not isinstance(key, str) or not isinstance(value, _Tensor):
                raise CheckpointError(f"{file}: {key} is no tensor; expected named tensors alone")
            entry = entries.get(f"{root}data/{value.storage.key}")
            if entry is None:
                raise CheckpointError(f"{file}: the numbers of {key} are missing")
            start = _start(stream, entry)
            tensors[key] = _stored(file, key, value, min(entry.file_size, held - start), start)
    return tensors


def _stored(file: Path, key: str, tensor: _Tensor, size: int, start: int) -> Stored:
    dtype, itemsize = _STORAGES[tensor.storage.kind]
    last = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    if math.prod(tensor.shape) and (tensor.offset + last + 1) * itemsize > size:
        raise CheckpointError(f"{file}: {key} is cut short: {size} bytes of {list(tensor.shape)}")
    dense = [math.prod(tensor.shape[i + 1 :]) for i in range(len(tensor.shape))]
    is_dense = all(
        n == 1 or a == b for n, a, b in zip(tensor.shape, tensor.strides, dense, strict=True)
    )
    strides = None if is_dense else tuple(stride * itemsize for stride in tensor.strides)
    return Stored(file, key, dtype, tensor.shape, start + tensor.offset * itemsize, strides)


def _start(stream: Any, entry: zipfile.ZipInfo) -> int:
    """Where an entry's bytes begin: behind its own header, whose length is in it."""
    stream.seek(entry.header_offset)
    header = stream.read(30)
    if header[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile(f"{entry.filename} is not where the archive says")
    names = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
    return entry.header_offset + 30 + sum(names)
