"""Files written whole or not at all, and JSON for people and programs: one line per key."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` if nothing goes wrong and is removed if it does."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def json_text(content: Mapping[str, Any]) -> str:
    """JSON with a line per key, long lists included."""
    lines = [f"  {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in content.items()]
    return "{\n" + ",\n".join(lines) + "\n}"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `json_text(content)` in one move, so that no reader sees half a file."""
    with atomic_path(path) as partial:
        partial.write_text(json_text(content) + "\n", encoding="utf-8")
