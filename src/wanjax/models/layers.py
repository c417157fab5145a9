"""Building blocks shared by all models.

Every parameter is declared once, by `param`, with its shape, initialiser and
logical axes. Abstract shapes, shardings, checkpoint names and real arrays all
derive from that declaration (see `wanjax.parallel.sharding` and `wanjax.checkpoints`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int8, UInt8

Axes = Sequence[str | None]
Module = TypeVar("Module", bound=nnx.Module)
Carry = TypeVar("Carry")
Result = TypeVar("Result")

_lecun = nnx.initializers.lecun_normal()


class Undrawn(nnx.Rngs):
    """In place of random numbers: parameters are shapes and dtypes alone.

    As under `nnx.eval_shape`, which traces every initialiser and takes ten times as long.
    """


def param(
    rngs: nnx.Rngs,
    shape: Sequence[int],
    axes: Axes,
    init: Callable[..., Array] = _lecun,
    *,
    keep_float32: bool = False,
) -> nnx.Param[Array]:
    """Declare one parameter.

    `axes` names each dimension ("embed", "mlp", "heads", ...; None is never
    sharded). `keep_float32` marks parameters which the reference keeps in float32
    when the rest of the model is loaded in bfloat16.
    """
    if len(axes) != len(shape):
        raise ValueError(f"shape {tuple(shape)} has {len(shape)} dimensions, axes name {len(axes)}")
    value: Any = jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
    if not isinstance(rngs, Undrawn):
        value = init(rngs.params(), tuple(shape), jnp.float32)
    return nnx.Param(value, axes=tuple(axes), keep_float32=keep_float32)


class LowRank(nnx.Module):
    """A change of a linear layer's kernel that is kept apart: `down @ diag(strength) @ up`.

    `strength` has a number for each rank, so that several changes stand side by side.
    """

    def __init__(self, in_features: int, out_features: int, rank: int, axes: Axes, rngs: nnx.Rngs):
        zeros = nnx.initializers.zeros
        self.down = param(rngs, (in_features, rank), (axes[0], None))
        self.up = param(rngs, (rank, out_features), (None, axes[1]), zeros)
        self.strength = param(rngs, (rank,), (None,), zeros, keep_float32=True)

    def __call__(self, x: Float[Array, "*batch in"]) -> Float[Array, "*batch out"]:
        y = (x @ self.down[...].astype(x.dtype)).astype(jnp.float32) * self.strength[...]
        return y.astype(x.dtype) @ self.up[...].astype(x.dtype)


class Linear(nnx.Module):
    """`y = x @ kernel + bias`, computed in the dtype of `x`; `lora` changes the kernel.

    A kernel in eight bits or fewer has a `scale` [blocks of inputs, outputs] that it is multiplied
    by, and may have an `offset` of that shape. It is widened here, and thus one layer at a time.

    One of four bits is [inputs / 2, outputs] bytes: an input of the first half of its block in the
    lower bits, one of the second above, 8 added to each. (Of arrays of JAX's int4 XLA makes a copy
    for a GPU, transposed, of all layers.)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        axes: Axes,
        use_bias: bool = True,
        keep_float32: bool = False,
        rngs: nnx.Rngs,
    ):
        self.in_features = in_features
        shape = (in_features, out_features)
        self.kernel = param(rngs, shape, axes, keep_float32=keep_float32)
        zeros = nnx.initializers.zeros
        self.bias = nnx.data(
            param(rngs, shape[1:], axes[1:], zeros, keep_float32=keep_float32) if use_bias else None
        )
        self.scale: nnx.Param[Array] | None = nnx.data(None)
        self.offset: nnx.Param[Array] | None = nnx.data(None)
        self.lora: LowRank | None = nnx.data(None)

    def __call__(self, x: Float[Array, "*batch in"]) -> Float[Array, "*batch out"]:
        y = self._product(x)
        if self.lora is not None:
            y = y + self.lora(x)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)

    def _product(self, x: Float[Array, "*batch in"]) -> Float[Array, "*batch out"]:
        kernel = self.kernel[...]
        if self.scale is None:
            return x @ kernel.astype(x.dtype)
        scale, packed = self.scale[...].astype(jnp.float32), kernel.dtype == jnp.uint8
        if len(scale) == 1 and self.offset is None and not packed:  # the fewer outputs, then
            return ((x @ kernel.astype(x.dtype)).astype(jnp.float32) * scale[0]).astype(x.dtype)
        blocks = kernel.reshape(len(scale), -1, kernel.shape[1])
        blocks = (unpacked(blocks) if packed else blocks).astype(jnp.float32) * scale[:, None]
        if self.offset is not None:
            blocks = blocks + self.offset[...].astype(jnp.float32)[:, None]
        return x @ blocks.reshape(-1, kernel.shape[1]).astype(x.dtype)


def unpacked(blocks: UInt8[Array, "blocks half out"]) -> Int8[Array, "blocks 2*half out"]:
    """Whole numbers from -8 to 7, of which two are in a byte."""
    halves = jnp.concatenate([blocks & 15, blocks >> 4], axis=1)
    return halves.astype(jnp.int8) - 8


class LayerNorm(nnx.Module):
    """Layer norm over the last axis in float32; result has the dtype of `x`."""

    def __init__(self, features: int, *, eps: float, rngs: nnx.Rngs):
        self.eps = eps
        ones, zeros = nnx.initializers.ones, nnx.initializers.zeros
        self.scale = param(rngs, (features,), (None,), ones, keep_float32=True)
        self.bias = param(rngs, (features,), (None,), zeros, keep_float32=True)

    def __call__(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
        return (layer_norm(x, self.eps) * self.scale[...] + self.bias[...]).astype(x.dtype)


class RMSNorm(nnx.Module):
    """`x / rms(x) * weight` over the last axis in float32; result has the dtype of `x`."""

    def __init__(self, features: int, *, eps: float, axes: Axes = (None,), rngs: nnx.Rngs):
        self.eps = eps
        self.weight = param(rngs, (features,), axes, nnx.initializers.ones)

    def __call__(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
        return (y * self.weight[...].astype(jnp.float32)).astype(x.dtype)


def layer_norm(x: Float[Array, "*batch features"], eps: float) -> Float[Array, "*batch features"]:
    """Layer norm without parameters, returned in float32."""
    y = x.astype(jnp.float32)
    y = y - jnp.mean(y, axis=-1, keepdims=True)
    return y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)


def gelu_tanh(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=True)


def stack(make: Callable[[nnx.Rngs], Module], length: int, rngs: nnx.Rngs) -> Module:
    """`length` equal modules as one whose parameters have a leading layer axis."""
    if isinstance(rngs, Undrawn):
        graph, one = nnx.split(make(rngs))
        stacked = jax.tree.map(lambda x: jax.ShapeDtypeStruct((length, *x.shape), x.dtype), one)
        return nnx.merge(graph, stacked)

    @nnx.split_rngs(splits=length)
    @nnx.vmap(in_axes=0, out_axes=0)
    def build(rngs: nnx.Rngs) -> Module:
        return make(rngs)

    return build(rngs)


def scan_layers(
    layers: nnx.Module, body: Callable[[Any, Carry, Any], Carry], carry: Carry, inputs: Any = None
) -> Carry:
    """Run `carry = body(layer, carry, inputs of the layer)` over stacked layers.

    `inputs` have a leading layer axis. Compiled once for any depth.
    """
    graph, state = nnx.split(layers)

    def step(carry: Carry, layer: tuple[Any, Any]) -> tuple[Carry, None]:
        layer_state, layer_inputs = layer
        return body(nnx.merge(graph, layer_state), carry, layer_inputs), None

    return jax.lax.scan(step, carry, (state, inputs))[0]


def map_layers(layers: nnx.Module, function: Callable[[Any], Result]) -> Result:
    """`function(layer)` of each stacked layer, with a leading layer axis."""
    graph, state = nnx.split(layers)
    results: Result = jax.lax.map(lambda layer: function(nnx.merge(graph, layer)), state)
    return results


def logical_axes(variable: nnx.Variable[Array]) -> tuple[str | None, ...]:
    """Axes of a declared parameter, with the leading "layers" axis if it is stacked."""
    axes: tuple[str | None, ...] = tuple(variable.get_metadata("axes"))
    return ("layers",) * (variable.get_value().ndim - len(axes)) + axes
