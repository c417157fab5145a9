"""Writing what `torch.save` would (.pth), without torch: a tensor after the other."""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_STORAGES = {
    "F64": "DoubleStorage",
    "F32": "FloatStorage",
    "F16": "HalfStorage",
    "BF16": "BFloat16Storage",
    "F8_E4M3": "Float8_e4m3fnStorage",
}
_OPEN, _REDUCE, _TUPLE, _PERSISTENT = b"(", b"R", b"t", b"Q"


class Declared(NamedTuple):
    """A tensor that is to be written; `dtype` as safetensors names it."""

    dtype: str
    shape: tuple[int, ...]


def write_torch_zip(
    path: Path, declared: Mapping[str, Declared], values: Iterable[Iterable[np.ndarray]]
) -> None:
    """`values` are the tensors in the order in which they are declared, each in pieces of rows."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", _pickle(declared))
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
        for number, pieces in enumerate(values):
            entry = zipfile.ZipInfo(f"archive/data/{number}")
            with archive.open(entry, "w", force_zip64=True) as stream:
                for piece in pieces:
                    stream.write(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)


def _pickle(declared: Mapping[str, Declared]) -> bytes:
    items = [
        _plain(key) + _tensor(str(number), *tensor)
        for number, (key, tensor) in enumerate(declared.items())
    ]
    return b"\x80\x02}(" + b"".join(items) + b"u."


def _tensor(number: str, dtype: str, shape: tuple[int, ...]) -> bytes:
    storage = [
        _plain("storage"),
        _global("torch", _STORAGES[dtype]),
        *map(_plain, (number, "cpu", math.prod(shape))),
    ]
    strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    arguments = [
        _OPEN + b"".join(storage) + _TUPLE + _PERSISTENT,
        *map(_plain, (0, shape, strides, False)),
        _global("collections", "OrderedDict") + _plain(()) + _REDUCE,  # of hooks
    ]
    rebuild = _global("torch._utils", "_rebuild_tensor_v2")
    return rebuild + _OPEN + b"".join(arguments) + _TUPLE + _REDUCE


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _plain(value: Any) -> bytes:
    """Of text, numbers and tuples of them; nothing of it is referred to later."""
    return pickle.dumps(value, 2)[2:-1]
