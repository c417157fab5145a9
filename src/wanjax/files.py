"""Files written whole or not at all, texts read only from regular files of bounded size, names
that can be names, and JSON: one line per key, read back without guessing."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from wanjax.errors import UsageError

TEXT = 2**20  # bytes of a text that people write: prompts, settings
JSON = 2**26  # and of JSON, which programs write
_partial: set[Path] = set()  # what this process is writing
_STEM = 180  # characters of a name that its partial file's name repeats
_NAME = 4000  # bytes; Linux allows 4096
Value = TypeVar("Value")


@contextmanager
def atomic_path(path: str | Path, *, moved: bool = True) -> Iterator[Path]:
    """A path to write to, which becomes `path` if nothing goes wrong and is removed if it does.

    What a process that was killed has left of `path` is removed, too. Not `moved`: a folder
    whose content the caller moves.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(path)
    unique = f"{platform.node()[:32]}-{os.getpid()}-{secrets.token_hex(4)}"  # threads, too
    partial = path.with_name(f".{path.stem[:_STEM]}.{unique}.partial{path.suffix}")
    _partial.add(partial)
    try:
        yield partial
        if moved:
            partial.replace(path)
    finally:
        _remove(partial)
        _partial.discard(partial)


def remove_partial() -> None:
    """Remove what this process is writing: it is about to end."""
    for path in tuple(_partial):
        _remove(path)


def without_home(value: Value) -> Value:
    """Text with `~` for the home folder, whose name says whose it is; of lists and objects, each.

    For what others may read: a record, a report, a server's log.
    """
    made: Any = value
    if isinstance(value, str):
        for home in {os.path.expanduser("~"), os.path.realpath(os.path.expanduser("~"))}:
            if len(home) > 1:
                made = re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", "~", made)
    elif isinstance(value, Mapping):
        made = {without_home(name): without_home(item) for name, item in value.items()}
    elif isinstance(value, list | tuple):
        items = map(without_home, value)
        made = list(items) if isinstance(value, list) else tuple(items)
    return cast(Value, made)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _remove_left(path: Path) -> None:
    """Remove what a process that was killed has left beside `path`."""
    begin = re.escape(f".{path.stem[:_STEM]}.{platform.node()[:32]}-")
    left = re.compile(begin + r"(\d+)-\w+\.partial" + re.escape(path.suffix))
    for other in path.parent.iterdir():
        found = left.fullmatch(other.name)
        if found and not _is_alive(int(found[1])):
            _remove(other)


def _is_alive(process: int) -> bool:
    if sys.platform == "win32":  # where the same call would end the process
        return True
    try:
        os.kill(process, 0)  # asks alone
    except ProcessLookupError:
        return False
    except OSError:  # of somebody else
        return True
    return True


def fault_in_text(text: str, *, prose: bool = False) -> str:
    """What makes `text` no text that a setting can have, or nothing.

    `prose`, such as a prompt, may have line ends and tabs.
    """
    allowed = "\n\r\t" if prose else ""
    odd = next((c for c in text if (ord(c) < 32 and c not in allowed) or 0x7F <= ord(c) < 0xA0), "")
    if odd:
        return f"has a control character ({odd!r}): leave it out"
    if any(0xD800 <= ord(c) < 0xE000 for c in text):
        return "is no Unicode: write it in UTF-8"
    return ""


def fault_in_name(name: str) -> str:
    """What makes `name` the name of no file, or nothing."""
    if not name.strip():
        return "is empty: name a file or a folder"
    if len(os.fsencode(name)) > _NAME or any(len(os.fsencode(p)) > 255 for p in name.split(os.sep)):
        return "is too long for the name of a file: shorten it"
    try:
        os.stat(os.path.join(Path(name).expanduser(), "."))  # of a folder: and into it
    except RuntimeError:
        return f"there is no user {name.split(os.sep)[0].removeprefix('~')} with a home folder"
    except PermissionError:
        return "this user may not look there"
    except OSError:  # not there, or odd in a way that is said where the file is opened
        return ""
    return ""


def require_writable(path: str | Path, what: str) -> None:
    """Raise `UsageError` where no file `path` could be written; missing folders would be made.

    Called before anything that takes long. `what` is what the user gave, as `output=a.mp4`.
    """
    try:
        # resolved: `new/../../proc/a.mp4` lies in /proc once `new` is made
        parent = Path(os.path.realpath(Path(path).expanduser().parent))
        folder = next(each for each in (parent, *parent.parents) if os.path.lexists(each))
        if not folder.is_dir():
            raise UsageError(f"{what}: {folder} is a file, no folder")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(
            f"{what}: nothing can be written to {folder} ({reason}); name another folder"
        ) from error


def require_regular(path: Path, error: type[UsageError], where: str = "") -> None:
    """Raise `error` where `path` is no regular file: reading a pipe or a device may never end."""
    where = where or str(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        what = "a link to nothing" if path.is_symlink() else "no such file"
        raise error(f"{where}: {what}") from None
    except (OSError, ValueError) as found:  # links in a circle, a name with a NUL
        raise error(f"{where} cannot be read: {_reason(found)}") from found
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a device or a socket"
        raise error(f"{where} cannot be read: it is {kind}, no file")


def read_text(
    path: str | Path, error: type[UsageError] = UsageError, *, largest: int = TEXT
) -> str:
    """The text of a regular file in UTF-8, with or without a byte order mark, `~` known.

    Raises `error` where it is none, or has more than `largest` bytes.
    """
    path = Path(path).expanduser()
    require_regular(path, error)
    try:
        if (size := path.stat().st_size) > largest:
            raise error(f"{path} has {size:,} bytes, more than the {largest:,} that are read")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as found:
        raise error(f"{path} is no text in UTF-8: {found.reason}, byte {found.start}") from found
    except OSError as found:
        raise error(f"{path} cannot be read: {_reason(found)}") from found


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


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
    text = read_text(path, error, largest=JSON)
    try:
        content = parse_json(text)
    except (ValueError, RecursionError) as found:
        raise error(f"{path} is cut short or not valid JSON: {found}") from found
    if not isinstance(content, dict):
        raise error(f"{path} holds a {type(content).__name__}, expected an object")
    return content


def parse_json(text: str) -> Any:
    """Raises `ValueError` for what is no JSON, for a key that comes twice and for a number that is
    not finite, `RecursionError` for what is too deep."""
    return json.loads(
        text, object_pairs_hook=_without_duplicates, parse_float=_finite, parse_constant=_finite
    )


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
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{twice} is given twice")
    return content


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number
