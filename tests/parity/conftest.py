"""Comparisons with the reference implementation; without it nothing here is collected."""

import importlib.util

import pytest

if importlib.util.find_spec("torch"):
    import torch

    torch.set_num_threads(1)  # two OpenMP threads on two cores can spin against each other


@pytest.fixture(autouse=True, scope="module")
def optimised():
    """Compare what users run: programs that XLA optimises, as it does not in other tests."""
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # programs of other tests are not optimised
    yield
    jax.config.update("jax_disable_most_optimizations", before)
    jax.clear_caches()
