"""What is in a model's files, in a few bytes: their content, whatever their names. No JAX."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from wanjax.checkpoints.containers import CONTAINERS

_WHOLE = 2**26  # bytes of a file that is read whole
_SAMPLES, _SAMPLE = 64, 2**14  # and how many parts of how many bytes are read of a larger one
_READ = {*CONTAINERS, ".json", ".model", ".txt"}


def digest_of(places: Iterable[Path]) -> str:
    """Of files, and of what is read of models' folders: weights, configurations, tokenizers."""
    facts = [
        (file.relative_to(place).as_posix(), content_digest(file))
        for place in places
        for file in _files(place)
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _files(place: Path) -> Iterator[Path]:
    if place.is_file():
        yield place
        return
    for file in sorted(place.rglob("*")):
        if file.suffix in _READ and file.is_file():
            yield file


def content_digest(file: Path) -> str:
    """SHA-256 of a file's bytes; of a large one of its size, the time of its last change, its
    beginning, its end and parts between, evenly spread."""
    status = file.stat()
    return _digest(file, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@functools.lru_cache(maxsize=4096)
def _digest(file: Path, size: int, changed: int, _: int) -> str:
    with file.open("rb") as stream:
        if size <= _WHOLE:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        found = hashlib.sha256(f"{size} {changed}".encode())
        for part in range(_SAMPLES):
            stream.seek(max(0, size - _SAMPLE) * part // (_SAMPLES - 1))
            found.update(stream.read(_SAMPLE))
        return found.hexdigest()
