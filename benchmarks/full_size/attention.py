"""The device's own attention kernel against chunked float32, at full length; prints JSON.

python benchmarks/full_size/attention.py 75600
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from wanjax.models.attention import attention
from wanjax.models.kernels.choose import DeviceKind, Kernel, KernelChoice
from wanjax.models.kernels.run import attend, resolve
from wanjax.pipeline.record import environment

HEADS, DIM = 40, 128  # of the 14B models
HEADS_AT_ONCE = 4  # in float32: all of them at once would not fit


def main() -> None:
    print(json.dumps(measure(int(sys.argv[1]))))


def measure(tokens: int) -> dict[str, Any]:
    device = jax.devices()[0]
    accelerated = device.platform != "cpu"
    heads, dtype = (HEADS, "bfloat16") if accelerated else (HEADS_AT_ONCE, "float32")
    choice = KernelChoice(DeviceKind.of(device), "auto")
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(key, (1, tokens, heads, DIM), jnp.float32) for key in keys)
    q, k, v = (x.astype(dtype) for x in (q, k, v))
    run = jax.jit(lambda q, k, v: attention(q, k, v, choice))
    out = jax.block_until_ready(run(q, k, v))
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        jax.block_until_ready(run(q, k, v))
        seconds.append(time.perf_counter() - began)
    taken = statistics.median(seconds)
    return {
        "tokens": tokens,
        "heads": heads,
        "dim": DIM,
        "dtype": dtype,
        "kernel": resolve(choice, q, k).name,
        "seconds": taken,
        "flops_per_second": 4 * tokens**2 * heads * DIM / taken,
        "error": error(out, q, k, v),
    } | environment()


def error(out: Array, q: Array, k: Array, v: Array) -> float:
    """Largest difference from chunked float32 over its largest value, some heads at a time."""
    chunked = Kernel("chunked")

    @jax.jit
    def worst(out: Array, q: Array, k: Array, v: Array) -> tuple[Array, Array]:
        q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
        with jax.default_matmul_precision("highest"):
            exact = attend(q, k, v, None, chunked)
        return jnp.abs(out.astype(jnp.float32) - exact).max(), jnp.abs(exact).max()

    found = []
    for first in range(0, q.shape[2], HEADS_AT_ONCE):
        part = slice(first, first + HEADS_AT_ONCE)
        found.append(worst(*(x[:, :, part] for x in (out, q, k, v))))
    differences, largest = zip(*found, strict=True)
    return float(max(map(float, differences)) / max(map(float, largest)))


if __name__ == "__main__":
    main()
