"""Safetensors to parameters: one tensor at a time from a memory map into its device buffer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array
from safetensors import SafetensorError, safe_open

from wanjax.checkpoints.mapping import Entry, Rule, entries, flat_parameters
from wanjax.errors import CheckpointError
from wanjax.models.layers import logical_axes
from wanjax.parallel.hosts import put
from wanjax.parallel.layouts import laid_out
from wanjax.parallel.sharding import parameter_sharding

Model = TypeVar("Model", bound=nnx.Module)

_LISTED = 8  # names in an error text
_DTYPES = ("F64", "F32", "F16", "BF16")


class TensorFiles:
    """All `*.safetensors` of a folder as one mapping from key to tensor, read on demand.

    `aliases` maps names under which some checkpoints store a tensor to the name we ask for.
    `prefix` is dropped from keys that have it.
    """

    def __init__(self, folder: Path, aliases: Mapping[str, str] | None = None, prefix: str = ""):
        self.folder = folder
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise CheckpointError(f"{folder}: no *.safetensors file")
        self._source: dict[str, tuple[Any, str]] = {}
        for file in files:
            handle = _open(file)
            for key in handle.keys():  # noqa: SIM118 (no mapping)
                name = (aliases or {}).get(key, key)
                self._source.setdefault(name.removeprefix(prefix), (handle, key))

    def keys(self) -> Iterable[str]:
        return self._source.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        handle, key = self._source[name]
        return tuple(handle.get_slice(key).get_shape())

    def dtype(self, name: str) -> str:
        """As safetensors names it, such as BF16."""
        handle, key = self._source[name]
        dtype: str = handle.get_slice(key).get_dtype()
        return dtype

    def read(self, name: str) -> np.ndarray:
        handle, key = self._source[name]
        tensor: np.ndarray = handle.get_tensor(key)
        return tensor


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="np")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is no safetensors file, or is cut short: {error}") from error


def load_parameters(
    model: Model,
    rules: Sequence[Rule],
    files: TensorFiles,
    *,
    dtype: DTypeLike = jnp.float32,
    mesh: Mesh | None = None,
    unused: Sequence[str] = (),
) -> Model:
    """The abstract `model` (from `nnx.eval_shape`) with its parameters read from `files`.

    Parameters declared `keep_float32` stay float32, the others become `dtype`. On a mesh
    each device receives its own part. `unused` are patterns of tensors that may lie about.
    Raises `CheckpointError` listing every missing, unexpected and wrongly shaped tensor, and
    every one of numbers that cannot be read, such as FP8.
    """
    graph, abstract = nnx.split(model)
    wanted = entries(abstract, rules)
    _check(wanted, files, unused)
    variables = dict(flat_parameters(abstract))
    loaded = []
    for entry in wanted:
        variable = variables[entry.path]
        kept_as = kept_dtype(variable, dtype)
        shape = tuple(variable.get_value().shape)
        axes = logical_axes(variable)
        loaded.append(variable.replace(_read(entry, files, shape, kept_as, axes, mesh)))
    paths = [path for path, _ in nnx.to_flat_state(abstract)]
    return nnx.merge(graph, nnx.from_flat_state(list(zip(paths, loaded, strict=True))))


def kept_dtype(variable: nnx.Variable[Any], dtype: DTypeLike) -> DTypeLike:
    """That of a parameter in a model that is loaded in `dtype`."""
    return jnp.float32 if variable.get_metadata("keep_float32") else dtype


def _read(
    entry: Entry,
    files: TensorFiles,
    shape: tuple[int, ...],
    dtype: Any,
    axes: Sequence[str | None],
    mesh: Mesh | None,
) -> Array:
    sharding = parameter_sharding(axes, shape, mesh)
    buffer: Array
    if not entry.stacked:
        return _put(_tensor(entry, entry.keys[0], files, dtype), sharding)
    buffer = jnp.zeros(shape, dtype, device=sharding)
    layer_sharding = parameter_sharding(axes[1:], shape[1:], mesh)
    for i, key in enumerate(entry.keys):
        layer = _put(_tensor(entry, key, files, dtype), layer_sharding)
        buffer = _set_layer(buffer, layer, i, sharding)
        buffer.block_until_ready()  # else tensors pile up on the host
    place = laid_out(shape, dtype, sharding)
    return buffer if place is sharding else jax.device_put(buffer, place, donate=True)


def _put(x: np.ndarray, sharding: Any) -> Array:
    return jnp.asarray(x) if sharding is None else put(x, sharding)


def _tensor(entry: Entry, key: str, files: TensorFiles, dtype: Any) -> np.ndarray:
    return np.ascontiguousarray(entry.transform.load(files.read(key)), dtype=dtype)


@partial(jax.jit, donate_argnums=0, static_argnums=3)
def _set_layer(buffer: Array, layer: Array, i: Array, sharding: Any) -> Array:
    buffer = buffer.at[i].set(layer)
    if sharding is not None:
        buffer = jax.lax.with_sharding_constraint(buffer, sharding)
    return buffer


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
        f"{key} is {files.dtype(key)}, expected {', '.join(_DTYPES)}"
        for key in sorted(shapes.keys() & present)
        if files.dtype(key) not in _DTYPES
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
