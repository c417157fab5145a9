"""Files written whole or not at all, and JSON: one line per key, read back without guessing."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wanjax.errors import UsageError


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


def read_json(path: Path, error: type[UsageError]) -> dict[str, Any]:
    """The JSON object of a file.

    Raises `error` naming the file where it cannot be read or holds no object, and where a key
    comes twice or a number is not finite, which JSON's own reader takes.
    """
    try:
        content = json.loads(
            path.read_text(encoding="utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_float=_finite,
            parse_constant=_finite,
        )
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except OSError as found:
        raise error(f"{path} cannot be read: {found.strerror}") from found
    except (ValueError, RecursionError) as found:
        raise error(f"{path} is cut short or not valid JSON: {found}") from found
    if not isinstance(content, dict):
        raise error(f"{path} holds a {type(content).__name__}, expected an object")
    return content


def read_own(path: Path, name: str, version: int, error: type[UsageError]) -> dict[str, Any]:
    """What a file of one of our own formats holds besides `format` and `version`."""
    content = read_json(path, error)
    if (given := content.pop("format", None)) != name:
        raise error(f"{path}: format={given!r}: must be {name!r}")
    if (given := content.pop("version", None)) != version:
        raise error(f"{path}: version={given!r} is not known; this release reads {version}")
    return content


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice} is given twice")
    return content


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number
