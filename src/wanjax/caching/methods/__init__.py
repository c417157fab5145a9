"""The caching methods: every module here that defines one makes it known by being here."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import MutableMapping

from wanjax.caching.method import Method

METHODS: MutableMapping[str, type[Method]] = {}


def register(method: type[Method]) -> type[Method]:
    """Make a method known: to the configuration under `use_NAME` and its own keys, to `cache=`.

    A decorator for methods that are defined elsewhere; those in this folder need none.
    """
    METHODS[method.name] = method
    return method


def _discover() -> None:
    for module in pkgutil.iter_modules(__path__):
        found = importlib.import_module(f"{__name__}.{module.name}")
        for value in vars(found).values():
            defined = isinstance(value, type) and value.__module__ == found.__name__
            if defined and issubclass(value, Method):
                register(value)


_discover()
