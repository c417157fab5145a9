"""A model's files written anew in another layout or with other numbers, piece by piece.

Nothing is held but some pieces of a tensor. Files appear whole; what is there already of the same
conversion is kept, and what makes the folder a model is written last.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from wanjax.checkpoints.containers import files_of
from wanjax.checkpoints.containers.gguf import gguf_package
from wanjax.checkpoints.containers.gguf_writer import KINDS, block_bytes, in_blocks
from wanjax.checkpoints.folder import Checking, Folder, Loadable, Model
from wanjax.checkpoints.mapping import entries, flat_parameters
from wanjax.checkpoints.stored import DTYPES, NARROW
from wanjax.checkpoints.tensor_files import Index, TensorFiles
from wanjax.checkpoints.writing import (
    Out,
    pieces_of,
    shard_names,
    shards,
    write_index,
    write_tensors,
)
from wanjax.checkpoints.written import PartOut, part_out, small_files
from wanjax.errors import CheckpointError, UsageError
from wanjax.files import read_json, write_json
from wanjax.media.sentencepiece import TENSOR, pieces_in

SHARD_BYTES = 5 * 10**9
_PIECE = 2**22  # numbers that are read at once; about a dozen pieces are in memory
_STATE = ".wanjax-convert.json"
_NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float8": "F8_E4M3"}
_NAMES |= {kind.lower(): kind for kind in KINDS}
_LARGEST = 448.0  # of float8_e4m3fn


@dataclass(frozen=True)
class Source:
    """A part's tensors; `precise` stay in float32 when they are loaded, `products` are layers'."""

    files: TensorFiles
    precise: frozenset[str]
    products: frozenset[str]


@dataclass(frozen=True)
class Opening(Checking):
    """Loads nothing: what would be read of each part is kept."""

    sources: dict[str, Source] = field(default_factory=dict)

    def _load(self, part: Loadable[Model]) -> Model:
        found = part.files()
        model = super()._load(replace(part, files=lambda: found))
        state = nnx.split(model)[1]
        kept = {path: v.get_metadata("keep_float32") for path, v in flat_parameters(state)}
        wanted = entries(state, part.rules)
        self.sources[part.name] = Source(
            found,
            frozenset(key for e in wanted if kept[e.path] for key in e.keys),
            frozenset(
                k for e in wanted if e.stacked and e.transform.order == (1, 0) for k in e.keys
            ),
        )
        return model


class Converted(NamedTuple):
    """What was written; `kept` files were there already."""

    files: int
    kept: int
    bytes: int
    seconds: float


class _File(NamedTuple):
    path: Path
    tensors: list[Out]


def open_sources(folder: Folder, parts: Sequence[str]) -> Opening:
    """`parts` of a folder, whose files are checked, as they are before a model is loaded."""
    opening = Opening(folder.path, folder.index, None, folder.parts, folder.configs, folder.own)
    loaders: dict[str, Callable[[], Any]] = {
        "vae": opening.load_vae,
        "text_encoder": opening.load_text_encoder,
        "image_encoder": opening.load_image_encoder,
    }
    for name in parts:
        load = loaders[name] if name in loaders else partial(opening.load_transformer, name)
        load()
    return opening


def convert(
    opening: Opening,
    output: Path,
    layout: str,
    dtype: str | None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Converted:
    """Write what `opening` has to the folder `output`.

    `dtype` is that of transformers and encoders; None: as they are, of eight bits or fewer
    bfloat16. What stays in float32 when it is loaded, and the VAE, keep their numbers. `report`
    is told bytes, of how many. Raises `UsageError` for a folder that holds something else, and for
    numbers that the layout has no place for.
    """
    _check(layout, dtype)
    started, out = time.perf_counter(), output.expanduser()
    _begin(opening, out, layout, dtype)
    files = [
        file
        for name, source in opening.sources.items()
        for file in _part_files(opening, name, source, out, layout, dtype)
    ]
    total = sum(tensor.bytes for file in files for tensor in file.tensors)
    done = kept = 0

    def wrote(size: int) -> None:
        nonlocal done
        done += size
        report(done, total)

    for file in files:
        if file.path.exists():
            kept += 1
            wrote(sum(tensor.bytes for tensor in file.tensors))
        else:
            write_tensors(file.path, file.tensors, wrote)
    small_files(opening, out, layout, tuple(opening.sources))
    (out / _STATE).unlink()
    return Converted(len(files), kept, total, time.perf_counter() - started)


def _check(layout: str, dtype: str | None) -> None:
    if layout == "gguf":
        gguf_package()  # or says that it is not here
    kind = _NAMES.get(dtype or "")
    if kind in KINDS and layout != "gguf":
        raise UsageError(f"dtype={dtype} is of GGUF files alone: add layout=gguf")
    if kind in NARROW and layout == "gguf":
        allowed = ", ".join(name for name, kind in _NAMES.items() if kind not in NARROW)
        raise UsageError(f"dtype={dtype}: with layout=gguf must be one of {allowed}")


def _begin(opening: Opening, out: Path, layout: str, dtype: str | None) -> None:
    """Remember what is converted, so that it can go on; refuse a folder with other things."""
    made = {"format": 1, "of": _fingerprint(opening, layout, dtype)}
    state = out / _STATE
    if state.exists():
        if read_json(state, CheckpointError) != made:
            raise UsageError(
                f"{out} holds a part of another conversion (of other files, layout or dtype): "
                "name another folder, or remove it"
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not empty: name another folder, or remove it")
    else:
        write_json(state, made)


def _fingerprint(opening: Opening, layout: str, dtype: str | None) -> str:
    facts: list[Any] = [layout, dtype, SHARD_BYTES]
    for name in opening.sources:
        for file in files_of(opening.place(name)):
            about = file.stat()
            facts.append([name, str(file.resolve()), about.st_size, about.st_mtime_ns])
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _part_files(
    opening: Opening, name: str, source: Source, out: Path, layout: str, dtype: str | None
) -> list[_File]:
    spec = part_out(layout, name, opening)
    tensors = list(_tensors(name, source, spec, dtype))
    if layout in ("comfyui", "gguf") and name == "text_encoder":
        pieces = pieces_in(opening.place("tokenizer"))
        tensors += [] if pieces is None else [_bytes(TENSOR, pieces)]
    folder = out / spec.folder
    if not spec.sharded:
        return [_File(folder / spec.stem, tensors)]
    held = shards(tensors, SHARD_BYTES)
    names = shard_names(spec.stem, len(held))
    if len(held) > 1:
        folder.mkdir(parents=True, exist_ok=True)
        write_index(folder, spec.stem, dict(zip(names, held, strict=True)))
    return [_File(folder / file, shard) for file, shard in zip(names, held, strict=True)]


def _tensors(name: str, source: Source, spec: PartOut, dtype: str | None) -> Iterator[Out]:
    files = source.files
    for key in files.keys():  # noqa: SIM118 (no mapping)
        as_stored = files.dtype(key)
        if as_stored not in DTYPES:  # not a weight, such as position ids
            continue
        kind = _kind(name, key, source, dtype, spec)
        shape = files.shape(key)
        if kind == "F8_E4M3":
            yield from _rounded(files, key, spec.key(key))
        elif kind in KINDS:
            read = partial(_in_blocks, files, key, kind)
            pieces = pieces_of(shape, read, _PIECE)
            yield Out(spec.key(key), kind, shape, pieces, block_bytes(kind, shape))
        else:
            read = partial(_read, files, key, DTYPES[kind])
            yield Out(spec.key(key), kind, shape, pieces_of(shape, read, _PIECE))


def _kind(name: str, key: str, source: Source, dtype: str | None, spec: PartOut) -> str:
    """The numbers that a tensor is written in."""
    kind = _any_kind(name, key, source, dtype)
    if not spec.stem.endswith(".gguf"):
        return "BF16" if kind in KINDS else kind
    shape = source.files.shape(key)
    if kind in KINDS and block_bytes(kind, shape) is None:
        kind = "BF16"
    vector = len(shape) < 2 and kind in ("BF16", "F16")
    return "F32" if vector else kind  # as ComfyUI-GGUF writes them


def _any_kind(name: str, key: str, source: Source, dtype: str | None) -> str:
    stored = source.files.dtype(key)
    widened = stored != source.files.stored_dtype(key)  # of eight bits or fewer
    if name == "vae" or key in source.precise:
        return stored
    if dtype is None:
        return "BF16" if widened else stored
    kind = _NAMES[dtype]
    rounded = kind in NARROW or kind in KINDS
    return "BF16" if rounded and key not in source.products else kind


def _in_blocks(files: TensorFiles, key: str, kind: str, index: Index) -> np.ndarray:
    return in_blocks(_read(files, key, DTYPES["F32"], index), kind)


def _read(files: TensorFiles, key: str, dtype: np.dtype, index: Index) -> np.ndarray:
    return files.read_as(key, index, dtype).astype(dtype, copy=False)


def _rounded(files: TensorFiles, key: str, name: str) -> Iterator[Out]:
    """A weight in FP8 with one scale, in ComfyUI's convention."""
    shape = files.shape(key)

    @cache
    def scale() -> Any:
        read = partial(_read, files, key, DTYPES["F32"])
        largest = np.max([np.abs(piece()).max() for piece in pieces_of(shape, read, _PIECE)])
        return np.maximum(largest, np.finfo(np.float32).tiny) / np.float32(_LARGEST)

    def values(index: Index) -> np.ndarray:
        scaled: np.ndarray = _read(files, key, DTYPES["F32"], index) / scale()
        return scaled.astype(NARROW["F8_E4M3"])

    layer = name.removesuffix(".weight")
    yield Out(name, "F8_E4M3", shape, pieces_of(shape, values, _PIECE))
    yield Out(f"{layer}.weight_scale", "F32", (), [lambda: np.asarray(scale())])
    yield _bytes(f"{layer}.comfy_quant", b'{"format": "float8_e4m3fn"}')


def _bytes(name: str, content: bytes) -> Out:
    held = np.frombuffer(content, np.uint8)
    return Out(name, "U8", held.shape, [lambda: held])
