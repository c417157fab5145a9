"""Wan 2.1 / 2.2 video generation in JAX, with step caching.

JAX is imported with the first name that needs it, so that `wanjax plan` answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wanjax.caching import CFGCache, Curve, MagCache, Plan, SenCache
    from wanjax.errors import CheckpointError, UsageError
    from wanjax.pipeline.pipeline import WanPipeline
    from wanjax.pipeline.video import Video

    __version__: str

_HOME = {
    "CFGCache": "wanjax.caching",
    "CheckpointError": "wanjax.errors",
    "Curve": "wanjax.caching",
    "MagCache": "wanjax.caching",
    "Plan": "wanjax.caching",
    "SenCache": "wanjax.caching",
    "UsageError": "wanjax.errors",
    "Video": "wanjax.pipeline.video",
    "WanPipeline": "wanjax.pipeline.pipeline",
}

__all__ = [
    "CFGCache",
    "CheckpointError",
    "Curve",
    "MagCache",
    "Plan",
    "SenCache",
    "UsageError",
    "Video",
    "WanPipeline",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # slow to import

        return version("wanjax")
    if name not in _HOME:
        raise AttributeError(f"module 'wanjax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
