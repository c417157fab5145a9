"""Wan 2.1 / 2.2 video generation in JAX, with step caching.

JAX is imported with the first name that needs it, so that `wanjax plan` answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wanjax.caching import CFGCache, Curve, MagCache, Plan, SenCache
    from wanjax.errors import CheckpointError, UsageError
    from wanjax.parallel.hosts import initialize_distributed
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
    "initialize_distributed": "wanjax.parallel.hosts",
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
    "initialize_distributed",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # slow to import

        return version("wanjax")
    if name.startswith("_"):
        raise AttributeError(f"module 'wanjax' has no attribute {name!r}")
    home = importlib.import_module(_HOME.get(name, "wanjax.caching"))  # which has any method
    try:
        return getattr(home, name)
    except AttributeError:
        raise AttributeError(f"module 'wanjax' has no attribute {name!r}") from None


def __dir__() -> list[str]:
    from wanjax.caching import METHODS

    return sorted({*__all__, *(method.__name__ for method in METHODS.values())})
