"""Every key of the configuration: those of a run, of the server and of the caching methods.

Each is declared once, in `run_keys`, `server_keys` or its method's own file.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

from wanjax.caching import METHODS, Method
from wanjax.caching.method import configured, settings_of
from wanjax.config.run_keys import PARTS, RunKeys
from wanjax.config.server_keys import ServerKeys
from wanjax.settings import kinds_of, meant, setting


@dataclass(frozen=True, kw_only=True)
class Config(ServerKeys, RunKeys):
    """Every key with its type, default (where no preset or folder says otherwise) and help."""

    def __repr__(self) -> str:
        """What is not as the keys' defaults have it; all of it would fill a screen."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        own = [f"{n}={v!r}" for n, v in values.items() if v != keys()[n].default]
        return f"Config({', '.join(own)})"

    @property
    def num_experts(self) -> int:
        return 1 if self.boundary_ratio is None else 2

    @property
    def parts(self) -> dict[str, Path]:
        """Where parts lie that are not the model's own."""
        given = {name: getattr(self, name) for name in PARTS}
        return {name: Path(value).expanduser() for name, value in given.items() if value}


def keys() -> Mapping[str, dataclasses.Field[Any]]:
    """Every key by name, and those that the caching methods declare."""
    return {field.name: field for field in dataclasses.fields(config_class())}


def config_class() -> type[Config]:
    """`Config` with a switch `use_NAME` for each caching method, and the keys of its settings."""
    return _with_methods(tuple(METHODS.values()))


@functools.cache
def _with_methods(methods: tuple[type[Method], ...]) -> type[Config]:
    fields: dict[str, tuple[Any, Any]] = {}
    for method in methods:
        title = None if fields else "Step caching"  # above the first
        switch = setting(False, method.help, group=title, also=("cache", "caching", "use_cache"))
        fields[f"use_{method.name}"] = (bool, switch)
        for field in settings_of(method):  # of a key that methods share the first one's
            kind: Any = Union[kinds_of(method, field)]  # noqa: UP007 (made at run time)
            key = dataclasses.field(default=field.default, metadata=field.metadata)
            fields.setdefault(field.metadata["key"], (kind, key))
    triples = [(name, *typed) for name, typed in fields.items()]
    return dataclasses.make_dataclass(
        "Config",
        triples,
        bases=(Config,),
        namespace={"__module__": __name__},
        repr=False,
        frozen=True,
        kw_only=True,
    )


def with_steps(config: Config, count: int) -> Config:
    """As many steps at the sampler's own noise levels."""
    return dataclasses.replace(config, num_inference_steps=count, timesteps=None)


def groups() -> Mapping[str, Mapping[str, dataclasses.Field[Any]]]:
    """The keys under the titles that they declare."""
    found: dict[str, dict[str, dataclasses.Field[Any]]] = {}
    title = ""
    for name, field in keys().items():
        title = field.metadata["group"] or title
        found.setdefault(title, {})[name] = field
    return found


def unknown(name: str) -> str:
    """What to say of a key that is none."""
    return f"unknown key {name}{meant(name, keys())}"


def active_methods(config: Config) -> list[type[Method]]:
    """The caching methods that are switched on."""
    # a method that was registered after the configuration was made is off there
    return [method for name, method in METHODS.items() if getattr(config, f"use_{name}", False)]


def method_of(config: Config) -> Method | None:
    """The caching method that is switched on, with its settings."""
    for method in active_methods(config):
        return method(**configured(method, config))
    return None
