"""Python's garbage collector, which has nothing to find while modules are imported."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_OURS = ContextVar("whether the process is the command's own", default=False)


def own_process() -> None:
    """From now on what is imported is taken to stay until the process ends."""
    _OURS.set(True)


@contextmanager
def at_rest() -> Iterator[None]:
    """It would look through a million objects again and again, a sixth of a short run's time.

    In the command's own process not later either: elsewhere others' garbage is among them.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if _OURS.get():
            gc.freeze()
        if enabled:
            gc.enable()
