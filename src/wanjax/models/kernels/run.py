"""A kernel's name to its code."""

from __future__ import annotations

import importlib
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from wanjax.models.kernels import chunked, through_jax
from wanjax.models.kernels.choose import Kernel, KernelChoice

Lengths = Int[Array, " batch"]

_KERNELS = {
    "cudnn": through_jax.attend,
    "chunked": chunked.attend,
    "xla": through_jax.attend,
}


def _splash() -> Any:
    """Imported when it is used: Pallas takes long to import, and is for TPUs alone."""
    return importlib.import_module("wanjax.models.kernels.splash")


def resolve(choice: KernelChoice | Kernel, query: Array, key: Array, parts: int = 1) -> Kernel:
    """The kernel for arrays [batch, length, heads, dim], or `parts` of that length."""
    if isinstance(choice, Kernel):
        return choice
    return choice.kernel(str(query.dtype), query.shape[3], query.shape[1], key.shape[1], parts)


def attend(
    query: Float[Array, "batch q heads dim"],
    key: Float[Array, "batch k heads dim"],
    value: Float[Array, "batch k heads dim"],
    lengths: Lengths | None,
    kernel: Kernel,
) -> Float[Array, "batch q heads dim"]:
    """Attention to the first `lengths` keys of each batch entry (all, if None)."""
    run = _splash().attend if kernel.name == "splash" else _KERNELS[kernel.name]
    out: Array = run(query, key, value, lengths, kernel)
    return out


def prepare(query: Float[Array, "batch q heads dim"], kernel: Kernel) -> Array:
    """Queries as `attend_parts` and `attend_partly` take them: before they move, best fused."""
    prepared: Array = _splash().scaled(query) if kernel.name == "splash" else query
    return prepared


def rows(kernel: Kernel) -> int:
    """Parts of a multiple of so many tokens are moved best; what fills them up is masked."""
    return int(_splash().ROWS) if kernel.name == "splash" else 1


def attend_parts(
    query: Float[Array, "q_parts batch q heads dim"],
    key: Float[Array, "parts batch k heads dim"],
    value: Float[Array, "parts batch k heads dim"],
    lengths: Int[Array, "parts batch"] | None,
    kernel: Kernel,
) -> Float[Array, "q_parts batch q heads dim"]:
    """`attend` for a prepared sequence in equal parts.

    Of each part the first `lengths` keys count. But in splash, these are all of the part or
    those at the end of the sequence.
    """
    if kernel.name == "splash":
        parts: Array = _splash().attend_parts(query, key, value, lengths, kernel)
        return parts
    valid = None if lengths is None else lengths.sum(axis=0)
    out = attend(_joined(query), _joined(key), _joined(value), valid, kernel)
    return _in_parts(out, len(query), axis=1)


def attend_partly(
    query: Float[Array, "q_parts batch q heads dim"],
    key: Float[Array, "parts batch k heads dim"],
    value: Float[Array, "parts batch k heads dim"],
    lengths: Int[Array, "parts batch"] | None,
    kernel: Kernel,
) -> tuple[Float[Array, "q_parts batch q heads dim"], Float[Array, "q_parts batch heads q"]]:
    """`attend_parts` in float32, and the logarithm of each query's sum of exponentials.

    Without keys that is a large negative number. Short sequences are computed as one tile.
    """
    if kernel.name == "splash":
        partly: tuple[Array, Array] = _splash().attend_partly(query, key, value, lengths, kernel)
        return partly
    valid = None if lengths is None else lengths.sum(axis=0)
    out, logsumexp = chunked.attend_partly(
        _joined(query), _joined(key), _joined(value), valid, kernel
    )
    return _in_parts(out, len(query), axis=1), _in_parts(logsumexp, len(query), axis=2)


def _joined(x: Float[Array, "parts batch n heads dim"]) -> Float[Array, "batch tokens heads dim"]:
    return x.swapaxes(0, 1).reshape(x.shape[1], -1, *x.shape[3:])


def _in_parts(x: Array, parts: int, axis: int) -> Array:
    """One axis in equal parts, whose number becomes the first axis."""
    x = x.reshape(*x.shape[:axis], parts, -1, *x.shape[axis + 1 :])
    return jnp.moveaxis(x, axis, 0)
