"""Several configurations from one command line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from wanjax.caching import METHODS
from wanjax.config.keys import Config, active_methods, keys
from wanjax.config.resolve import arguments, resolve
from wanjax.errors import UsageError
from wanjax.planning.run import Run, prepare

DENSE, FEWER_STEPS = "dense", "fewer-steps"

_NAME = re.compile(r"\w[\w.+-]*")  # it also names a folder
_COMMA = re.compile(r",(?![^\[]*\])")  # commas in a [list] do not separate
_EXAMPLE = 'variants="dense,magcache,mine:use_magcache=True;magcache_K=4"'


def resolve_variants(
    args: Sequence[str],
    command: str,
    default: str = "",
    values: Mapping[str, Any] | None = None,
    prepared: Callable[[Config], Run] = prepare,
) -> dict[str, Config]:
    """The configurations that `variants=` names, or the one of `args` under the name "".

    `variants="NAME,NAME:key=value;key=value,..."`: each is the rest of the command line with
    its keys over it; a part without `=` replaces the preset. Without a colon the name says
    what it is: `dense`, a caching method, or `fewer-steps`, dense with as many steps as cost
    what the first cached variant does. `default` is taken where `variants=` is missing.
    `values` are keys from Python, which a variant's own come over; `prepared` plans what
    `fewer-steps` has to know.
    """
    values, args = dict(values or {}), arguments(args)
    rest = [arg for arg in args if not arg.startswith("variants=")]
    text = next((arg.partition("=")[2] for arg in args if arg not in rest), default)
    if len(rest) == len(args) and not default:
        return {"": resolve(args, command, values)}
    found: dict[str, Config] = {}
    for part in map(str.strip, _COMMA.split(text)):
        name, colon, changes = (piece.strip() for piece in part.partition(":"))
        if not _NAME.fullmatch(name) or name in found:
            raise UsageError(f"variants={text}: each needs a name of its own, as in {_EXAMPLE}")
        changed = _split(changes) if colon else _built_in(name)
        try:
            changed = arguments(changed)
            shared = {k: v for k, v in values.items() if k not in map(_key, changed)}
            found[name] = resolve(_override(rest, changed), command, shared)
        except UsageError as error:
            raise UsageError(f"variant {name}: {error}") from error
    if FEWER_STEPS in found and f"{FEWER_STEPS}:" not in text:
        found[FEWER_STEPS] = _fewer_steps(found, prepared)
    return found


def like(configs: Mapping[str, Config]) -> str | None:
    """The variant whose cost `fewer-steps` takes: the first cached one."""
    return next((name for name, config in configs.items() if active_methods(config)), None)


def same_cost(plan: Mapping[str, Any]) -> int:
    """How many dense steps evaluate as many blocks as `plan` (a `Plan.to_dict()`) does."""
    steps: int = round(plan["steps"] / plan["ideal_speedup"])
    return max(1, steps)


def changes(base: Config, config: Config) -> str:
    """The keys in which `config` differs from `base`, as they are written."""
    pairs = {name: (getattr(base, name), getattr(config, name)) for name in keys()}
    return " ".join(f"{name}={value}" for name, (other, value) in pairs.items() if value != other)


def _built_in(name: str) -> list[str]:
    """The changes that a name without a colon stands for."""
    known = (DENSE, FEWER_STEPS, *METHODS)
    if name not in known:
        raise UsageError(
            f"variants: {name} is none of {', '.join(known)}; one of your own has a colon and "
            f"its keys, as in {_EXAMPLE}"
        )
    return [f"use_{method}={method == name}" for method in METHODS]


def _fewer_steps(found: Mapping[str, Config], prepared: Callable[[Config], Run]) -> Config:
    cached = like(found)
    if cached is None:
        raise UsageError(
            f"variants: {FEWER_STEPS} has the cost of the first cached variant, and there is "
            f"none; name one, as in {_EXAMPLE}"
        )
    steps = same_cost(prepared(found[cached]).plan.to_dict())
    return replace(found[FEWER_STEPS], num_inference_steps=steps)


def _split(changes: str) -> list[str]:
    return [change.strip() for change in changes.split(";") if change.strip()]


def _override(args: Sequence[str], changes: Sequence[str]) -> list[str]:
    """`args` with `changes` in place of the same keys; the preset, if any, comes first."""
    merged = {_key(arg): arg for arg in args} | {_key(change): change for change in changes}
    return sorted(merged.values(), key=lambda arg: "=" in arg)


def _key(arg: str) -> str:
    return arg.partition("=")[0] if "=" in arg else ""
