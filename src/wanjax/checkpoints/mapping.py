"""Checkpoint names and layouts: from a model's declared parameters to the tensors of a folder.

A model's table is a list of rules `(pattern, key, transform)`. `pattern` is a
regular expression for our dotted parameter path, `key` the checkpoint's name with
`\\1` groups, and `{i}` where the checkpoint numbers the layers that we keep stacked.
The first matching rule counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

Rule = tuple[str, str, str]


@dataclass(frozen=True)
class Transform:
    """A change of layout between the checkpoint's tensor and our parameter."""

    load: Callable[[np.ndarray], np.ndarray]
    save: Callable[[np.ndarray], np.ndarray]
    shape: Callable[[tuple[int, ...]], tuple[int, ...]]  # checkpoint's shape of our shape


def _permutation(*order: int) -> Transform:
    inverse = tuple(int(i) for i in np.argsort(order))
    return Transform(
        load=lambda x: x.transpose(order),
        save=lambda x: x.transpose(inverse),
        shape=lambda shape: tuple(shape[i] for i in inverse),
    )


def _trailing_ones(count: int) -> Transform:
    return Transform(
        load=lambda x: x.reshape(x.shape[: x.ndim - count]),
        save=lambda x: x.reshape(x.shape + (1,) * count),
        shape=lambda shape: shape + (1,) * count,
    )


TRANSFORMS: dict[str, Transform] = {
    "copy": Transform(load=lambda x: x, save=lambda x: x, shape=lambda shape: shape),
    "linear": _permutation(1, 0),  # [out, in] -> [in, out]
    "conv2d": _permutation(2, 3, 1, 0),  # [out, in, h, w] -> [h, w, in, out]
    "conv3d": _permutation(2, 3, 4, 1, 0),  # [out, in, t, h, w] -> [t, h, w, in, out]
    "gamma2d": _trailing_ones(2),  # [c, 1, 1] -> [c]
    "gamma3d": _trailing_ones(3),  # [c, 1, 1, 1] -> [c]
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
            return Entry(path, (template,), False, transform, transform.shape(shape))
        keys = tuple(template.replace("{i}", str(i)) for i in range(shape[0]))
        return Entry(path, keys, True, transform, transform.shape(shape[1:]))
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
