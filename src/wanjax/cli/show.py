"""
print every key with its value, what is allowed, and a line of help

usage: wanjax show [PRESET|FILE.yml] [KEY ...] [key=value ...]

  wanjax show wan2.2-t2v-a14b
  wanjax show flow_shift use_magcache          # these alone, in full
  wanjax show wan2.2-i2v-a14b flow_shift
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from wanjax.cli.text import print_table
from wanjax.config.keys import Config, config_class, groups, keys
from wanjax.config.resolve import resolve
from wanjax.settings import describe


def run(args: Sequence[str]) -> None:
    named = [word for arg in args if (word := arg.replace("-", "_")) in keys()]
    config = resolve([arg for arg in args if arg.replace("-", "_") not in keys()], "show")
    if named:
        print("\n\n".join(_in_full(config, keys()[name]) for name in named))
        return
    rows: list[tuple[str, str, str]] = []
    for title, fields in groups().items():
        rows += [("",) * 3] * bool(rows) + [(title, "", "")]
        rows += [_row(config, field) for field in fields.values()]
    print_table(("key", "value", "what it means"), rows, wrapped=("value", "what it means"))


def _row(config: Config, field: dataclasses.Field[Any]) -> tuple[str, str, str]:
    allowed, only = describe(config_class(), field), field.metadata["commands"]
    where = f"; {', '.join(only)} alone" if only else ""
    return field.name, _value(config, field), f"{field.metadata['help']} ({allowed}{where})"


def _in_full(config: Config, field: dataclasses.Field[Any]) -> str:
    """All that is declared of one key."""
    facts = {
        "means": field.metadata["help"],
        "value": f"{_value(config, field)} ({config.preset or config.model})",
        "allowed": describe(config_class(), field),
        "commands": ", ".join(field.metadata["commands"]),
        "elsewhere": ", ".join(field.metadata["also"]),
    }
    lines = [f"  {name:10} {fact}" for name, fact in facts.items() if fact]
    return "\n".join([field.name, *lines])


def _value(config: Config, field: dataclasses.Field[Any]) -> str:
    return json.dumps(getattr(config, field.name), ensure_ascii=False)
