"""The convolutions that the recipe trains with have the gradients of the VAE's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convolutions import computed_by, fastest, last_tap

from wanjax.models import vae_layers

NEAR = 2e-5  # of the largest value, float32


def gradients(function, *arguments):
    """Value and gradients, of a sum that weighs every result differently."""

    def total(*arguments):
        y = function(*arguments)
        return jnp.sum(y * jnp.sin(jnp.arange(y.size)).reshape(y.shape))

    return jax.jit(jax.value_and_grad(total, (0, 1)))(*arguments)


def assert_near(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=NEAR * float(jnp.abs(b).max()))


@pytest.mark.parametrize("rows", [8, 24])
@pytest.mark.parametrize("taps", [1, 3])
def test_video(rows, taps):
    x = jax.random.normal(jax.random.key(0), (2, 4 + taps, rows, 20, 5))
    kernel = jax.random.normal(jax.random.key(1), (taps, 3, 3, 5, 7))
    plain = gradients(direct, x, kernel)
    with computed_by(fastest()):
        assert_near(gradients(lambda x, k: vae_layers.conv3d(x, k), x, kernel), plain)


def direct(x, kernel):
    return vae_layers._conv3d_direct(x, kernel, 1)


@pytest.mark.parametrize("stride", [1, 2])
def test_image(stride):
    x = jax.random.normal(jax.random.key(0), (3, 24, 20, 5))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 5, 7))
    padding = ((1, 1), (1, 1))

    def convolved(x, kernel):
        return vae_layers.conv2d(x, kernel, stride=stride, padding=padding)

    plain = gradients(convolved, x, kernel)
    with computed_by(fastest()):
        # another function, or the trace of the one above would be taken from JAX's cache
        assert_near(gradients(lambda x, k: convolved(x, k), x, kernel), plain)


def test_first_frame():
    """Behind zeros the last tap alone sees anything."""
    image = jax.random.normal(jax.random.key(0), (2, 1, 24, 20, 5))
    x = jnp.pad(image, ((0, 0), (2, 0), (0, 0), (0, 0), (0, 0)))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 5, 7))
    with computed_by(last_tap):
        found = vae_layers.conv3d(x, kernel)
    assert_near(found, vae_layers._conv3d_direct(x, kernel, 1))
