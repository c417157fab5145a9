"""Checkpoint names and layouts: from a model's declared parameters to the tensors of a folder.

A model's table is a list of rules (`layouts.names.Rule`), of which the first that matches counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx

from wanjax.checkpoints.layouts.names import Rule

Tensor = TypeVar("Tensor", np.ndarray, jax.Array)


@dataclass(frozen=True)
class Transform:
    """A change of layout between the checkpoint's tensor and our parameter.

    `order` names the checkpoint's dimensions in the order of ours; `ones` more of size 1, at
    its end, are ours no longer.
    """

    order: tuple[int, ...] | None = None
    ones: int = 0

    def load(self, x: Tensor) -> Tensor:
        """A view of ours, of NumPy's or JAX's arrays."""
        x = x.reshape(x.shape[: x.ndim - self.ones]) if self.ones else x
        return x if self.order is None else x.transpose(self.order)

    def save(self, x: Tensor) -> Tensor:
        """The inverse of `load`."""
        x = x.reshape(x.shape + (1,) * self.ones) if self.ones else x
        return x if self.order is None else x.transpose(self._inverse)

    def stored(self, ours: Sequence[Any], of_ones: Any) -> tuple[Any, ...]:
        """Something for each of the checkpoint's dimensions, such as sizes, from ours."""
        if self.order is not None:
            ours = [ours[i] for i in self._inverse]
        return (*ours, *[of_ones] * self.ones)

    @property
    def _inverse(self) -> tuple[int, ...]:
        return tuple(int(i) for i in np.argsort(self.order or ()))


TRANSFORMS: dict[str, Transform] = {
    "copy": Transform(),
    "linear": Transform((1, 0)),  # [out, in] -> [in, out]
    "conv2d": Transform((2, 3, 1, 0)),  # [out, in, h, w] -> [h, w, in, out]
    "conv3d": Transform((2, 3, 4, 1, 0)),  # [out, in, t, h, w] -> [t, h, w, in, out]
    "gamma2d": Transform(ones=2),  # [c, 1, 1] -> [c]
    "gamma3d": Transform(ones=3),  # [c, 1, 1, 1] -> [c]
}


@dataclass(frozen=True)
class Entry:
    """One of our parameters and the checkpoint tensors it is made of."""

    path: str
    keys: tuple[str, ...]  # one, or one per stacked layer
    stacked: bool
    transform: Transform
    shape: tuple[int, ...]  # of each checkpoint tensor


def flat_parameters(state: nnx.State[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Dotted path and variable of each parameter."""
    for path, variable in nnx.to_flat_state(state):
        yield ".".join(str(part) for part in path), variable


def entries(abstract: nnx.State[Any, Any], rules: Sequence[Rule]) -> list[Entry]:
    """Where each parameter of `abstract` is found in a checkpoint."""
    return [_entry(path, variable, rules) for path, variable in flat_parameters(abstract)]


def _entry(path: str, variable: Any, rules: Sequence[Rule]) -> Entry:
    for pattern, key, name in rules:
        match = re.fullmatch(pattern, path)
        if match is None:
            continue
        transform = TRANSFORMS[name]
        template = match.expand(key)
        shape = tuple(variable.get_value().shape)
        if "{i}" not in template:
            return Entry(path, (template,), False, transform, transform.stored(shape, 1))
        keys = tuple(template.replace("{i}", str(i)) for i in range(shape[0]))
        return Entry(path, keys, True, transform, transform.stored(shape[1:], 1))
    raise KeyError(f"no checkpoint rule for parameter {path!r}")


def checkpoint_tensors(state: nnx.State[Any, Any], rules: Sequence[Rule]) -> dict[str, np.ndarray]:
    """The parameters under the checkpoint's names and layouts (to save a trained model)."""
    values = dict(flat_parameters(state))
    tensors: dict[str, np.ndarray] = {}
    for entry in entries(state, rules):
        value = np.asarray(jax.device_get(values[entry.path].get_value()))
        layers = value if entry.stacked else value[None]
        for key, layer in zip(entry.keys, layers, strict=True):
            tensors[key] = np.ascontiguousarray(entry.transform.save(layer))
    return tensors
