"""That the comparisons are of the programs which users run."""

import os

import jax
import pytest

pytestmark = pytest.mark.parity


def test_xla_optimises():
    """The other tests ask it not to, to be fast; so do these two settings."""
    assert not jax.config.read("jax_disable_most_optimizations")
    assert "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", "")
