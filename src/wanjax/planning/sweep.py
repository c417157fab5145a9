"""Sweeps: one setting of a caching method over many values, `sweep=magcache_thresh:0.02..0.2`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from wanjax.caching import METHODS
from wanjax.caching.method import keys_of
from wanjax.config.keys import config_class, keys, unknown
from wanjax.errors import UsageError
from wanjax.settings import kinds_of

COUNT = 5  # values of a range that does not say
_RANGE = re.compile(r"(?P<low>[^:,]+?)\.\.(?P<high>[^:,]+)(?::(?P<count>\d+))?")
_FORMS = "KEY:LOW..HIGH, KEY:LOW..HIGH:COUNT or KEY:VALUE,VALUE, with ; between several"


@dataclass(frozen=True)
class Sweep:
    """`values` of `key` as a command line has them; each is checked once it is used."""

    key: str
    values: tuple[str, ...]

    @property
    def methods(self) -> list[str]:
        """The caching methods that have the key."""
        return [name for name, method in METHODS.items() if self.key in keys_of(method).values()]

    def changes(self) -> Iterator[tuple[str, str]]:
        """For each value what it is called in a variant's name, and the change of the key."""
        owners = [m for m in self.methods if self.key.startswith(f"{m}_")]
        short = self.key.removeprefix(f"{owners[0]}_") if owners else self.key
        for value in self.values:
            yield re.sub(r"[^\w.+-]", "_", f"{short}-{value}"), f"{self.key}={value}"


def read_sweeps(text: str) -> list[Sweep]:
    """The sweeps that `sweep=` writes. Raises `UsageError` naming the part that is wrong."""
    found: dict[str, Sweep] = {}
    for part in filter(None, map(str.strip, text.split(";"))):
        key, colon, values = (piece.strip() for piece in part.partition(":"))
        if not colon or not values:
            raise UsageError(f"sweep={part}: write {_FORMS}")
        if key not in keys():
            raise UsageError(f"sweep={part}: {unknown(key)}")
        if key in found:
            raise UsageError(f"sweep={text}: {key} is swept twice")
        found[key] = Sweep(key, _values(part, key, values))
        if not found[key].methods:
            raise UsageError(f"sweep={part}: {key} is no setting of a caching method")
    if not found:
        raise UsageError(f"sweep={text}: write {_FORMS}")
    return list(found.values())


def _values(part: str, key: str, text: str) -> tuple[str, ...]:
    range_ = _RANGE.fullmatch(text)
    if range_ is not None:
        return _spaced(part, key, **range_.groupdict())
    values = [value.strip() for value in text.split(",")]
    if ".." in text or not all(values):
        raise UsageError(f"sweep={part}: write {_FORMS}")
    return tuple(dict.fromkeys(values))


def _spaced(part: str, key: str, low: str, high: str, count: str | None) -> tuple[str, ...]:
    """Evenly spaced, both ends among them; whole numbers where the key takes no others."""
    kinds = kinds_of(config_class(), keys()[key])
    if int not in kinds and float not in kinds:
        raise UsageError(f"sweep={part}: {key} takes no numbers; write its values with commas")
    try:
        ends = float(low), float(high)
    except ValueError:
        raise UsageError(f"sweep={part}: {low}..{high} are no numbers") from None
    number = COUNT if count is None else int(count)
    if not ends[0] < ends[1] or not 2 <= number <= 100:
        raise UsageError(f"sweep={part}: LOW must be below HIGH, and COUNT between 2 and 100")
    points = np.linspace(*ends, number)
    if float not in kinds:
        points = np.round(points)
        return tuple(dict.fromkeys(f"{int(value)}" for value in points))
    return tuple(f"{value:.4g}" for value in points)
