"""Weights in eight bits on the device: rounded as they are read, or kept as a file has them.

A linear layer of a block then has its kernel in eight bits and a scale for each output channel (and
for each block of inputs, where a file has it so); see `layers.Linear`. What is small stays as
it is: biases, norms, tables, embeddings and the head.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from wanjax.checkpoints.mapping import Entry
from wanjax.checkpoints.stored import NARROW
from wanjax.checkpoints.tensor_files import Index, Rounded, TensorFiles
from wanjax.models.layers import Linear, Undrawn, param

Model = TypeVar("Model", bound=nnx.Module)
Quantize = Literal["int8", "fp8"]


class Kept(NamedTuple):
    """A kernel's type of numbers, as safetensors names it, and its blocks of inputs."""

    dtype: str
    blocks: int = 1


# How kernels are kept, by the path of a linear layer such as `blocks.attn1.to_q`.
Rounding = Mapping[str, Kept]

WHOLE: Rounding = {}
_TYPES: Mapping[Quantize, str] = {"int8": "I8", "fp8": "F8_E4M3"}
_SCALE = ".scale"
_LARGEST = {"float8_e4m3fn": 448.0, "float8_e5m2": 57344.0}


def to_round(wanted: Sequence[Entry], quantize: Quantize) -> dict[str, Kept]:
    """Every linear layer of a transformer's blocks, rounded."""
    return {path: Kept(_TYPES[quantize]) for path in _kernels(wanted)}


def as_files_have(wanted: Sequence[Entry], files: Sequence[TensorFiles]) -> dict[str, Kept]:
    """The layers that all experts' files have rounded in one way, in all blocks."""
    found = {}
    present = [set(of.keys()) for of in files]
    for path, keys in _kernels(wanted).items():
        ways = {
            _kept(of.rounded(key)) if key in there else None  # what is missing is told later
            for of, there in zip(files, present, strict=True)
            for key in keys
        }
        way = ways.pop()
        if way is not None and not ways:
            found[path] = way
    return found


def _kept(rounded: Rounded | None) -> Kept | None:
    if rounded is None:
        return None
    names = {dtype: name for name, dtype in NARROW.items()}
    return Kept(names[rounded.dtype], rounded.scale.shape[1])


def take_rounding(model: Model, rounding: Rounding) -> Model:
    """The abstract model with kernels in eight bits, and their scales."""
    for path, module in nnx.iter_modules(model):
        kept = rounding.get(".".join(map(str, path)))
        if isinstance(module, Linear) and kept is not None:
            layers, _, outputs = module.kernel.get_value().shape
            axes = (None, module.kernel.get_metadata("axes")[1])
            module.kernel.set_metadata(kept=NARROW[kept.dtype].name)
            scale = param(Undrawn(), (kept.blocks, outputs), axes, keep_float32=True)
            shape: Any = jax.ShapeDtypeStruct((layers, kept.blocks, outputs), jnp.float32)
            scale.set_value(shape)
            module.scale = nnx.data(scale)
    return model


class RoundedFiles(TensorFiles):
    """The tensors of a transformer, some of them in eight bits and with their scales.

    `wanted` are the entries of a model that took the `rounding`. A tensor that its file keeps so
    is read as it lies there; any other, such as one that LoRAs were merged into, is rounded:
    each row (or block of it) by its largest number.
    """

    def __init__(self, files: TensorFiles, rounding: Rounding, wanted: Sequence[Entry]):
        self.files, self.place, self.arranged = files, files.place, files.arranged
        kernels = _kernels(wanted)
        scales = {e.path: e.keys for e in wanted if e.path.endswith(_SCALE)}
        self._kept = {key: kept for path, kept in rounding.items() for key in kernels[path]}
        self.weights = {
            scale: weight
            for path in rounding
            for scale, weight in zip(scales[path + _SCALE], kernels[path], strict=True)
        }
        self._made: dict[str, np.ndarray] = {}  # [outputs, blocks] of what is rounded here

    def keys(self) -> Iterable[str]:
        return [*self.files.keys(), *self.weights]

    def said(self, name: str) -> str:
        return self.files.said(self.weights.get(name, name))

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self.weights:
            return self.files.shape(name)
        weight = self.weights[name]
        return self._kept[weight].blocks, self.files.shape(weight)[0]

    def dtype(self, name: str) -> str:
        if name in self.weights:
            return "F32"
        return self._kept[name].dtype if name in self._kept else self.files.dtype(name)

    def stored_dtypes(self) -> Counter[str]:
        return self.files.stored_dtypes()

    def used(self) -> set[str]:
        return self.files.used()

    def read_as(self, name: str, index: Index, dtype: np.dtype) -> np.ndarray:
        ours = name in self.weights or name in self._kept
        return self.read(name, index) if ours else self.files.read_as(name, index, dtype)

    def read(self, name: str, index: Index, out: np.ndarray | None = None) -> np.ndarray:
        if name in self.weights:
            part = self._scale_of(self.weights[name]).T[index]
        elif name not in self._kept:
            return self.files.read(name, index, out)
        elif self._is_so(name):
            return self.files.read_rounded(name, index, out)
        else:
            part = self._rounded(name, index[0])[:, index[1]]
        if out is None:
            return part
        out[...] = part
        return out

    def _is_so(self, name: str) -> bool:
        """Whether the file keeps a tensor as the model does."""
        return _kept(self.files.rounded(name)) == self._kept[name]

    def _scale_of(self, name: str) -> np.ndarray:
        """[outputs, blocks]."""
        outputs = self.files.shape(name)[0]
        if self._is_so(name):
            rounded = self.files.rounded(name)
            assert rounded is not None
            return np.repeat(rounded.scale, outputs // len(rounded.scale), axis=0)
        if np.isnan(self._made.get(name, np.array(np.nan))).any():
            self._rounded(name, slice(0, outputs))  # other rows than those read for a kernel
        return self._made[name]

    def _rounded(self, name: str, rows: slice) -> np.ndarray:
        """Some rows in eight bits; their scales are remembered."""
        outputs, inputs = self.files.shape(name)
        kept = self._kept[name]
        whole = self.files.read(name, (rows, slice(0, inputs))).astype(np.float32)
        blocks = whole.reshape(len(whole), kept.blocks, -1)
        values, scale = round_rows(blocks, NARROW[kept.dtype])
        held = self._made.setdefault(name, np.full((outputs, kept.blocks), np.nan, np.float32))
        held[rows] = scale
        return values.reshape(whole.shape)


def round_rows(values: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Float32 values [..., n] in eight bits, and the scale [...] that they are multiplied by.

    The largest of each row becomes the largest number there is. A row of zeros has scale 1.
    """
    whole_numbers = np.issubdtype(dtype, np.integer)
    most = 127.0 if whole_numbers else _LARGEST[dtype.name]
    scale = np.abs(values).max(axis=-1) / np.float32(most)
    scale[scale == 0] = 1
    scaled = values / scale[..., None]
    return (np.rint(scaled) if whole_numbers else scaled).astype(dtype), scale


def _kernels(wanted: Iterable[Entry]) -> dict[str, tuple[str, ...]]:
    """The weights of each linear layer of the blocks, by its path."""
    return {
        entry.path.removesuffix(".kernel"): entry.keys
        for entry in wanted
        if entry.path.endswith(".kernel") and entry.stacked and len(entry.shape) == 2
    }
