"""The experts that the recipe trains are the package's own, computed otherwise."""

import jax
import jax.numpy as jnp
import numpy as np
import products
import pytest
from flax import nnx
from optax.contrib import _muon
from train_experts import SMALL, Z, frame_losses

from wanjax.models.configs import TransformerConfig
from wanjax.models.transformer import WanTransformer

CONFIG = TransformerConfig(in_channels=Z, **SMALL | {"num_layers": 2})
pytestmark = pytest.mark.slow


def gradient() -> dict[str, np.ndarray]:
    """Of an expert's loss, by the kernels' and biases' paths."""
    graph, params = nnx.split(WanTransformer(CONFIG, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    x, target = (jnp.asarray(rng.normal(size=(2, Z, 2, 4, 4)), jnp.float32) for _ in range(2))
    context = jnp.asarray(rng.normal(size=(2, 8, 128)), jnp.float32)

    def loss(params):
        frames = frame_losses(nnx.merge(graph, params), x, jnp.full(2, 500.0), context, target)
        return frames.mean()

    return {
        jax.tree_util.keystr(path): np.asarray(value)
        for path, value in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params))
    }


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return gradient()


@pytest.mark.parametrize(("by_half", "error"), [(False, 1e-4), (True, 0.03)])
def test_gradients_are_those_of_the_package(monkeypatch, expected, by_half, error):
    """Layer by layer they are the same; with eight bits in a factor's digits nearly so."""
    monkeypatch.setattr(products, "half_is_faster", lambda: by_half)
    with products.fastest():
        found = gradient()
    assert expected.keys() == found.keys()
    for path, value in expected.items():
        assert np.linalg.norm(found[path] - value) <= error * np.linalg.norm(value) + 1e-7, path


def test_the_package_is_as_before_afterwards(monkeypatch, expected):
    monkeypatch.setattr(products, "half_is_faster", lambda: True)
    with products.fastest():
        pass
    assert all(np.array_equal(value, expected[path]) for path, value in gradient().items())


def test_muon_makes_matrices_as_orthogonal(monkeypatch):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 64, 96)), jnp.float32)
    coeffs = jnp.array([3.4445, -4.7750, 2.0315])
    muon_dims = _muon.MuonDimensionNumbers(1, 2)

    def lengths() -> np.ndarray:
        y = _muon.orthogonalize_via_newton_schulz(x, coeffs, dimension_numbers=muon_dims)
        return np.linalg.svd(np.asarray(y), compute_uv=False)

    expected = lengths()
    monkeypatch.setattr(products, "half_is_faster", lambda: True)
    with products.fastest():
        found = lengths()
    assert not np.array_equal(found, expected)  # otherwise the other way was not taken
    np.testing.assert_allclose(found, expected, atol=0.05)
