"""The files of each video: in a folder, or wherever fsspec can write. Nothing else is touched."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from wanjax.errors import UsageError

_ID = re.compile(r"video_[0-9a-f]{32}")
_SERVER = re.compile(r"server_[0-9a-f]{32}")
NAMES = ("video.mp4", "thumbnail.webp", "spritesheet.webp", "record.json")
PICTURES = ("image.png", "last_image.png")
_PART = 2**18  # bytes that are sent at a time


def is_id(text: str) -> bool:
    """Whether this can be a video's id: what is no id never becomes a part of a path."""
    return _ID.fullmatch(text) is not None


class Storage:
    """Files by a video's id and their name. What is being made lies in the folder `work`."""

    def __init__(self, folder: Path, url: str | None = None):
        self.work = folder / "work"
        try:
            self._system, self._root = fsspec.url_to_fs(url or str(folder / "videos"))
            self._system.makedirs(self._root, exist_ok=True)
            shutil.rmtree(self.work, ignore_errors=True)  # of a server that was killed
            self.work.mkdir(parents=True)
        except (ValueError, ImportError, OSError) as error:
            key = f"files={url}" if url else f"store={folder}"
            raise UsageError(f"{key}: nothing can be kept there: {error}") from error

    @contextmanager
    def making(self, video: str) -> Iterator[Path]:
        """A folder of this machine to work in, which is gone afterwards."""
        folder = self.work / checked(video)
        folder.mkdir(exist_ok=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, video: str, folder: Path) -> None:
        """Everything in `folder` as the video's files, each there as a whole or not at all."""
        self._system.makedirs(self._path(video), exist_ok=True)
        in_parts = isinstance(self._system, LocalFileSystem)  # buckets have whole files alone
        for file in sorted(folder.iterdir()):
            path = self._path(video, file.name)
            if in_parts:
                part = f"{path}.{secrets.token_hex(4)}"
                self._system.put_file(str(file), part)
                self._system.mv(part, path)
            else:
                self._system.put_file(str(file), path)

    def fetch(self, video: str, name: str, folder: Path) -> Path:
        """A file of the video's, in a folder of this machine."""
        local = folder / name
        self._system.get_file(self._path(video, name), str(local))
        return local

    def size(self, video: str, name: str) -> int | None:
        """Bytes of a file; None where it is not there."""
        try:
            return int(self._system.size(self._path(video, name)))
        except FileNotFoundError:
            return None

    def read(self, video: str, name: str, first: int, last: int) -> Iterator[bytes]:
        """The bytes of a file from `first` to `last`, piece by piece."""
        with self._system.open(self._path(video, name), "rb") as file:
            file.seek(first)
            left = last + 1 - first
            while left > 0 and (part := file.read(min(left, _PART))):
                left -= len(part)
                yield part

    def remove(self, video: str) -> None:
        with suppress(FileNotFoundError):  # another server may do the same
            self._system.rm(self._path(video), recursive=True)

    def announce(self, server: str) -> None:
        """Leave a server's name, for others to see that these files are theirs, too.

        Raises `UsageError` where nothing can be written.
        """
        try:
            self._system.pipe_file(self._name(server), b"")
        except OSError as error:
            raise UsageError(f"{self._root}: nothing can be kept there: {error}") from error

    def announced(self, server: str) -> bool:
        self._system.invalidate_cache()
        return bool(self._system.exists(self._name(server)))

    def withdraw(self, server: str) -> None:
        with suppress(FileNotFoundError):
            self._system.rm_file(self._name(server))

    def ids(self) -> set[str]:
        """The videos that have files."""
        self._system.invalidate_cache()
        listed: list[Any] = self._system.ls(self._root, detail=False)
        return {name for path in listed if is_id(name := str(path).rstrip("/").rpartition("/")[2])}

    def _name(self, server: str) -> str:
        if _SERVER.fullmatch(server) is None:
            raise ValueError(f"no name of a server: {server!r}")
        return f"{self._root}/{server}"

    def _path(self, video: str, name: str = "") -> str:
        assert not name or name in (*NAMES, *PICTURES)
        return f"{self._root}/{checked(video)}{f'/{name}' if name else ''}"


def checked(video: str) -> str:
    """The id, if it is one."""
    if not is_id(video):
        raise ValueError(f"no id of a video: {video!r}")
    return video
