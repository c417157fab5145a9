"""Names of what is written: a video file, or a folder of frames (which ends in a slash)."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path


def is_folder(output: str | Path) -> bool:
    """Whether frames are written one by one: the name ends in a slash."""
    return str(output).endswith(("/", os.sep))


def record_of(output: str) -> Path:
    """The record beside a video: `ball.json` for `ball.mp4` and for `ball/`."""
    path = Path(output).expanduser()
    return path.with_name(f"{path.name}.json") if is_folder(output) else path.with_suffix(".json")


def numbered(output: str | Path, number: int | str) -> str:
    """`ball-1.mp4` of `ball.mp4`, `ball-1/` of `ball/`."""
    path = Path(output)
    if is_folder(output):
        return f"{path.with_name(f'{path.name}-{number}')}{os.sep}"
    return str(path.with_stem(f"{path.stem}-{number}"))


def is_taken(output: str) -> bool:
    """Whether writing there would replace a video or its record."""
    return Path(output).expanduser().exists() or record_of(output).exists()


def free(output: str) -> str:
    """`output` or, where that is taken, the first of its numbered names that is not."""
    return next(name for name in in_turn(output) if not is_taken(name))


def in_turn(output: str) -> Iterator[str]:
    """`output` and its numbered names, without end."""
    yield output
    yield from (numbered(output, n) for n in itertools.count(1))
