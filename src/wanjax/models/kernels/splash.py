"""Fused attention for TPUs, in Pallas: scores never leave the vector memory.

The online softmax of FlashAttention (Dao et al., arXiv:2205.14135) with base 2 exponentials. A
tile of scores has its keys in rows and its queries in columns, so that maxima and sums run
along rows, which needs no exchange between lanes, and their results are one number a column.
Where keys end inside a block, the rows that lie before the end are scored without a mask; only
the last `keys_compute` of them pay for one.

JAX has a kernel for sparse masks (`jax.experimental.pallas.ops.tpu.splash_attention`). For this
dense attention it takes 1.6 times the cycles on v6e and tpu7x, and it wants heads before tokens
and whole blocks, which copies queries, keys and values (docs/attention.md).
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from wanjax.models.kernels.choose import LANES, MASKED, Kernel

_SUBLANES = 8
ROWS = 16  # of a tile in memory: parts of whole tiles are moved as they are
_LAST_BOTH = (((1,), (1,)), ((), ()))  # contract the last axes: k qᵀ
_FIRST_BOTH = (((0,), (0,)), ((), ()))  # contract the first axes: vᵀ p


def attend(
    query: Float[Array, "batch q heads dim"],
    key: Float[Array, "batch k heads dim"],
    value: Float[Array, "batch k heads dim"],
    lengths: Int[Array, " batch"] | None,
    kernel: Kernel,
) -> Float[Array, "batch q heads dim"]:
    """Attention to the first `lengths` keys of each batch entry (all, if None). No gradient."""
    valid = None if lengths is None else lengths[None]
    return attend_parts(scaled(query)[None], key[None], value[None], valid, kernel)[0]


def scaled(query: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
    """Queries as the kernel takes them: divided by sqrt(dim), and for exponentials of base 2.

    Best next to what makes the query in float32, with which the compiler fuses it: then the
    query is rounded once.
    """
    scale = math.log2(math.e) / math.sqrt(query.shape[-1])
    return (query.astype(jnp.float32) * scale).astype(query.dtype)


def attend_parts(
    query: Float[Array, "q_parts batch q heads dim"],
    key: Float[Array, "parts batch k heads dim"],
    value: Float[Array, "parts batch k heads dim"],
    lengths: Int[Array, "parts batch"] | None,
    kernel: Kernel,
) -> Float[Array, "q_parts batch q heads dim"]:
    """`attend` of scaled queries where a sequence comes in equal parts.

    Of each the first `lengths` keys count. So it arrives from other devices; no copy has to
    join it first.
    """
    return _call(query, key, value, lengths, kernel, query.dtype)[0]


def attend_partly(
    query: Float[Array, "q_parts batch q heads dim"],
    key: Float[Array, "parts batch k heads dim"],
    value: Float[Array, "parts batch k heads dim"],
    lengths: Int[Array, "parts batch"] | None,
    kernel: Kernel,
) -> tuple[Float[Array, "q_parts batch q heads dim"], Float[Array, "q_parts batch heads q"]]:
    """`attend_parts` in float32, and the logarithm of each query's sum of exponentials."""
    return _call(query, key, value, lengths, kernel, jnp.float32)


def _call(
    query: Array, key: Array, value: Array, lengths: Array | None, kernel: Kernel, dtype: DTypeLike
) -> tuple[Array, Array]:
    q_parts, batch, queries, heads, dim = query.shape
    parts, keys = key.shape[0], key.shape[2]
    blocks = kernel.blocks
    assert blocks is not None
    if lengths is None:
        lengths = jnp.full((parts, batch), keys, jnp.int32)
    query, key, value = (_flat(x) for x in (query, key, value))
    width = query.shape[-1] // heads
    q_blocks, kv_blocks = pl.cdiv(queries, blocks.queries), pl.cdiv(keys, blocks.keys)

    def q_block(b: Any, h: Any, i: Any, j: Any, lengths: Any) -> tuple[Any, ...]:
        part, block = _divmod(i, q_blocks)
        return part, b, block, h

    def kv_block(b: Any, h: Any, i: Any, j: Any, lengths: Any) -> tuple[Any, ...]:
        part, block = _divmod(j, kv_blocks)
        return part, b, block, h

    def sum_block(b: Any, h: Any, i: Any, j: Any, lengths: Any) -> tuple[Any, ...]:
        part, block = _divmod(i, q_blocks)
        return part, b, h, 0, block

    rows = pltpu.VMEM((_SUBLANES, blocks.queries), jnp.float32)
    out, logsumexp = pl.pallas_call(
        functools.partial(_kernel, blocks.keys_compute, kv_blocks),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(batch, heads, q_parts * q_blocks, parts * kv_blocks),
            in_specs=[
                pl.BlockSpec((None, None, blocks.queries, width), q_block),
                pl.BlockSpec((None, None, blocks.keys, width), kv_block),
                pl.BlockSpec((None, None, blocks.keys, width), kv_block),
            ],
            out_specs=[
                pl.BlockSpec((None, None, blocks.queries, width), q_block),
                pl.BlockSpec((None, None, None, 1, blocks.queries), sum_block),
            ],
            scratch_shapes=[rows, rows, pltpu.VMEM((width, blocks.queries), jnp.float32)],
        ),
        out_shape=[
            jax.ShapeDtypeStruct(query.shape, dtype),
            jax.ShapeDtypeStruct((q_parts, batch, heads, 1, queries), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary"),
            vmem_limit_bytes=kernel.vector_memory,
        ),
        cost_estimate=_cost(query, key, heads, q_parts * q_blocks),
        interpret=kernel.interpret,
        name="splash_attention",
    )(lengths, query, key, value)
    out = out.reshape(*query.shape[:3], heads, width)[..., :dim]
    return out, logsumexp[:, :, :, 0]


def _flat(x: Float[Array, "parts batch n heads dim"]) -> Float[Array, "parts batch n flat"]:
    """Heads side by side, each filled up with zeros to whole vector registers."""
    x = jnp.pad(x, ((0, 0),) * 4 + ((0, -x.shape[-1] % LANES),))
    return x.reshape(*x.shape[:3], -1)


def _divmod(value: Any, divisor: int) -> tuple[Any, Any]:
    """Of what is not negative. For signs, Pallas asks which TPU is here, and none need be."""
    if divisor == 1:
        return value, 0
    return jax.lax.div(value, jnp.int32(divisor)), jax.lax.rem(value, jnp.int32(divisor))


def _cost(query: Array, key: Array, heads: int, times_read: int) -> pl.CostEstimate:
    """What the compiler's schedule around the kernel should reckon with."""
    scores = heads * query.shape[0] * query.shape[2] * key.shape[0] * key.shape[1] * key.shape[2]
    return pl.CostEstimate(
        flops=4 * scores * query.shape[3] // heads,
        transcendentals=scores,
        bytes_accessed=2 * query.nbytes + 2 * key.nbytes * times_read,
    )


def _kernel(
    keys_compute: int,
    blocks_of_part: int,
    lengths: Any,
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    out_ref: Any,
    logsumexp_ref: Any,
    max_ref: Any,
    sum_ref: Any,
    acc_ref: Any,
) -> None:
    """One block of queries against one block of keys, of one head."""
    block, blocks = pl.program_id(3), pl.num_programs(3)
    part, block_of_part = _divmod(block, blocks_of_part)
    first = block_of_part * k_ref.shape[0]
    valid = jnp.clip(lengths[part, pl.program_id(0)] - first, 0, k_ref.shape[0])
    whole, rest = _divmod(valid, keys_compute)
    precision = jax.lax.Precision.HIGHEST if q_ref.dtype == jnp.float32 else None

    @pl.when(block == 0)
    def _start() -> None:
        max_ref[...] = jnp.full_like(max_ref, MASKED)
        sum_ref[...] = jnp.zeros_like(sum_ref)
        acc_ref[...] = jnp.zeros_like(acc_ref)

    def add(chunk: Any, valid: Any = None) -> None:
        rows = pl.ds(pl.multiple_of(chunk * keys_compute, keys_compute), keys_compute)
        keys, values = k_ref[rows, :], v_ref[rows, :]
        scores = jax.lax.dot_general(
            keys, q_ref[...], _LAST_BOTH, precision, preferred_element_type=jnp.float32
        )
        if valid is not None:  # what lies behind the end may be anything, also NaN
            seen = jax.lax.broadcasted_iota(jnp.int32, (keys_compute, 1), 0) < valid
            scores = jnp.where(seen, scores, MASKED)
            values = jnp.where(seen, values, jnp.zeros_like(values))
        before = max_ref[...]
        now = jnp.maximum(before, scores.max(axis=0, keepdims=True))
        weights = jnp.exp2(scores - now[:1])
        rescale = jnp.exp2(before - now)
        partial_sums = weights.reshape(-1, _SUBLANES, weights.shape[1]).sum(axis=0)
        max_ref[...] = now
        sum_ref[...] = rescale * sum_ref[...] + partial_sums
        acc_ref[...] = rescale[:1] * acc_ref[...] + jax.lax.dot_general(
            values,
            weights.astype(values.dtype),
            _FIRST_BOTH,
            precision,
            preferred_element_type=jnp.float32,
        )

    jax.lax.fori_loop(0, whole, lambda chunk, _: add(chunk), None)
    pl.when(rest > 0)(lambda: add(whole, rest))

    @pl.when(block == blocks - 1)
    def _finish() -> None:
        total = sum_ref[...].sum(axis=0, keepdims=True)
        nothing = total == 0  # no key at all
        total = jnp.where(nothing, 1.0, total)
        out_ref[...] = (acc_ref[...] / total).T.astype(out_ref.dtype)
        logsumexp = (max_ref[:1] + jnp.log2(total)) * math.log(2)
        logsumexp_ref[...] = jnp.where(nothing, MASKED, logsumexp)
