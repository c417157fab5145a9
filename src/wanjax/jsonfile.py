"""JSON for people and programs: one line per key, files written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wanjax.files import atomic_path


def dumps(content: Mapping[str, Any]) -> str:
    """JSON with a line per key, long lists included."""
    lines = [f"  {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in content.items()]
    return "{\n" + ",\n".join(lines) + "\n}"


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write `dumps(content)` in one move, so that no reader sees half a file."""
    with atomic_path(path) as partial:
        partial.write_text(dumps(content) + "\n", encoding="utf-8")
