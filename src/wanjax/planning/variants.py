"""Several configurations from one command line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from wanjax.caching import METHODS
from wanjax.caching.method import keys_of
from wanjax.config.keys import Config, active_methods, keys, with_steps
from wanjax.config.resolve import arguments, resolve
from wanjax.errors import UsageError
from wanjax.planning.run import Run, prepare
from wanjax.planning.sweep import Sweep, read_sweeps

DENSE, FEWER_STEPS = "dense", "fewer-steps"

_NAME = re.compile(r"\w[\w.+-]*")  # it also names a folder
_COMMA = re.compile(r",(?![^\[]*\])")  # commas in a [list] do not separate
_EXAMPLE = 'variants="dense,magcache,mine:use_magcache=True;magcache_K=4"'
# What changes how the numbers come about, and the numbers by no more than rounding.
_ROUNDING = ("use_kv_cache", "batch_guidance", "low_memory", "mesh")


@dataclass(frozen=True)
class Variants:
    """Configurations by name; `fewer` is what rows of equal cost are made from, if asked for.

    `lines` are the variants of each sweep, the one that is varied first.
    """

    configs: Mapping[str, Config]
    fewer: Config | None = None
    lines: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def cached(self) -> list[str]:
        """The variants that a caching method makes cheaper."""
        return [name for name, config in self.configs.items() if active_methods(config)]

    def planned_costs(self, prepared: Callable[[Config], Run]) -> dict[str, float]:
        """The dense steps that each cached variant costs, where its plan says so ahead of time."""
        plans = {name: prepared(self.configs[name]).plan for name in self.cached()}
        return {n: cost(plan.to_dict()) for n, plan in plans.items() if plan.decisions is None}

    def with_rows(self, costs: Mapping[str, float]) -> tuple[dict[str, Config], dict[str, str]]:
        """All configurations with a row of equal cost for each of `costs`, and whose is which.

        `costs` are dense steps by cached variant; a row takes the nearest whole number, and
        variants of the same number share it. The first row is `fewer-steps`, the others
        `fewer-steps-STEPS`; they come last, the most steps first.
        """
        if self.fewer is None:
            return dict(self.configs), {}
        steps = {name: max(1, round(value)) for name, value in costs.items()}
        names: dict[int, str] = {}
        for count in steps.values():
            names.setdefault(count, f"{FEWER_STEPS}-{count}" if names else FEWER_STEPS)
        rows = {
            names[count]: with_steps(self.fewer, count) for count in sorted(names, reverse=True)
        }
        for name in set(rows) & set(self.configs):
            raise UsageError(f"variant {name}: a row of equal cost has this name; take another")
        return {**self.configs, **rows}, {name: names[count] for name, count in steps.items()}


def resolve_variants(
    args: Sequence[str],
    command: str,
    default: str = "",
    values: Mapping[str, Any] | None = None,
    prepared: Callable[[Config], Run] = prepare,
) -> dict[str, Config]:
    """As `read_variants`, with the rows of equal cost that can be told ahead of time.

    `prepared` plans what they have to know.
    """
    variants = read_variants(args, command, default, values)
    if variants.fewer is None:
        return dict(variants.configs)
    return variants.with_rows(variants.planned_costs(prepared))[0]


def read_variants(
    args: Sequence[str],
    command: str,
    default: str = "",
    values: Mapping[str, Any] | None = None,
) -> Variants:
    """The configurations that `variants=` names, or the one of `args` under the name "".

    `variants="NAME,NAME:key=value;key=value,..."`: each is the rest of the command line with
    its keys over it; a part without `=` replaces the preset. Without a colon the name says
    what it is: `dense`, a caching method, or `fewer-steps`: for every cached variant dense with
    as many steps as cost the same. `default` is taken where `variants=` is missing. `values`
    are keys from Python, which a variant's own come over.
    """
    values, args = dict(values or {}), arguments(args)
    rest = [arg for arg in args if not arg.startswith("variants=")]
    text = next((arg.partition("=")[2] for arg in args if arg not in rest), default)
    if len(rest) == len(args) and not default:
        return Variants({"": resolve(args, command, values)})
    written: dict[str, list[str]] = {}
    for part in map(str.strip, _COMMA.split(text)):
        name, colon, changed = (piece.strip() for piece in part.partition(":"))
        if not _NAME.fullmatch(name) or name in written:
            raise UsageError(f"variants={text}: each needs a name of its own, as in {_EXAMPLE}")
        written[name] = _split(changed) if colon else _built_in(name)

    def resolved(name: str, changed: Sequence[str]) -> Config:
        try:
            changed = arguments(changed)
            shared = {k: v for k, v in values.items() if k not in map(_key, changed)}
            return resolve(_override(rest, changed), command, shared)
        except UsageError as error:
            raise UsageError(f"variant {name}: {error}") from error

    found = {name: resolved(name, changed) for name, changed in written.items()}
    fewer = None if f"{FEWER_STEPS}:" in text else found.pop(FEWER_STEPS, None)
    variants = _with_sweeps(Variants(found, fewer), written, resolved)
    if fewer is not None and not variants.cached():
        raise UsageError(
            f"variants: {FEWER_STEPS} has the cost of the cached variants, and there is none; "
            f"name one, as in {_EXAMPLE}"
        )
    return variants


def _with_sweeps(
    variants: Variants,
    written: Mapping[str, Sequence[str]],
    resolved: Callable[[str, Sequence[str]], Config],
) -> Variants:
    """The points of `sweep=` after the variants that they vary, and the lines that they make.

    Every variant whose method has the key gets a line; without one, the only method that has it.
    A value that a variant has already is no further variant.
    """
    text = next(iter(variants.configs.values())).sweep
    configs, lines = dict(variants.configs), {}
    for sweep in read_sweeps(text) if text is not None else ():
        for base, changed in _swept(sweep, variants, written).items():
            points: dict[str, Config] = {}
            for short, change in sweep.changes():
                config = resolved(f"{base}-{short}", _override(changed, [change]))
                same = [name for name, other in configs.items() if other == config]
                points[same[0] if same else f"{base}-{short}"] = config
            configs |= points
            own = [base] if base in variants.configs else []
            lines[f"{base}, {sweep.key}"] = tuple(dict.fromkeys([*own, *points]))
    return replace(variants, configs=configs, lines=lines)


def _swept(
    sweep: Sweep, variants: Variants, written: Mapping[str, Sequence[str]]
) -> Mapping[str, Sequence[str]]:
    """The changes of each variant that a sweep varies."""
    active = {name: active_methods(config) for name, config in variants.configs.items()}
    having = [
        name for name, methods in active.items() if any(m.name in sweep.methods for m in methods)
    ]
    if not having and len(sweep.methods) > 1:
        raise UsageError(
            f"sweep={sweep.key}: {', '.join(sweep.methods)} have this key; say which among the "
            f"variants, as variants=dense,{sweep.methods[0]},{FEWER_STEPS}"
        )
    return {name: written[name] for name in having} or {
        sweep.methods[0]: _built_in(sweep.methods[0])
    }


def cost(plan: Mapping[str, Any]) -> float:
    """How many dense steps evaluate as many blocks as `plan` (a `Plan.to_dict()`) does."""
    return float(plan["steps"] / plan["ideal_speedup"])


def is_exact(base: Config, config: Config) -> bool:
    """Whether `config` computes what `base` does by another way: the same to rounding."""
    if active_methods(base) or active_methods(config):
        return False
    off = {key for method in METHODS.values() for key in keys_of(method).values()}
    of_run = {name for name, field in keys().items() if not field.metadata["commands"]}
    told = of_run - off - {*_ROUNDING, *(f"use_{method}" for method in METHODS), "output"}
    return all(getattr(base, name) == getattr(config, name) for name in told)


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


def _split(changes: str) -> list[str]:
    return [change.strip() for change in changes.split(";") if change.strip()]


def _override(args: Sequence[str], changes: Sequence[str]) -> list[str]:
    """`args` with `changes` in place of the same keys; the preset, if any, comes first."""
    merged = {_key(arg): arg for arg in args} | {_key(change): change for change in changes}
    return sorted(merged.values(), key=lambda arg: "=" in arg)


def _key(arg: str) -> str:
    return arg.partition("=")[0] if "=" in arg else ""
