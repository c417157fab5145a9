"""One process at a time works on what is kept between runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wanjax.errors import UsageError
from wanjax.parallel.hosts import from_first, is_first


@contextmanager
def only_one(lock: Path, what: str) -> Iterator[None]:
    """Hold the file `lock`, which is there as long as it is held, or until its process ends.

    Raises `UsageError` where another process, or another thread, holds it. Of several processes of
    one run the first one holds it for all.
    """
    held = _take(lock) if is_first() else None
    try:
        if not from_first(lambda: held is not None):
            raise UsageError(
                f"{what}: another process works there (it holds {lock}); wait for it, or name "
                "another output"
            )
        yield
    finally:
        if held is not None:
            lock.unlink(missing_ok=True)
            os.close(held)


def _take(lock: Path) -> int | None:
    """An open file that is held, or None."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        if not _hold(file):
            os.close(file)
            return None
        if lock.exists() and os.path.samestat(os.fstat(file), lock.stat()):
            return file
        os.close(file)  # whoever held it has removed it: what is held is no longer there


def _hold(file: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
