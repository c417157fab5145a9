"""Wan 2.1 / 2.2 video generation in JAX, with step caching.

Quick start: the bundled model needs no download and no accelerator.

    import wanjax

    pipe = wanjax.WanPipeline.from_pretrained("tiny-t2v")       # a preset, folder or Hub id
    video = pipe("a red ball moving right", seed=0)             # in a notebook it shows itself
    video.save("ball.mp4")                                      # or .webm, .webp, .gif, frames/

Skip the steps that do not pay, by a method or a plan of your own:

    pipe("a red ball moving right", cache=wanjax.MagCache(thresh=0.04))
    pipe("a red ball moving right", cache="forecast")
    pipe("a red ball moving right", num_inference_steps=8,
         cache=wanjax.Plan.from_strip("###.#.##"))

See what a run would do, without a model:

    wanjax.MagCache(mag_ratios_base="tiny-t2v").plan(wanjax.schedule("tiny-t2v"))

The same on the command line: `wanjax generate`, `wanjax plan`, `wanjax compare`,
`wanjax --help`. Documentation: docs/ in the repository; `help(wanjax.WanPipeline.__call__)` has
every argument of a call.
"""

# JAX is imported with the first name that needs it, so that `wanjax plan` answers at once.

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wanjax.caching import CFGCache, Curve, MagCache, Plan, Schedule, SenCache, make_plan
    from wanjax.errors import CheckpointError, UsageError
    from wanjax.parallel.hosts import initialize_distributed
    from wanjax.pipeline.pipeline import WanPipeline
    from wanjax.pipeline.video import Video
    from wanjax.planning.schedule import make_schedule, schedule

    __version__: str

_HOME = {
    "CFGCache": "wanjax.caching",
    "CheckpointError": "wanjax.errors",
    "Curve": "wanjax.caching",
    "MagCache": "wanjax.caching",
    "Plan": "wanjax.caching",
    "Schedule": "wanjax.caching",
    "SenCache": "wanjax.caching",
    "UsageError": "wanjax.errors",
    "Video": "wanjax.pipeline.video",
    "WanPipeline": "wanjax.pipeline.pipeline",
    "initialize_distributed": "wanjax.parallel.hosts",
    "make_plan": "wanjax.caching",
    "make_schedule": "wanjax.planning.schedule",
    "schedule": "wanjax.planning.schedule",
}

__all__ = [
    "CFGCache",
    "CheckpointError",
    "Curve",
    "MagCache",
    "Plan",
    "Schedule",
    "SenCache",
    "UsageError",
    "Video",
    "WanPipeline",
    "__version__",
    "initialize_distributed",
    "make_plan",
    "make_schedule",
    "schedule",
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
