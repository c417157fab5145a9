"""The grammar of a command line, which forgives; its one strict form is `key=value`.

    wanjax generate "a red ball" tiny-t2v --seed 3 use_magcache
    wanjax generate prompt="a red ball" tiny-t2v seed=3 use_magcache=True

A position may be a preset's name, a file of settings (.yml, the .json record of a video, or the
.mp4 or .webm itself), a Hub id or folder of a model, a switch that is to be on, or the prompt in
quotes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence

from wanjax.config.keys import keys, unknown
from wanjax.config.saved import SUFFIXES
from wanjax.errors import UsageError
from wanjax.settings import called, nearest

_PAIR = re.compile(r"([A-Za-z_][\w-]*)=(.*)", re.DOTALL)
_SWITCHED = ("true", "false", "yes", "no", "on", "off")


def canonical(args: Sequence[str], presets: Collection[str]) -> list[str]:
    """The same arguments with the preset or file (if any) first, then `key=value` each.

    Canonical arguments stay as they are. Raises `UsageError` for what cannot be understood.
    """
    named: list[str] = []
    pairs: list[str] = []
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        if arg.startswith("--"):
            pairs.append(_option(arg, rest))
        elif _PAIR.fullmatch(arg):
            name, _, value = arg.partition("=")
            pairs.append(f"{name.replace('-', '_')}={value}")
        elif arg in presets or arg.lower().endswith(SUFFIXES):
            named.append(arg)
        else:
            pairs.append(_position(arg, presets))
    if len(named) > 1:
        raise UsageError(f"two presets or files: {' and '.join(named)}; name one")
    return [*named, *pairs]


def _option(arg: str, rest: list[str]) -> str:
    """`--key value`, `--key=value`, `--switch` and `--no-switch`; takes the value off `rest`."""
    name, equals, value = arg[2:].partition("=")
    name = name.replace("-", "_")
    if equals:
        return f"{name}={value}"
    if name.startswith("no_") and _is_switch(name[3:]):
        return f"{name[3:]}=False"
    if _is_switch(name):
        given = bool(rest) and rest[0].lower() in _SWITCHED
        return f"{name}={rest.pop(0) if given else True}"
    if rest and not rest[0].startswith("--"):
        return f"{name}={rest.pop(0)}"
    if name in keys():
        raise UsageError(f"{arg}: its value is missing, as in {arg} VALUE or {name}=VALUE")
    raise UsageError(unknown(name))


def _position(arg: str, presets: Collection[str]) -> str:
    """The `key=value` that an argument without a key stands for."""
    if not arg.strip():
        raise UsageError("an argument is empty: leave it out")
    if any(space in arg for space in " \n\t") or arg == "-" or arg.startswith("@"):
        return f"prompt={arg}"
    if _is_switch(arg):
        return f"{arg}=True"
    if "/" in arg or os.path.isdir(arg):
        return f"model={arg}"
    if arg.startswith("-"):
        raise UsageError(f"{arg}: settings are written key=value or --key value")
    if arg in keys():
        raise UsageError(f"{arg}: its value is missing, as in {arg}=VALUE")
    near_key = nearest(arg, keys(), 0.75) and not nearest(arg, presets, 0.75)
    if called(arg, keys()) or near_key:
        raise UsageError(unknown(arg))
    begun = [name for name in presets if arg.lower() in name]
    hint = f"; did you mean {' or '.join(begun)}?" if begun else nearest(arg, presets)
    raise UsageError(
        f"unknown preset {arg}{hint}; presets: {', '.join(presets)}. A prompt stands in quotes, "
        f'as in "a red ball"; one of a single word is prompt={arg}'
    )


def _is_switch(name: str) -> bool:
    field = keys().get(name)
    return field is not None and isinstance(field.default, bool)
