"""Attention among tokens that are spread over devices: Ulysses, a ring, or both.

Ulysses (Jacobs et al., arXiv:2309.14509): devices exchange tokens for heads, so that each has
all tokens of some heads, and back. Where heads do not divide among the devices, groups of them
do so, and keys and values go round a ring of the groups (Liu et al., arXiv:2310.01889).
These functions run inside `jax.shard_map`, on the part of one device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from wanjax.models.kernels import run
from wanjax.models.kernels.choose import Kernel, KernelChoice


@dataclass(frozen=True)
class Exchange:
    """How the devices along some mesh axes share the heads of a device's tokens.

    Neighbours in groups of `ulysses` exchange tokens for heads; the `ring` groups pass on keys.
    """

    axes: tuple[str, ...]
    ulysses: int
    ring: int

    @classmethod
    def of(cls, axes: tuple[str, ...], devices: int, heads: int) -> Exchange:
        ulysses = math.gcd(devices, heads)
        return cls(axes, ulysses, devices // ulysses)

    @property
    def groups(self) -> list[list[int]] | None:
        """The neighbours: they hold consecutive tokens. None if all devices are one group."""
        if self.ring == 1:
            return None
        count = range(self.ulysses)
        return [[group * self.ulysses + i for i in count] for group in range(self.ring)]

    @property
    def rings(self) -> list[list[int]]:
        """Devices with the same heads, in the order of their tokens."""
        count = range(self.ring)
        return [[group * self.ulysses + i for group in count] for i in range(self.ulysses)]


def attend(
    query: Float[Array, "batch part heads dim"],
    key: Float[Array, "batch part heads dim"],
    value: Float[Array, "batch part heads dim"],
    lengths: Int[Array, " batch"] | None,
    choice: KernelChoice | Kernel,
    exchange: Exchange,
) -> Float[Array, "batch part heads dim"]:
    """Attention of a device's tokens to all tokens, of which the first `lengths` count."""
    part = query.shape[1]
    kernel = run.resolve(choice, query, key, exchange.ulysses)
    query, rows = run.prepare(query, kernel), run.rows(kernel)
    query, key, value = (_to_heads(x, exchange, rows) for x in (query, key, value))
    if exchange.ring > 1 and kernel.name != "cudnn":
        out = _ring(query, key, value, part, lengths, kernel, exchange)
    else:
        if exchange.ring > 1:
            # cuDNN tells its sums in half precision, which is too little to add up a ring
            key, value = (_gathered(x, exchange) for x in (key, value))
        out = run.attend_parts(query, key, value, _valid(lengths, key, part, 0), kernel)
    return _to_tokens(out, exchange, part)


def _gathered(x: Float[Array, "group batch part heads dim"], exchange: Exchange) -> Array:
    """The parts of all groups."""
    gathered: Array = jax.lax.all_gather(
        x, exchange.axes, axis=0, tiled=True, axis_index_groups=exchange.rings
    )
    return gathered


def _valid(
    lengths: Int[Array, " batch"] | None, key: Array, part: int, first_part: Array | int
) -> Int[Array, "parts batch"] | None:
    """How many keys count in each of some parts of the sequence. None: all, without filling."""
    parts, batch, filled = key.shape[:3]
    if lengths is None:
        return None if filled == part else jnp.full((parts, batch), part, jnp.int32)
    first = (first_part + jnp.arange(parts)) * part
    return jnp.clip(lengths - first[:, None], 0, part).astype(jnp.int32)


def _to_heads(
    x: Float[Array, "batch part heads dim"], exchange: Exchange, rows: int
) -> Float[Array, "group batch filled fewer dim"]:
    """Some heads of all tokens of the group for all heads of some tokens.

    A part is filled up with zeros to a multiple of `rows`. Heads stay side by side: as an axis
    of their own a TPU would fill up the few of them to eight. And they are cut out and stacked
    rather than transposed, for which XLA copies all of them twice.
    """
    batch, part, _, dim = x.shape
    flat = x.reshape(batch, part, -1)
    flat = jnp.stack(jnp.split(flat, exchange.ulysses, axis=-1))
    flat = jnp.pad(flat, ((0, 0), (0, 0), (0, -part % rows), (0, 0)))
    return _all_to_all(flat, exchange).reshape(*flat.shape[:3], -1, dim)


def _to_tokens(
    x: Float[Array, "group batch filled fewer dim"], exchange: Exchange, part: int
) -> Float[Array, "batch part heads dim"]:
    """The inverse of `_to_heads`."""
    group, batch, filled, _, dim = x.shape
    flat = _all_to_all(x.reshape(group, batch, filled, -1), exchange)[:, :, :part]
    return jnp.concatenate(list(flat), axis=-1).reshape(batch, part, -1, dim)


def _all_to_all(x: Array, exchange: Exchange) -> Array:
    """Row i of the first axis goes to the i-th neighbour, its row for this device comes back."""
    if exchange.ulysses == 1:
        return x
    received: Array = jax.lax.all_to_all(
        x, exchange.axes, 0, 0, tiled=True, axis_index_groups=exchange.groups
    )
    return received


def _ring(
    query: Float[Array, "group batch part heads dim"],
    key: Float[Array, "group batch part heads dim"],
    value: Float[Array, "group batch part heads dim"],
    part: int,
    lengths: Int[Array, " batch"] | None,
    kernel: Kernel,
    exchange: Exchange,
) -> Float[Array, "group batch part heads dim"]:
    """Attention to one group's keys after the other, put together by their sums."""
    devices = exchange.ulysses * exchange.ring
    onwards = [(i, (i + exchange.ulysses) % devices) for i in range(devices)]
    group = jax.lax.axis_index(exchange.axes) // exchange.ulysses
    out = logsumexp = None
    for step in range(exchange.ring):
        held = key, value
        if step < exchange.ring - 1:  # asked for before the kernel, so that both go on at once
            key, value = (jax.lax.ppermute(x, exchange.axes, onwards) for x in held)
        owner = (group - step) % exchange.ring
        valid = _valid(lengths, held[0], part, owner * exchange.ulysses)
        one, one_logsumexp = run.attend_partly(query, *held, valid, kernel)
        if out is None or logsumexp is None:
            out, logsumexp = one, one_logsumexp
        else:
            both = jnp.logaddexp(logsumexp, one_logsumexp)
            out = out * _weight(logsumexp - both) + one * _weight(one_logsumexp - both)
            logsumexp = both
    assert out is not None
    return out.astype(query.dtype)


def _weight(
    logarithm: Float[Array, "group batch heads part"],
) -> Float[Array, "group batch part heads 1"]:
    return jnp.exp(logarithm).swapaxes(2, 3)[..., None]
