"""Tensors to parameters: what a model declares is looked for, checked, then read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike

from wanjax.checkpoints.layouts.names import Rule
from wanjax.checkpoints.mapping import Entry, entries, flat_parameters
from wanjax.checkpoints.pieces import PIECE_BYTES, Parameter, make, maker
from wanjax.checkpoints.stored import DTYPES
from wanjax.checkpoints.tensor_files import TensorFiles
from wanjax.errors import CheckpointError
from wanjax.models.layers import logical_axes
from wanjax.parallel.sharding import parameter_sharding

Model = TypeVar("Model", bound=nnx.Module)

NOTHING: Mapping[str, str] = {}
_LISTED = 8  # names in an error text
_SHOWN = 3  # skipped keys in a line


@dataclass(frozen=True)
class Reading:
    """What is read of a part's files: every key is `used`, or `skipped` for a reason."""

    place: Path
    layout: str
    dtypes: Mapping[str, int]
    used: int
    skipped: Mapping[str, str]  # why, by the key in the file

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {dtype}" for dtype, count in sorted(self.dtypes.items()))
        keys: dict[str, list[str]] = {}
        for key, reason in self.skipped.items():
            keys.setdefault(reason, []).append(key)
        skipped = [
            f"{len(names)} skipped, {reason} ({', '.join(names[:_SHOWN])}"
            + ", ..." * (len(names) > _SHOWN)
            + ")"
            for reason, names in keys.items()
        ]
        return "; ".join([f"{self.place}: {self.layout}, {kinds}, {self.used} used", *skipped])


def load_parameters(
    model: Model,
    rules: Sequence[Rule],
    files: TensorFiles,
    *,
    dtype: DTypeLike = jnp.float32,
    mesh: Mesh | None = None,
    unused: Mapping[str, str] = NOTHING,
    report: Callable[[int, int], None] = lambda done, total: None,
    piece_bytes: int = PIECE_BYTES,
    host_memory: bool | None = None,
    only: Callable[[Entry], bool] = lambda entry: True,
) -> Model:
    """The abstract `model` (made with `Undrawn` parameters) with its parameters read from `files`.

    Parameters declared `keep_float32` stay float32, the others become `dtype`. On a mesh
    each device receives its own part. `unused` are patterns of tensors that may lie about, and
    why they are not read.
    `report` is told the bytes that are loaded, of how many. `host_memory` says whether the
    devices' memory is the host's, as it is of CPUs; `piece_bytes` is what is read at once. Of a
    model that has its parameters already, `only` some are read again.
    Raises `CheckpointError` listing every missing, unexpected and wrongly shaped tensor, and
    every one of numbers that cannot be read, such as FP8.
    """
    graph, abstract = nnx.split(model)
    wanted = entries(abstract, rules)
    check_files(model, rules, files, unused)
    wanted = [entry for entry in wanted if only(entry)]
    variables = dict(flat_parameters(abstract))
    parameters = [
        _parameter(entry, files, variables[entry.path], dtype, mesh, piece_bytes)
        for entry in wanted
    ]
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    if host_memory is None:
        host_memory = device.platform == "cpu"
    makers = [maker(parameter, host_memory=host_memory) for parameter in parameters]
    total, done = sum(parameter.read_bytes for parameter in parameters), 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        report(done, total)

    for entry, array in zip(wanted, make(makers, count), strict=True):
        variables[entry.path] = variables[entry.path].replace(array)
    paths = [path for path, _ in nnx.to_flat_state(abstract)]
    return nnx.merge(graph, nnx.from_flat_state(list(zip(paths, variables.values(), strict=True))))


def kept_dtype(variable: nnx.Variable[Any], dtype: DTypeLike) -> DTypeLike:
    """That of a parameter in a model that is loaded in `dtype`."""
    if (kept := _kept(variable)) is not None:
        return jnp.dtype(kept)
    return jnp.float32 if variable.get_metadata("keep_float32") else dtype


def _kept(variable: nnx.Variable[Any]) -> str | None:
    """The type in which a kernel of eight bits or fewer is kept, or its scale."""
    name: str | None = variable.get_metadata().get("kept")
    return name


def _parameter(
    entry: Entry,
    files: TensorFiles,
    variable: nnx.Variable[Any],
    dtype: DTypeLike,
    mesh: Mesh | None,
    piece_bytes: int,
) -> Parameter:
    shape = tuple(variable.get_value().shape)
    kept_as = np.dtype(jnp.dtype(kept_dtype(variable, dtype)))
    sharding = parameter_sharding(logical_axes(variable), shape, mesh)
    return Parameter(entry, files, shape, kept_as, sharding, piece_bytes)


def check_files(
    model: nnx.Module,
    rules: Sequence[Rule],
    files: TensorFiles,
    unused: Mapping[str, str] = NOTHING,
) -> Reading:
    """What will be read of `files`; looks at names, shapes and types of numbers alone.

    Raises `CheckpointError` as `load_parameters` does.
    """
    state = nnx.split(model)[1]
    wanted, variables = entries(state, rules), dict(flat_parameters(state))
    shapes = {key: entry.shape for entry in wanted for key in entry.keys}
    present = set(files.keys())
    said = files.said
    missing = sorted(shapes.keys() - present)
    reasons = {key: _reason(key, unused) for key in present - shapes.keys()}
    unexpected = sorted(key for key, reason in reasons.items() if reason is None)
    misshapen = [
        f"{said(key)} is {list(files.shape(key))}, expected {list(shape)}"
        for key, shape in sorted(shapes.items())
        if key in present and files.shape(key) != shape
    ]
    narrow = {key for entry in wanted if _kept(variables[entry.path]) for key in entry.keys}
    unreadable = [
        f"{said(key)} is {files.dtype(key)}, expected {', '.join(DTYPES)}"
        for key in sorted(shapes.keys() & present - narrow)
        if files.dtype(key) not in DTYPES
    ]
    faults = [
        _listing("missing", [f"{said(key)} {list(shapes[key])}" for key in missing]),
        _listing("unexpected", [f"{said(key)} {list(files.shape(key))}" for key in unexpected]),
        _listing("wrong shape", misshapen),
        _listing("wrong type of numbers", unreadable),
    ]
    if any(faults):
        raise CheckpointError(
            f"{files.place} does not hold this model: " + "; ".join(filter(None, faults))
        )
    skipped = {said(key): str(reason) for key, reason in reasons.items()}
    return Reading(
        files.place,
        files.arranged.layout,
        files.stored_dtypes(),
        len(files.used() - {said(key) for key in reasons}),
        {**files.arranged.skipped, **skipped},
    )


def _reason(key: str, patterns: Mapping[str, str]) -> str | None:
    return next((why for pattern, why in patterns.items() if re.fullmatch(pattern, key)), None)


def _listing(title: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{len(names)} {title}: " + ", ".join(names[:_LISTED]) + more
