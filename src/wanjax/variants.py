"""Several configurations from one command line."""

from __future__ import annotations

import re
from collections.abc import Sequence

from wanjax.config import Config, resolve
from wanjax.errors import UsageError

_COMMA = re.compile(r",(?![^\[]*\])")  # commas in a [list] do not separate


def resolve_variants(args: Sequence[str], command: str) -> dict[str, Config]:
    """The configurations that `variants=` names, or the one of `args` under the name "".

    `variants="A:key=value,key=value;B:..."`: each is the rest of the command line with these
    keys over it; a part without `=` replaces the preset; a name alone is the rest as it is.
    """
    rest = [arg for arg in args if not arg.startswith("variants=")]
    if len(rest) == len(args):
        return {"": resolve(args, command)}
    text = next(arg for arg in args if arg.startswith("variants=")).partition("=")[2]
    found: dict[str, Config] = {}
    for part in filter(str.strip, text.split(";")):
        name, _, changes = (piece.strip() for piece in part.partition(":"))
        if not name or "=" in name or name in found:
            raise UsageError(f"variants={text}: each needs a name of its own, as in {_EXAMPLE}")
        changed = [change.strip() for change in _COMMA.split(changes) if change.strip()]
        try:
            found[name] = resolve(_override(rest, changed), command)
        except UsageError as error:
            raise UsageError(f"variant {name}: {error}") from error
    if not found:
        raise UsageError(f"variants is empty; name some, as in {_EXAMPLE}")
    return found


_EXAMPLE = 'variants="K2:magcache_K=2;K4:magcache_K=4"'


def _override(args: Sequence[str], changes: Sequence[str]) -> list[str]:
    """`args` with `changes` in place of the same keys; the preset, if any, comes first."""
    merged = {_key(arg): arg for arg in args} | {_key(change): change for change in changes}
    return sorted(merged.values(), key=lambda arg: "=" in arg)


def _key(arg: str) -> str:
    return arg.partition("=")[0] if "=" in arg else ""
