"""What the page's slider can set of each caching method."""

from __future__ import annotations

from dataclasses import dataclass

from wanjax.caching import METHODS
from wanjax.caching.method import keys_of
from wanjax.config.keys import Config, active_methods

DENSE = "none"  # as the API's field `cache` has it


@dataclass(frozen=True)
class Dial:
    """A key that a slider sets, from `low` to `high`; it begins at `start`."""

    key: str
    label: str
    low: float
    high: float
    step: float
    start: float


_DIALS = {
    dial.key: dial
    for dial in (
        Dial("target_speedup", "target speedup", 1.0, 4.0, 0.05, 2.0),
        Dial("magcache_thresh", "threshold of the error", 0.0, 0.3, 0.005, 0.04),
        Dial("easycache_thresh", "threshold of the change", 0.005, 0.3, 0.005, 0.06),
        Dial("sen_cache_epsilon", "threshold of the change", 0.01, 0.5, 0.01, 0.1),
        Dial("cfg_cache_interval", "steps from whole to whole", 2, 20, 1, 5),
    )
}
_INSTEAD = ("target_speedup", "skip_steps")  # where one is given a threshold does not count


def method_names() -> list[str]:
    """Those whose slider says how fast first."""
    rated = {name: "target_speedup" in keys_of(method).values() for name, method in METHODS.items()}
    return [DENSE, *sorted(METHODS, key=lambda name: not rated[name])]


def dials_of(method: str) -> list[Dial]:
    """The first is the one to begin with; none for a dense run, or a method of somebody else's."""
    if method == DENSE:
        return []
    keys = keys_of(METHODS[method]).values()
    return [dial for key, dial in _DIALS.items() if key in keys]


def chosen(config: Config) -> tuple[str, Dial | None, float]:
    """The method of a configuration, with the dial that it has set and its value."""
    methods = active_methods(config)
    if not methods:
        return DENSE, None, 0.0
    dials = dials_of(methods[0].name)
    given = [dial for dial in dials if getattr(config, dial.key) is not None]
    if not given:
        dial = dials[0] if dials else None
        return methods[0].name, dial, dial.start if dial else 0.0
    return methods[0].name, given[0], float(getattr(config, given[0].key))


def settings(dial: Dial, value: float, config: Config) -> dict[str, float | None]:
    """The fields of a request in which the slider has that value, on a server of `config`."""
    own: float = int(value) if isinstance(dial.start, int) else value
    others = [key for key in _INSTEAD if key != dial.key and getattr(config, key, None) is not None]
    return dict.fromkeys(others) | {dial.key: own}
