"""Pictures that are at hand: `image=example:red-ball` is a file of the package."""

from __future__ import annotations

import hashlib
from pathlib import Path

from wanjax.errors import UsageError

_FOLDER = Path(__file__).parents[1] / "tiny/examples"
_PREFIX = "example:"


def is_example(name: str) -> bool:
    return name.startswith(_PREFIX)


def picture_path(name: str | Path) -> Path:
    """The file that `name` stands for. Raises `UsageError` for an example that is none."""
    if not is_example(str(name)):
        return Path(name).expanduser()
    path = _FOLDER / f"{str(name).removeprefix(_PREFIX)}.png"
    if not path.is_file():
        known = ", ".join(f"{_PREFIX}{file.stem}" for file in sorted(_FOLDER.glob("*.png")))
        raise UsageError(f"image={name}: no such picture; those at hand: {known}")
    return path


def picture_digest(name: str | Path) -> str:
    """SHA-256 of that file: a name alone does not say what is in it."""
    return hashlib.sha256(picture_path(name).read_bytes()).hexdigest()
