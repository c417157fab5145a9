"""The VAE's 3D convolution as it is fastest where it is trained."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from unittest import mock

import jax
import jax.numpy as jnp
from jaxtyping import Array
from loop import COMPUTE

from wanjax.models import vae_layers

Convolution = Callable[[Array, Array, int], Array]


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
        return vae_layers._conv3d_by_taps
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
    times = []
    for _ in range(6):
        began = time.perf_counter()
        try:
            jax.block_until_ready(gradient(x, kernel))
        except jax.errors.JaxRuntimeError as error:  # cuDNN has not every form
            print(f"{way.__name__}: {str(error).splitlines()[0]}", flush=True)
            return float("inf")
        times.append(time.perf_counter() - began)
    return min(times)


def computed_by(way: Convolution) -> mock._patch:
    """A context in which the VAE is traced with `way`."""

    def conv3d(x: Array, kernel: Array, *, time_stride: int = 1) -> Array:
        return way(x, kernel, time_stride)

    return mock.patch.object(vae_layers, "conv3d", conv3d)
