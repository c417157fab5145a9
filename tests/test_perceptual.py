"""LPIPS where it is at hand, and a note with the fix where it is not."""

import importlib.machinery
import sys
import types

import numpy as np
import pytest

from wanjax.evaluate import perceptual


@pytest.fixture
def package(monkeypatch):
    """A stand-in for `jaxlpips` that returns the mean difference, in the package's shape."""
    module = types.ModuleType("jaxlpips")
    module.__spec__ = importlib.machinery.ModuleSpec("jaxlpips", None)
    module.LPIPS = lambda network: lambda a, b: np.abs(a - b).mean(axis=(1, 2, 3), keepdims=True)
    monkeypatch.setitem(sys.modules, "jaxlpips", module)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "jaxlpips", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install wanjax[lpips]" in perceptual.load_lpips()


def test_without_weights(package, monkeypatch):
    monkeypatch.setattr(perceptual, "try_to_load_from_cache", lambda *file: None)
    assert "hf download tux-type/jaxlpips" in perceptual.load_lpips()


def test_at_hand(package, monkeypatch):
    monkeypatch.setattr(perceptual, "try_to_load_from_cache", lambda *file: "/cache/file")
    lpips = perceptual.load_lpips()
    black, white = (np.full((3, 16, 16, 3), value, np.float32) for value in (0, 1))
    np.testing.assert_allclose(lpips(black, white), [2, 2, 2])  # it takes frames in [-1, 1]
