"""Causal layers of the Wan VAE, channels last: `[batch, time, height, width, channels]`.

Every layer that looks back in time takes its left context from a `Past`: zeros before
the first frame, the kept tail of earlier frames afterwards. A whole sequence is one
chunk with nothing before it, so there is one network for both ways of running it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wanjax.models.attention import AttentionKernel, attention
from wanjax.models.layers import param
from wanjax.models.vae_stripes import Layer, window_rows

Cache = tuple[Array, ...]
Pads = tuple[tuple[int, int], tuple[int, int]]


class Past:
    """What the causal layers remember of earlier chunks, in the order in which they run.

    `Past(None)` stands before the first frame. After a pass, `cache()` is what the next
    chunk needs; its size does not depend on the number of frames seen.
    """

    def __init__(self, cache: Cache | None):
        self.first = cache is None
        self._tails: Iterator[Array] = iter(cache or ())
        self._kept: list[Array] = []

    def prepend(
        self,
        x: Float[Array, "b t h w c"],
        frames: int,
        initial: Float[Array, "b {frames} h w c"] | None = None,
    ) -> Float[Array, "b {frames}+t h w c"]:
        """`x` with its `frames` predecessors; before the first frame `initial`, or zeros."""
        if not self.first:
            left = next(self._tails)
        elif initial is not None:
            left = initial
        else:
            left = jnp.zeros((x.shape[0], frames, *x.shape[2:]), x.dtype)
        x = jnp.concatenate([left, x], axis=1)
        self._kept.append(x[:, x.shape[1] - frames :])
        return x

    def cache(self) -> Cache:
        return tuple(self._kept)


@dataclass(frozen=True)
class Stripe:
    """Rows `first` to `first + height` of a frame whose latents have `of` rows."""

    first: int | Array
    height: int
    of: int

    @classmethod
    def whole(cls, of: int) -> Stripe:
        return cls(0, of, of)

    def cut(self, x: Float[Array, "b t held w c"], layer: Layer) -> Float[Array, "b t needed w c"]:
        """The rows which are needed of `layer`'s result, of those held.

        Every layer pads with zeros. That is right at the frame's own edges, and at those of
        a window inside the frame it spoils rows which no later layer needs. So that all
        stripes have the same shapes, a window never reaches over the frame's edge: it moves
        inwards.
        """
        rows = window_rows(self.height, self.of, layer.scale, layer.margin)
        if rows == x.shape[2]:
            return x
        margin = (x.shape[2] - self.height * layer.scale + 1) // 2
        held, needed = (self._start(layer.scale, m) for m in (margin, layer.margin))
        return jax.lax.dynamic_slice_in_dim(x, needed - held, rows, axis=2)

    def _start(self, scale: int, margin: int) -> Array:
        beyond = self.of * scale - window_rows(self.height, self.of, scale, margin)
        return jnp.clip(self.first * scale - margin, 0, beyond)


def conv2d(
    x: Float[Array, "n h w in"],
    kernel: Float[Array, "kh kw in out"],
    *,
    stride: int = 1,
    padding: Pads,
) -> Float[Array, "n h2 w2 out"]:
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def conv3d(
    x: Float[Array, "b t h w in"],
    kernel: Float[Array, "kt kh kw in out"],
    *,
    time_stride: int = 1,
) -> Float[Array, "b t2 h w out"]:
    """3D convolution, unpadded in time, zero padded to the same size in height and width.

    XLA's 3D convolution is slow on CPU, so there it is the sum of one 2D convolution per
    time tap. 2 cores, float32, 3x3x3, 32 channels: 137 against 21 GFLOP/s forwards, 130
    against 15 with both gradients; 96 channels: 171 against 91 and 105 against 61.
    """
    by_taps, direct = (
        functools.partial(way, time_stride=time_stride) for way in (_conv3d_by_taps, _conv3d_direct)
    )
    y: Array = jax.lax.platform_dependent(x, kernel, cpu=by_taps, default=direct)
    return y


def _same(kernel: Array) -> Pads:
    height, width = kernel.shape[-4] // 2, kernel.shape[-3] // 2
    return (height, height), (width, width)


def _conv3d_direct(x: Array, kernel: Array, time_stride: int) -> Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (time_stride, 1, 1),
        ((0, 0), *_same(kernel)),
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )


def _conv3d_by_taps(x: Array, kernel: Array, time_stride: int) -> Array:
    batch, frames = x.shape[:2]
    taps = kernel.shape[0]
    length = (frames - taps) // time_stride + 1

    def one(tap: int) -> Array:
        seen = x[:, tap : tap + (length - 1) * time_stride + 1 : time_stride]
        images = seen.reshape(batch * length, *x.shape[2:])
        return conv2d(images, kernel[tap], padding=_same(kernel))

    y = functools.reduce(jnp.add, map(one, range(taps)))
    return y.reshape(batch, length, *y.shape[1:])


class Conv(nnx.Module):
    """Kernel `[*window, in, out]` and bias of a convolution, cast to the dtype of the input."""

    def __init__(self, inputs: int, outputs: int, window: tuple[int, ...], *, rngs: nnx.Rngs):
        axes = (None,) * len(window) + ("conv_in", "conv_out")
        self.kernel = param(rngs, (*window, inputs, outputs), axes)
        self.bias = param(rngs, (outputs,), ("conv_out",), nnx.initializers.zeros)

    def cast(self, x: Array) -> tuple[Array, Array]:
        return self.kernel[...].astype(x.dtype), self.bias[...].astype(x.dtype)


class ImageConv(Conv):
    """2D convolution of each frame."""

    def __call__(
        self,
        x: Float[Array, "b t h w in"],
        *,
        stride: int = 1,
        padding: Pads = ((0, 0), (0, 0)),
    ) -> Float[Array, "b t h2 w2 out"]:
        kernel, bias = self.cast(x)
        y = conv2d(x.reshape(-1, *x.shape[2:]), kernel, stride=stride, padding=padding) + bias
        return y.reshape(*x.shape[:2], *y.shape[1:])


class CausalConv(Conv):
    """3D convolution which sees `window[0] - 1` earlier frames and no later one."""

    def __call__(self, x: Float[Array, "b t h w in"], past: Past) -> Float[Array, "b t h w out"]:
        kernel, bias = self.cast(x)
        before = kernel.shape[0] - 1
        return conv3d(past.prepend(x, before) if before else x, kernel) + bias


class ChannelNorm(nnx.Module):
    """`x / max(||x||, 1e-12) * sqrt(channels) * gamma` over channels, normalised in float32."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.gamma = param(rngs, (channels,), (None,), nnx.initializers.ones)

    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
        y = x.astype(jnp.float32)
        # the maximum is taken before the root, whose gradient at a zero vector is infinite
        square = jnp.maximum(jnp.sum(y * y, axis=-1, keepdims=True), 1e-24)
        y = (y * jax.lax.rsqrt(square)).astype(x.dtype)
        root: float = x.shape[-1] ** 0.5
        return y * root * self.gamma[...].astype(x.dtype)


class ResidualBlock(nnx.Module):
    """`conv2(silu(norm2(conv1(silu(norm1(x)))))) + shortcut(x)`."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.norm1 = ChannelNorm(inputs, rngs=rngs)
        self.conv1 = CausalConv(inputs, outputs, (3, 3, 3), rngs=rngs)
        self.norm2 = ChannelNorm(outputs, rngs=rngs)
        self.conv2 = CausalConv(outputs, outputs, (3, 3, 3), rngs=rngs)
        self.conv_shortcut = nnx.data(
            None if inputs == outputs else CausalConv(inputs, outputs, (1, 1, 1), rngs=rngs)
        )

    def __call__(self, x: Float[Array, "b t h w in"], past: Past) -> Float[Array, "b t h w out"]:
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x, past)
        x = self.conv1(jax.nn.silu(self.norm1(x)), past)
        x = self.conv2(jax.nn.silu(self.norm2(x)), past)
        return x + shortcut


class AttentionBlock(nnx.Module):
    """Self-attention with one head among the pixels of each frame, plus the input."""

    def __init__(self, channels: int, kernel: AttentionKernel, *, rngs: nnx.Rngs):
        self.kernel = kernel
        self.norm = ChannelNorm(channels, rngs=rngs)
        self.to_qkv = ImageConv(channels, 3 * channels, (1, 1), rngs=rngs)
        self.proj = ImageConv(channels, channels, (1, 1), rngs=rngs)

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        batch, frames, height, width, channels = x.shape
        qkv = self.to_qkv(self.norm(x))
        qkv = qkv.reshape(batch * frames, height * width, 1, 3 * channels)
        q, k, v = jnp.split(qkv, 3, axis=-1)
        y = attention(q, k, v, self.kernel)
        return x + self.proj(y.reshape(x.shape))


class MidBlock(nnx.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, channels: int, kernel: AttentionKernel, *, rngs: nnx.Rngs):
        self.resnets = nnx.List([ResidualBlock(channels, channels, rngs=rngs) for _ in range(2)])
        self.attentions = nnx.List([AttentionBlock(channels, kernel, rngs=rngs)])

    def __call__(self, x: Float[Array, "b t h w c"], past: Past) -> Float[Array, "b t h w c"]:
        x = self.resnets[0](x, past)
        x = self.attentions[0](x)
        return self.resnets[1](x, past)


class Downsample(nnx.Module):
    """Halves height and width, and with `temporal` 1 + 2n frames to 1 + n."""

    def __init__(self, channels: int, *, temporal: bool, rngs: nnx.Rngs):
        self.resample = ImageConv(channels, channels, (3, 3), rngs=rngs)
        self.time_conv = nnx.data(
            Conv(channels, channels, (3, 1, 1), rngs=rngs) if temporal else None
        )

    def __call__(
        self, x: Float[Array, "b t h w c"], past: Past
    ) -> Float[Array, "b t2 h//2 w//2 c"]:
        x = self.resample(x, stride=2, padding=((0, 1), (0, 1)))
        if self.time_conv is None:
            return x
        kernel, bias = self.time_conv.cast(x)

        def halve(x: Array) -> Array:
            return conv3d(x, kernel, time_stride=2) + bias

        return _behind_first_frame(x, past, 1, halve, initial=x[:, :1])


class Upsample(nnx.Module):
    """Doubles height and width, and with `temporal` 1 + n frames to 1 + 2n."""

    def __init__(self, channels: int, outputs: int, *, temporal: bool, rngs: nnx.Rngs):
        self.resample = ImageConv(channels, outputs, (3, 3), rngs=rngs)
        self.time_conv = nnx.data(
            Conv(channels, 2 * channels, (3, 1, 1), rngs=rngs) if temporal else None
        )

    def __call__(
        self, x: Float[Array, "b t h w c"], past: Past
    ) -> Float[Array, "b t2 2*h 2*w out"]:
        if self.time_conv is not None:
            kernel, bias = self.time_conv.cast(x)

            def double(x: Array) -> Array:
                y = conv3d(x, kernel) + bias
                batch, frames, height, width, _ = y.shape
                y = y.reshape(batch, frames, height, width, 2, -1)
                return jnp.moveaxis(y, 4, 2).reshape(batch, 2 * frames, height, width, -1)

            # the first frame is no context of the others: they start from two zero frames
            x = _behind_first_frame(x, past, 2, double)
        x = jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3)
        return self.resample(x, padding=((1, 1), (1, 1)))


def _behind_first_frame(
    x: Float[Array, "b t h w c"],
    past: Past,
    frames: int,
    body: Callable[[Array], Array],
    initial: Float[Array, "b {frames} h w c"] | None = None,
) -> Float[Array, "b t2 h w c"]:
    """`body` of all frames but the video's first, which passes unchanged.

    `body` sees `frames` predecessors, `initial` (or zeros) those of the second frame.
    """
    if not past.first:
        return body(past.prepend(x, frames))
    head, rest = x[:, :1], x[:, 1:]
    seen = past.prepend(rest, frames, initial)
    return jnp.concatenate([head, body(seen)], axis=1) if rest.shape[1] else head
