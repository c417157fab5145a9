"""Matrices in eight bits or fewer on the device: rounded as they are read, or as a file has them.

A linear layer of a block then has its kernel in whole numbers or FP8, a scale for each output
channel (and for each block of inputs, where a file has it so), and where GGUF has one an offset;
see `layers.Linear`. What is small stays as it is: biases, norms, tables, embeddings and the head.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx

from wanjax.checkpoints.kept import Rounding, layer_of, united
from wanjax.checkpoints.layouts.diffusers.transformer import RULES
from wanjax.checkpoints.mapping import Entry, entries
from wanjax.checkpoints.stored import ARRAYS, Kept
from wanjax.checkpoints.tensor_files import Index, TensorFiles
from wanjax.models.layers import Linear, Undrawn, param

Model = TypeVar("Model", bound=nnx.Module)

_SCALES = (".scale", ".offset")
_LARGEST = {"I4": 7.0, "I8": 127.0, "F8_E4M3": 448.0, "F8_E5M2": 57344.0}


def take_rounding(model: Model, rounding: Rounding) -> Model:
    """The abstract transformer with kernels in eight bits or fewer, their scales and offsets."""
    kernels = _kernels(entries(nnx.state(model), RULES)) if rounding else {}
    for path, module in nnx.iter_modules(model):
        keys = kernels.get(".".join(map(str, path)))
        kept = rounding.get(str(layer_of(keys[0]))) if keys else None
        if isinstance(module, Linear) and kept is not None:
            layers, *shape = module.kernel.get_value().shape
            held: Any = jax.ShapeDtypeStruct((layers, *kept.shape(shape)), ARRAYS[kept.array])
            module.kernel.set_value(held)
            module.kernel.set_metadata(kept=ARRAYS[kept.array].name)
            module.scale = nnx.data(_scale(module, kept))
            module.offset = nnx.data(_scale(module, kept) if kept.offset else None)
    return model


def _scale(linear: Linear, kept: Kept) -> nnx.Param[Any]:
    """Abstract."""
    layers, _, outputs = linear.kernel.get_value().shape
    axes = (None, linear.kernel.get_metadata("axes")[1])
    made = param(Undrawn(), (kept.blocks, outputs), axes, keep_float32=True)
    value: Any = jax.ShapeDtypeStruct((layers, kept.blocks, outputs), ARRAYS[kept.scale])
    made.set_value(value)
    made.set_metadata(kept=ARRAYS[kept.scale].name)
    return made


class RoundedFiles(TensorFiles):
    """The tensors of a transformer, some of them in eight bits or fewer and with their scales.

    `wanted` are the entries of a model that took the `rounding`. A tensor that its file keeps so
    is read as it lies there; any other, such as one that LoRAs were merged into, is rounded:
    each row (or block of it) by its largest number, or by its range where there is an offset.
    """

    def __init__(self, files: TensorFiles, rounding: Rounding, wanted: Sequence[Entry]):
        self.files, self.place, self.arranged = files, files.place, files.arranged
        kernels = _kernels(wanted)
        self._kept = {
            key: rounding[layer]
            for keys in kernels.values()
            for key in keys
            if (layer := str(layer_of(key))) in rounding
        }
        self.weights: dict[str, str] = {}  # of scales and offsets
        for entry in wanted:
            path, _, leaf = entry.path.rpartition(".")
            if f".{leaf}" in _SCALES and path in kernels:
                self.weights |= dict(zip(entry.keys, kernels[path], strict=True))
        # [scales or offsets, outputs, blocks] of what is rounded here
        self._made: dict[str, np.ndarray] = {}

    def keys(self) -> Iterable[str]:
        return [*self.files.keys(), *self.weights]

    def said(self, name: str) -> str:
        return self.files.said(self.weights.get(name, name))

    def shape(self, name: str) -> tuple[int, ...]:
        if name in self._kept:
            return self._kept[name].shape(self.files.shape(name)[::-1])[::-1]
        if name not in self.weights:
            return self.files.shape(name)
        weight = self.weights[name]
        return self._kept[weight].blocks, self.files.shape(weight)[0]

    def dtype(self, name: str) -> str:
        if name in self.weights:
            return self._kept[self.weights[name]].scale
        return self._kept[name].array if name in self._kept else self.files.dtype(name)

    def stored_dtypes(self) -> Counter[str]:
        return self.files.stored_dtypes()

    def used(self) -> set[str]:
        return self.files.used()

    def read_as(self, name: str, index: Index, dtype: np.dtype) -> np.ndarray:
        ours = name in self.weights or name in self._kept
        return self.read(name, index) if ours else self.files.read_as(name, index, dtype)

    def read(self, name: str, index: Index, out: np.ndarray | None = None) -> np.ndarray:
        if name in self.weights:
            part = self._multiplied(name, index[1]).T[index[0]]
        elif name not in self._kept:
            return self.files.read(name, index, out)
        elif self._kept[name].dtype == "I4":
            part = self._packed(name, index)
        elif self._is_so(name):
            return self._as_it_is(name, index, out)
        else:
            part = self._rounded(name, index[0])[:, index[1]]
        if out is None:
            return part
        out[...] = part
        return out

    def _is_so(self, name: str) -> bool:
        """Whether the numbers of the file are those of the model."""
        kept = self.files.kept(name)
        return kept is not None and united(kept, self._kept[name]) == self._kept[name]

    def _packed(self, name: str, index: Index) -> np.ndarray:
        """Numbers of four bits, two in a byte; `index` counts bytes."""
        rows, inputs = index[0], self.files.shape(name)[1]
        half = inputs // self._kept[name].blocks // 2
        first, last = index[1].start // half, -(-index[1].stop // half)  # whole blocks
        columns = slice(2 * half * first, 2 * half * last)
        if self._is_so(name):
            numbers = self.files.read_rounded(name, (rows, columns))
        else:
            numbers = self._rounded(name, rows)[:, columns]
        part = pack(numbers, last - first)
        return part[:, index[1].start - half * first : index[1].stop - half * first]

    def _as_it_is(self, name: str, index: Index, out: np.ndarray | None) -> np.ndarray:
        kept, own = self._kept[name], self.files.kept(name)
        if own is not None and own.dtype == kept.dtype and out is not None:
            return self.files.read_rounded(name, index, out)
        values = self.files.read_rounded(name, index).astype(ARRAYS[kept.array], copy=False)
        if out is None:
            return values
        out[...] = values
        return out

    def _multiplied(self, name: str, rows: slice) -> np.ndarray:
        """[rows, blocks] of scales or of offsets."""
        weight, which = self.weights[name], int(name.endswith(_SCALES[1]))
        kept = self._kept[weight]
        if self._is_so(weight):
            scale, offset = self.files.read_scales(weight, rows)
            found = scale if not which else np.zeros_like(scale) if offset is None else offset
            found = np.repeat(found, kept.blocks // found.shape[1], axis=1)
        else:
            made = self._made.get(weight)
            if made is None or np.isnan(made[which, rows]).any():
                self._rounded(weight, rows)  # other rows than those read for a kernel
            found = self._made[weight][which, rows]
        return found.astype(ARRAYS[kept.scale], copy=False)

    def _rounded(self, name: str, rows: slice) -> np.ndarray:
        """Some rows in eight bits or fewer; their scales are remembered."""
        outputs, inputs = self.files.shape(name)
        kept = self._kept[name]
        whole = self.files.read(name, (rows, slice(0, inputs))).astype(np.float32)
        values, scale, offset = round_blocks(whole.reshape(len(whole), kept.blocks, -1), kept)
        unknown = np.full((2, outputs, kept.blocks), np.nan, np.float32)
        held = self._made.setdefault(name, unknown)
        held[0, rows], held[1, rows] = scale, offset
        return values.reshape(whole.shape)


def pack(numbers: np.ndarray, blocks: int) -> np.ndarray:
    """Rows of whole numbers from -8 to 7 [rows, n], two in a byte [rows, n / 2].

    A byte has one of the first half of its block in its lower bits, one of the second above.
    """
    halves = (numbers + np.int8(8)).view(np.uint8).reshape(len(numbers), blocks, 2, -1)
    packed: np.ndarray = halves[:, :, 0] | halves[:, :, 1] << np.uint8(4)
    return packed.reshape(len(numbers), -1)


def round_blocks(values: np.ndarray, kept: Kept) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Float32 values [..., n] as `kept` has them, the scales [...] and the offsets [...].

    The largest of each block becomes the largest number there is, or its range that of all
    numbers. Of a block of equal numbers, or of such that all become 0, the scale is 1.
    """
    offset = np.zeros(values.shape[:-1], np.float32)
    dtype, most = ARRAYS["I8" if kept.dtype == "I4" else kept.dtype], _LARGEST[kept.dtype]
    if kept.offset:
        low, high = values.min(axis=-1), values.max(axis=-1)
        scale = (high - low) / np.float32(2 * most)
        offset = (high + low) / 2
    else:
        scale = np.abs(values).max(axis=-1) / np.float32(most)
    scale = scale.astype(ARRAYS[kept.scale]).astype(np.float32)
    scale[scale == 0] = 1
    scaled = (values - offset[..., None]) / scale[..., None]
    if kept.dtype.startswith("I"):
        scaled = np.clip(np.rint(scaled), -most, most)  # where a scale was rounded down
    return scaled.astype(dtype), scale, offset


def _kernels(wanted: Iterable[Entry]) -> dict[str, tuple[str, ...]]:
    """The weights of each linear layer of the blocks, by its path."""
    return {
        entry.path.removesuffix(".kernel"): entry.keys
        for entry in wanted
        if entry.path.endswith(".kernel") and entry.stacked and len(entry.shape) == 2
    }
