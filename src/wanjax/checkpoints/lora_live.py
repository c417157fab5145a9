"""LoRAs kept apart from the weights, so that their strengths change without loading anything.

A linear layer that one of them changes has the two halves as parameters of its own
(`layers.LowRank`), those of several LoRAs side by side. What is no change of a linear layer of low
rank (biases, norms, tables, the patch embedding, whole differences) is merged into the weights
nevertheless: with another strength these tensors, mostly small, are read again.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import reduce
from typing import TypeVar

import numpy as np
from flax import nnx

from wanjax.checkpoints.lora_merge import MergedFiles, deltas
from wanjax.checkpoints.loras import LoRA
from wanjax.checkpoints.mapping import Entry
from wanjax.checkpoints.tensor_files import Index, TensorFiles
from wanjax.models.layers import Linear, LowRank, Undrawn, stack

Model = TypeVar("Model", bound=nnx.Module)

# The rank that is kept apart, by the path of a linear layer such as `blocks.attn1.to_q`. Experts
# have it in common, as they have their programs.
Form = Mapping[str, int]

PLAIN: Form = {}
_HALF = re.compile(r"(.*)\.lora\.(down|up|strength)")


def live_form(wanted: Sequence[Entry], loras: Sequence[Sequence[LoRA]]) -> dict[str, int]:
    """What has room for the live ones among each expert's LoRAs.

    `wanted` are the entries of a transformer without. Raises `CheckpointError` for a LoRA that
    does not fit it.
    """
    shapes = {key: entry.shape for entry in wanted for key in entry.keys}
    paths = {key: path for path, keys in _kernels(wanted).items() for key in keys}
    form: dict[str, int] = defaultdict(int)
    for its_own in loras:
        ranks: dict[str, int] = defaultdict(int)
        for lora in its_own:
            for key, delta in deltas(lora, shapes, quiet=True) if lora.live else ():
                ranks[key] += delta.rank or 0
        for key, rank in ranks.items():
            if key in paths and rank:
                form[paths[key]] = max(form[paths[key]], rank)
    return dict(form)


def take_form(model: Model, form: Form) -> Model:
    """The model, its linear layers with parameters for what `form` keeps apart, and no others.

    Those that are new are abstract.
    """
    for path, linear in _linears(model):
        rank = form.get(path, 0)
        if rank != _rank(linear):
            linear.lora = nnx.data(_low_rank(linear, rank) if rank else None)
    return model


def form_of(model: nnx.Module) -> Form:
    """What a model keeps apart."""
    return {path: rank for path, linear in _linears(model) if (rank := _rank(linear))}


def _linears(model: nnx.Module) -> list[tuple[str, Linear]]:
    modules = nnx.iter_modules(model)
    return [(".".join(map(str, path)), m) for path, m in modules if isinstance(m, Linear)]


def _rank(linear: Linear) -> int:
    return 0 if linear.lora is None else int(linear.lora.strength.get_value().shape[-1])


def _low_rank(linear: Linear, rank: int) -> LowRank:
    *layers, _, outputs = linear.kernel.get_value().shape
    inputs = linear.in_features
    axes = linear.kernel.get_metadata("axes")

    def make(rngs: nnx.Rngs) -> LowRank:
        return LowRank(inputs, outputs, rank, axes, rngs)

    return stack(make, layers[0], Undrawn()) if layers else make(Undrawn())


class LiveFiles(MergedFiles):
    """The tensors of a transformer, and those of live LoRAs in the form of `wanted`.

    These are the entries of the model that takes them. See `MergedFiles` for what is raised.
    """

    def __init__(self, files: TensorFiles, loras: Sequence[LoRA], wanted: Sequence[Entry]):
        kernels = _kernels(wanted)
        self._halves: dict[str, tuple[str, str, tuple[int, ...]]] = {}
        for entry in wanted:
            if match := _HALF.fullmatch(entry.path):
                for key, weight in zip(entry.keys, kernels[match[1]], strict=True):
                    self._halves[key] = (weight, match[2], entry.shape)
        kept = {weight for weight, _, _ in self._halves.values()}
        super().__init__(files, loras, kept)

    def keys(self) -> Iterable[str]:
        return [*super().keys(), *self._halves]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._halves[name][2] if name in self._halves else super().shape(name)

    def dtype(self, name: str) -> str:
        return "F32" if name in self._halves else super().dtype(name)

    def read(self, name: str, index: Index, out: np.ndarray | None = None) -> np.ndarray:
        if name not in self._halves:
            return super().read(name, index, out)
        weight, half, shape = self._halves[name]
        whole, start = np.zeros(shape, np.float32), 0
        for delta in self.apart.get(weight, ()):
            ranks = slice(start, start := start + (delta.rank or 0))
            if half == "down":
                whole[:, ranks] = delta.down_half().T
            elif half == "up":
                whole[ranks] = delta.up_half().T
            else:
                whole[ranks] = delta.strength
        if out is None:
            return whole[index]
        out[...] = whole[index]
        return out


def changed(remade: Container[str], *, strengths_alone: bool) -> Callable[[Entry], bool]:
    """Whether a parameter is another one under other live LoRAs; `remade` are merged tensors."""

    def is_other(entry: Entry) -> bool:
        if match := _HALF.fullmatch(entry.path):
            return match[2] == "strength" or not strengths_alone
        return any(key in remade for key in entry.keys)

    return is_other


def united(*forms: Form) -> Form:
    """With room for each."""

    def both(one: Form, other: Form) -> Form:
        return {p: max(one.get(p, 0), other.get(p, 0)) for p in [*one, *(other.keys() - one)]}

    return reduce(both, forms)


def _kernels(wanted: Iterable[Entry]) -> dict[str, tuple[str, ...]]:
    """The weights of each linear layer, by its path."""
    return {
        entry.path.removesuffix(".kernel"): entry.keys
        for entry in wanted
        if entry.path.endswith(".kernel") and len(entry.shape) == 2
    }
