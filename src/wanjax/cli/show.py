"""
print every key with its value, what is allowed, and a line of help

usage: wanjax show [PRESET|FILE.yml] [key=value ...]

  wanjax show wan2.2-t2v-a14b
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from wanjax.cli.text import print_table
from wanjax.config.keys import KEYS, Config
from wanjax.config.resolve import resolve
from wanjax.config.values import describe


def run(args: Sequence[str]) -> None:
    config = resolve(args, "show")
    rows = []
    for name, field in KEYS.items():
        if not field.metadata["commands"]:
            value = json.dumps(getattr(config, name), ensure_ascii=False)
            rows.append((name, value, f"{field.metadata['help']} ({describe(Config, field)})"))
    print_table(("key", "value", "what it means"), rows, wrapped=("value", "what it means"))
