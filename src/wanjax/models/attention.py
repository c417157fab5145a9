"""Scaled dot-product attention: the one place where models ask for it.

Which kernel computes it is decided by `kernels.choose`, how devices share it by the mesh under
which the program is compiled (`jax.set_mesh`). See docs/attention.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from wanjax.models.kernels import run, ulysses
from wanjax.models.kernels.choose import DeviceKind, Kernel, KernelChoice, Requested
from wanjax.parallel.mesh import ACTIVATION_RULES

# What a model is made with: the choice for its target, or a name, for the devices here.
AttentionKernel = KernelChoice | Kernel | Requested

# Who holds the keys: each device the part that it has of the queries, or every device all.
Keys = Literal["shared", "whole"]


def attention(
    query: Float[Array, "batch q heads dim"],
    key: Float[Array, "batch k heads dim"],
    value: Float[Array, "batch k heads dim"],
    choice: AttentionKernel = "auto",
    *,
    keys: Keys = "whole",
    lengths: Int[Array, " batch"] | None = None,
) -> Float[Array, "batch q heads dim"]:
    """`softmax(q kᵀ / sqrt(dim)) v`, every query attending to the first `lengths` keys.

    `lengths` are those of each batch entry, at least 1; by default all keys.

    On a mesh the batch is shared over `data`, heads over `tensor`, queries over `fsdp` and
    `context`. Keys are `whole` on every device, as those of a text, or `shared` like the
    queries, as in self-attention: then devices exchange tokens for heads and, where heads do
    not divide, pass keys round (`kernels.ulysses`). Lengths need not divide.
    """
    choice = as_choice(choice)
    shares = _shares(query.shape[0], query.shape[2])
    if shares is None:
        return run.attend(query, key, value, lengths, run.resolve(choice, query, key))
    return _shared_attention(query, key, value, lengths, choice, keys, shares)


def as_choice(kernel: AttentionKernel) -> KernelChoice | Kernel:
    """A kernel's bare name is for the devices that are here."""
    return KernelChoice(DeviceKind.here(), kernel) if isinstance(kernel, str) else kernel


def is_for_tpu(kernel: AttentionKernel) -> bool:
    """Whether what surrounds the attention should be laid out for a TPU."""
    kernel = as_choice(kernel)
    if isinstance(kernel, KernelChoice):
        return kernel.target.platform == "tpu"
    return kernel.name == "splash"


@dataclass(frozen=True)
class _Shares:
    """Mesh axes, each of more than one device, over which a dimension is shared."""

    batch: tuple[str, ...]
    tokens: tuple[str, ...]
    heads: tuple[str, ...]
    devices: int  # that share the tokens


def _shares(batch: int, heads: int) -> _Shares | None:
    """For the mesh of the program being traced; None without one, or if nothing is shared."""
    mesh = jax.sharding.get_abstract_mesh()
    sizes = {name: mesh.shape[name] for name in mesh.axis_names if name not in mesh.manual_axes}

    def axes(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in names if sizes.get(name, 1) > 1)

    def count(names: tuple[str, ...]) -> int:
        return math.prod(sizes[name] for name in names)

    by_batch, by_tokens, by_heads = (
        axes(ACTIVATION_RULES[n]) for n in ("batch", "tokens", "heads")
    )
    by_batch = by_batch if batch % count(by_batch) == 0 else ()
    by_heads = by_heads if heads % count(by_heads) == 0 else ()
    if not by_batch + by_tokens + by_heads:
        return None
    return _Shares(by_batch, by_tokens, by_heads, count(by_tokens))


def _shared_attention(
    query: Array,
    key: Array,
    value: Array,
    lengths: Int[Array, " batch"] | None,
    choice: KernelChoice | Kernel,
    keys: Keys,
    shares: _Shares,
) -> Array:
    """Each device its part. Tokens that do not divide are filled up, and the filling masked."""
    batch, queries = query.shape[:2]
    exchanged = keys == "shared" and shares.devices > 1
    if exchanged and key.shape[1] % shares.devices and lengths is None:
        lengths = jnp.full(batch, key.shape[1], jnp.int32)
    query = _filled(query, shares.devices)
    if exchanged:
        key, value = (_filled(x, shares.devices) for x in (key, value))

    def part(query: Array, key: Array, value: Array, lengths: Array | None) -> Array:
        if exchanged:
            exchange = ulysses.Exchange.of(shares.tokens, shares.devices, query.shape[2])
            return ulysses.attend(query, key, value, lengths, choice, exchange)
        return run.attend(query, key, value, lengths, run.resolve(choice, query, key))

    of_queries = PartitionSpec(shares.batch, shares.tokens, shares.heads, None)
    of_keys = of_queries if exchanged else PartitionSpec(shares.batch, None, shares.heads, None)
    out = jax.shard_map(
        part,
        in_specs=(of_queries, of_keys, of_keys, PartitionSpec(shares.batch)),
        out_specs=of_queries,
        check_vma=False,  # the kernels of accelerators do not tell over which axes they vary
    )(query, key, value, lengths)
    return out if out.shape[1] == queries else out[:, :queries]


def _filled(x: Array, multiple: int) -> Array:
    """With zero tokens at the end, up to a multiple."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % multiple), (0, 0), (0, 0)))
