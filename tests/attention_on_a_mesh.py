"""Run by tests/test_attention.py in a process of eight CPU devices: prints facts as JSON."""

from __future__ import annotations

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from wanjax.models.attention import attention
from wanjax.models.kernels.choose import Blocks, Kernel

AXES = ("data", "fsdp", "context", "tensor")
SPLASH = Kernel("splash", Blocks(128, 128, 128), 2**24, interpret=True)
CHUNKED = Kernel("chunked", score_bytes=2**16)
# mesh sizes, heads, tokens, kernel
CASES = {
    "ulysses": ((1, 1, 8, 1), 8, 64, CHUNKED),
    "ulysses over both axes": ((1, 2, 4, 1), 16, 64, CHUNKED),
    "ring": ((1, 1, 8, 1), 3, 64, CHUNKED),
    "ring of groups": ((1, 2, 4, 1), 12, 64, CHUNKED),
    "beside data and tensor": ((2, 1, 2, 2), 4, 64, CHUNKED),
    "heads that tensor does not divide": ((1, 1, 4, 2), 3, 64, CHUNKED),
    "tokens that do not divide": ((1, 1, 8, 1), 8, 61, CHUNKED),
    "ring, tokens that do not divide": ((1, 2, 4, 1), 12, 61, CHUNKED),
    "ring, devices with padding alone": ((1, 1, 8, 1), 3, 9, CHUNKED),
    "whole scores": ((1, 1, 8, 1), 8, 61, Kernel("xla")),
    "splash": ((1, 1, 8, 1), 8, 384, SPLASH),
    "splash, parts that are no whole tiles": ((1, 1, 8, 1), 8, 304, SPLASH),
    "splash, tokens that do not divide": ((1, 1, 8, 1), 8, 301, SPLASH),
    "splash, ring of groups": ((1, 2, 4, 1), 4, 301, SPLASH),
}


def case(sizes, heads, tokens, kernel) -> dict[str, object]:
    """Self- and cross-attention on the mesh against the same on one device."""
    rng = np.random.default_rng(0)
    shapes = {"q": (2, tokens, heads, 16), "text": (2, 11, heads, 16)}
    q, k, v = (jnp.asarray(rng.normal(size=shapes["q"]), jnp.float32) for _ in range(3))
    text_k, text_v = (jnp.asarray(rng.normal(size=shapes["text"]), jnp.float32) for _ in range(2))
    lengths = jnp.array([max(tokens - 5, 1), tokens // 2])
    mesh = jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 4)

    def all_three(q, k, v, text_k, text_v):
        return (
            attention(q, k, v, kernel, keys="shared"),
            attention(q, k, v, kernel, keys="shared", lengths=lengths),
            attention(q, text_k, text_v, kernel),
        )

    expected = all_three(q, k, v, text_k, text_v)
    by_tokens = NamedSharding(mesh, PartitionSpec(None, ("fsdp", "context")))
    if tokens % (sizes[1] * sizes[2]) == 0:
        q, k, v = (jax.device_put(x, by_tokens) for x in (q, k, v))
    with jax.set_mesh(mesh):
        program = jax.jit(all_three).lower(q, k, v, text_k, text_v).compile()
        result = program(q, k, v, text_k, text_v)
    errors = [float(jnp.abs(a - b).max()) for a, b in zip(result, expected, strict=True)]
    moved = re.findall(r" (all-to-all|collective-permute|all-gather)\(", program.as_text())
    divides = tokens % (sizes[1] * sizes[2]) == 0
    return {"errors": errors, "collectives": sorted(set(moved)), "divides": divides}


def main() -> None:
    print(json.dumps({name: case(*arguments) for name, arguments in CASES.items()}))


if __name__ == "__main__":
    main()
