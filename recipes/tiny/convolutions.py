"""The VAE's convolutions as they are fastest where it is trained."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from loop import COMPUTE, least_seconds

from wanjax.models import vae_layers

Convolution = Callable[[Array, Array, int], Array]
_ONE = ((1, 1), (1, 1))
_SMALL = 16  # rows of a frame, below which XLA's own gradient is as fast on a CPU
_conv2d = vae_layers.conv2d


def last_tap(x: Array, kernel: Array, time_stride: int = 1) -> Array:
    """The 3D convolution of a single first frame: before it there are only zeros."""
    assert x.shape[1] == kernel.shape[0]
    return vae_layers.conv2d(x[:, -1], kernel[-1], padding=vae_layers._same(kernel))[:, None]


@functools.cache
def fastest() -> Convolution:
    """By taps or direct, whichever is faster with its gradients on what the VAE works on.

    On a CPU that is by taps. On a GPU it depends on cuDNN.
    """
    if jax.default_backend() == "cpu":
        return _by_taps_on_cpu
    ways = (vae_layers._conv3d_by_taps, vae_layers._conv3d_direct)
    seconds = {way: _seconds(way) for way in ways}
    for way, measured in seconds.items():
        print(f"{way.__name__}: {1000 * measured:.2f} ms", flush=True)
    return min(seconds, key=lambda way: seconds[way])


def _seconds(way: Convolution) -> float:
    """Of two layers with gradients, the best of some tries."""

    @jax.jit
    def gradient(x: Array, kernel: Array) -> tuple[Array, Array]:
        def loss(x: Array, kernel: Array) -> Array:
            y = jax.nn.silu(way(x, kernel, 1))
            y = way(jnp.pad(y, ((0, 0), (2, 0), *[(0, 0)] * 3)), kernel, 1)
            return jnp.sum(y.astype(jnp.float32) ** 2)

        return jax.grad(loss, (0, 1))(x, kernel)

    x = jnp.ones((16, 11, 64, 64, 16), COMPUTE)
    kernel = jnp.ones((3, 3, 3, 16, 16), COMPUTE)
    try:
        return least_seconds(lambda: gradient(x, kernel))
    except jax.errors.JaxRuntimeError as error:  # cuDNN has not every form
        print(f"{way.__name__}: {str(error).splitlines()[0]}", flush=True)
        return float("inf")


def _by_taps_on_cpu(x: Array, kernel: Array, time_stride: int = 1) -> Array:
    """By taps, with the kernel's gradient from products of matrices where frames are large.

    2 cores, float32, both gradients: 16 channels 73 against 51 GFLOP/s, 32 channels 110 against 72.
    """
    if time_stride == 1 and _is_large(x.shape[2], kernel):
        return _video(x, kernel)
    return vae_layers._conv3d_by_taps(x, kernel, time_stride)


def _is_large(rows: int, kernel: Array) -> bool:
    return rows >= _SMALL and kernel.shape[-4:-2] == (3, 3)


@jax.custom_vjp
def _video(
    x: Float[Array, "b t h w in"], kernel: Float[Array, "kt 3 3 in out"]
) -> Float[Array, "b t2 h w out"]:
    return vae_layers._conv3d_by_taps(x, kernel, 1)


@jax.custom_vjp
def _image(
    x: Float[Array, "n h w in"], kernel: Float[Array, "3 3 in out"]
) -> Float[Array, "n h w out"]:
    return _conv2d(x, kernel, padding=_ONE)


def _video_back(kept: tuple[Array, Array], change: Array) -> tuple[Array, Array]:
    x, kernel = kept
    _, of_input = jax.vjp(lambda x: vae_layers._conv3d_by_taps(x, kernel, 1), x)
    return of_input(change)[0], _of_kernel(x, change, kernel.shape[0])


def _image_back(kept: tuple[Array, Array], change: Array) -> tuple[Array, Array]:
    x, kernel = kept
    _, of_input = jax.vjp(lambda x: _conv2d(x, kernel, padding=_ONE), x)
    return of_input(change)[0], _of_kernel(x[:, None], change[:, None], 1)[0]


_video.defvjp(lambda x, kernel: (_video(x, kernel), (x, kernel)), _video_back)
_image.defvjp(lambda x, kernel: (_image(x, kernel), (x, kernel)), _image_back)


def _of_kernel(
    x: Float[Array, "b t h w in"], change: Float[Array, "b t2 h w out"], taps: int
) -> Float[Array, "{taps} 3 3 in out"]:
    """The kernel's gradient, frame by frame: a frame's nine shifts times the changes of the
    `taps` results that it is part of. So little stays in a core's cache."""
    _, frames, height, width, inputs = x.shape
    outputs = change.shape[-1]
    x = jnp.pad(x, ((0, 0), (0, 0), *_ONE, (0, 0))).reshape(-1, height + 2, width + 2, inputs)
    change = jnp.pad(change, ((0, 0), (taps - 1, taps - 1), *[(0, 0)] * 3))
    parts = [change[:, taps - 1 - tap :][:, :frames] for tap in range(taps)]
    changes = jnp.stack(parts, axis=-2).reshape(-1, height * width, taps * outputs)

    def add(total: Array, frame: tuple[Array, Array]) -> tuple[Array, None]:
        image, change = frame
        shifts = [image[i : i + height, j : j + width] for i in range(3) for j in range(3)]
        columns = jnp.concatenate(shifts, axis=-1).reshape(-1, 9 * inputs)
        return total + columns.T @ change, None

    start = jnp.zeros((9 * inputs, taps * outputs), x.dtype)
    total, _ = jax.lax.scan(add, start, (x, changes), unroll=4)
    return total.reshape(3, 3, inputs, taps, outputs).transpose(3, 0, 1, 2, 4)


@contextmanager
def computed_by(way: Convolution) -> Iterator[None]:
    """A context in which the VAE is traced with `way`."""

    def conv3d(x: Array, kernel: Array, *, time_stride: int = 1) -> Array:
        return way(x, kernel, time_stride)

    def conv2d(
        x: Array, kernel: Array, *, stride: int = 1, padding: vae_layers.Pads = _ONE
    ) -> Array:
        on_cpu = jax.default_backend() == "cpu"
        if on_cpu and stride == 1 and padding == _ONE and _is_large(x.shape[1], kernel):
            return _image(x, kernel)
        return _conv2d(x, kernel, stride=stride, padding=padding)

    with (
        mock.patch.object(vae_layers, "conv3d", conv3d),
        mock.patch.object(vae_layers, "conv2d", conv2d),
    ):
        yield
