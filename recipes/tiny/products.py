"""The experts' products of matrices as they are fastest where they are trained."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float
from loop import least_seconds
from optax.contrib import _muon

from wanjax.models import layers, transformer

HALF, FULL = jnp.bfloat16, jnp.float32


def half(a: Float[Array, "*batch n k"], b: Float[Array, "*batch2 k m"]) -> Float[Array, "..."]:
    """Factors in bfloat16, sums in float32: a unit that many processors have."""
    return jnp.matmul(a.astype(HALF), b.astype(HALF), preferred_element_type=FULL)


@jax.custom_vjp
def linear(x: Float[Array, "*batch in"], kernel: Float[Array, "in out"]) -> Float[Array, "..."]:
    """`half`, and so are its gradients' products: JAX's own would widen the factors first."""
    return half(x, kernel)


def _linear_back(kept: tuple[Array, Array], change: Array) -> tuple[Array, Array]:
    x, kernel = kept
    of_kernel = half(x.reshape(-1, x.shape[-1]).T, change.reshape(-1, change.shape[-1]))
    return half(change, kernel.T), of_kernel


linear.defvjp(
    lambda x, kernel: (half(x, kernel), (x.astype(HALF), kernel.astype(HALF))), _linear_back
)


@functools.cache
def half_is_faster() -> bool:
    """Whether this machine's CPU multiplies bfloat16 faster (Intel's since 2023: 3 to 5 times)."""
    if jax.default_backend() != "cpu":
        return False
    x, kernel = jnp.ones((2560, 512), FULL), jnp.ones((512, 192), FULL)

    def seconds(way: Callable[[Array, Array], Array]) -> float:
        product = jax.jit(way)
        return least_seconds(lambda: [product(x, kernel) for _ in range(20)])

    return seconds(half) < 0.8 * seconds(jnp.matmul)


@contextmanager
def fastest() -> Iterator[None]:
    """A context in which experts, and Muon's steps, are traced as they are fastest.

    On a CPU layer by layer: a loop copies what its gradient needs. On two cores with a unit for
    bfloat16 a step of 32 clips takes 0.69 s in place of 0.91.
    """
    with ExitStack() as stack:
        if jax.default_backend() == "cpu":
            stack.enter_context(mock.patch.object(transformer, "scan_layers", _one_by_one))
        if half_is_faster():
            stack.enter_context(mock.patch.object(layers.Linear, "_product", _product))
            stack.enter_context(mock.patch.object(_muon, "_base_ns_iterator", _newton_schulz))
        yield


def _one_by_one(blocks: nnx.Module, body: Callable[..., Any], carry: Any, inputs: Any) -> Any:
    graph, state = nnx.split(blocks)
    for i in range(len(jax.tree.leaves(state)[0])):
        of_layer, its_inputs = jax.tree.map(lambda x, i=i: x[i], (state, inputs))
        carry = body(nnx.merge(graph, of_layer), carry, its_inputs)
    return carry


def _product(layer: layers.Linear, x: Float[Array, "*batch in"]) -> Float[Array, "*batch out"]:
    return linear(x, layer.kernel[...])


def _newton_schulz(i: Any, x: Float[Array, "n m"], coeffs: Float[Array, "3"]) -> Array:
    """optax's own, whose gradient nobody takes."""
    square = half(x, x.T)
    a, b, c = coeffs
    return a * x + half(b * square + c * half(square, square), x)
