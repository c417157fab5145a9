"""The kernels that JAX has: cuDNN's fused one, and XLA's, which holds all scores at once."""

from __future__ import annotations

from typing import Literal

import jax
from jaxtyping import Array, Float, Int

from wanjax.models.kernels.choose import Kernel


def attend(
    query: Float[Array, "batch q heads dim"],
    key: Float[Array, "batch k heads dim"],
    value: Float[Array, "batch k heads dim"],
    lengths: Int[Array, " batch"] | None,
    kernel: Kernel,
) -> Float[Array, "batch q heads dim"]:
    """Attention to the first `lengths` keys of each batch entry (all, if None)."""
    implementation: Literal["cudnn", "xla"] = "cudnn" if kernel.name == "cudnn" else "xla"
    return jax.nn.dot_product_attention(
        query, key, value, key_value_seq_lengths=lengths, implementation=implementation
    )
