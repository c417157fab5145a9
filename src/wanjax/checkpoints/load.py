"""Safetensors to parameters: what a model declares is looked for, checked, then read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike

from wanjax.checkpoints.mapping import Entry, Rule, entries, flat_parameters
from wanjax.checkpoints.pieces import PIECE_BYTES, Parameter, make, maker
from wanjax.checkpoints.tensor_files import DTYPES, TensorFiles
from wanjax.errors import CheckpointError
from wanjax.models.layers import logical_axes
from wanjax.parallel.sharding import parameter_sharding

Model = TypeVar("Model", bound=nnx.Module)

_LISTED = 8  # names in an error text


def load_parameters(
    model: Model,
    rules: Sequence[Rule],
    files: TensorFiles,
    *,
    dtype: DTypeLike = jnp.float32,
    mesh: Mesh | None = None,
    unused: Sequence[str] = (),
    report: Callable[[int, int], None] = lambda done, total: None,
    piece_bytes: int = PIECE_BYTES,
    host_memory: bool | None = None,
) -> Model:
    """The abstract `model` (made with `Undrawn` parameters) with its parameters read from `files`.

    Parameters declared `keep_float32` stay float32, the others become `dtype`. On a mesh
    each device receives its own part. `unused` are patterns of tensors that may lie about.
    `report` is told the bytes that are loaded, of how many. `host_memory` says whether the
    devices' memory is the host's, as it is of CPUs; `piece_bytes` is what is read at once.
    Raises `CheckpointError` listing every missing, unexpected and wrongly shaped tensor, and
    every one of numbers that cannot be read, such as FP8.
    """
    graph, abstract = nnx.split(model)
    wanted = entries(abstract, rules)
    _check(wanted, files, unused)
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

    loaded = [
        variables[entry.path].replace(array)
        for entry, array in zip(wanted, make(makers, count), strict=True)
    ]
    paths = [path for path, _ in nnx.to_flat_state(abstract)]
    return nnx.merge(graph, nnx.from_flat_state(list(zip(paths, loaded, strict=True))))


def kept_dtype(variable: nnx.Variable[Any], dtype: DTypeLike) -> DTypeLike:
    """That of a parameter in a model that is loaded in `dtype`."""
    return jnp.float32 if variable.get_metadata("keep_float32") else dtype


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


def _check(wanted: Sequence[Entry], files: TensorFiles, unused: Sequence[str]) -> None:
    shapes = {key: entry.shape for entry in wanted for key in entry.keys}
    present = set(files.keys())
    missing = sorted(shapes.keys() - present)
    allowed = re.compile("|".join(unused) or r"(?!)")
    unexpected = sorted(k for k in present - shapes.keys() if not allowed.fullmatch(k))
    misshapen = [
        f"{key} is {list(files.shape(key))}, expected {list(shape)}"
        for key, shape in sorted(shapes.items())
        if key in present and files.shape(key) != shape
    ]
    unreadable = [
        f"{key} is {files.dtype(key)}, expected {', '.join(DTYPES)}"
        for key in sorted(shapes.keys() & present)
        if files.dtype(key) not in DTYPES
    ]
    faults = [
        _listing("missing", [f"{key} {list(shapes[key])}" for key in missing]),
        _listing("unexpected", [f"{key} {list(files.shape(key))}" for key in unexpected]),
        _listing("wrong shape", misshapen),
        _listing("wrong type of numbers", unreadable),
    ]
    if any(faults):
        raise CheckpointError(
            f"{files.folder} does not hold this model: " + "; ".join(filter(None, faults))
        )


def _listing(title: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{len(names)} {title}: " + ", ".join(names[:_LISTED]) + more
