"""LPIPS (arXiv 1801.03924) where the package `jaxlpips` and its weights are at hand."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np
from huggingface_hub import try_to_load_from_cache
from jaxtyping import Float

Lpips = Callable[
    [Float[np.ndarray, "frames height width 3"], Float[np.ndarray, "frames height width 3"]],
    Float[np.ndarray, " frames"],
]

_WEIGHTS = "tux-type/jaxlpips"  # the published AlexNet version, as safetensors
_FILES = ("alexnet_features.safetensors", "alexnet_lpips.safetensors")


def load_lpips() -> Lpips | str:
    """LPIPS with AlexNet of frames in [0, 1], or why there is none. Fetches nothing."""
    if importlib.util.find_spec("jaxlpips") is None:
        return "LPIPS is left out: `pip install wanjax[lpips]` adds it"
    if not all(isinstance(try_to_load_from_cache(_WEIGHTS, file), str) for file in _FILES):
        return (
            "LPIPS is left out: its weights are not on this machine; "
            f"`hf download {_WEIGHTS}` fetches them once"
        )
    from jaxlpips import LPIPS

    model = LPIPS("alexnet")

    def measure(
        video: Float[np.ndarray, "frames height width 3"],
        reference: Float[np.ndarray, "frames height width 3"],
    ) -> Float[np.ndarray, " frames"]:
        pairs = zip(video, reference, strict=True)
        distances = [model(2 * a[None] - 1, 2 * b[None] - 1) for a, b in pairs]
        return np.array([float(np.asarray(d).squeeze()) for d in distances])

    return measure
