"""Sets of prompts, and of images that go with them, for calibrating and comparing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wanjax.errors import UsageError
from wanjax.files import read_text, without_home
from wanjax.media.examples import is_example
from wanjax.validation import named

_BUNDLED = Path(__file__).parents[1] / "tiny"


@dataclass(frozen=True)
class Prompt:
    """A text and, for image to video, the file of its first frame."""

    text: str
    image: str | None = None


def load_prompts(path: str | Path) -> list[Prompt]:
    """One prompt a line; `image.png | prompt` for image to video, the file relative to ours.

    A line that begins with | has no image, whatever its text contains.

    Empty lines and lines that start with # do not count. Raises `UsageError`.
    """
    path = Path(path).expanduser()
    with named("prompts"):
        lines = read_text(path).splitlines()
    found = [
        _parse(line, path.parent) for line in lines if line.strip() and not line.startswith("#")
    ]
    if not found:
        raise UsageError(f"prompts={path} holds no prompt: write one a line")
    return found


def as_lines(prompts: Sequence[Prompt]) -> str:
    """The content of a file that `load_prompts` reads as `prompts`; the home folder is `~`."""
    return "".join(f"{_absolute(p.image) if p.image else ''} | {p.text}\n" for p in prompts)


def default_prompts(preset: str | None) -> list[Prompt]:
    """The set that comes with a bundled model. Raises `UsageError` for other models."""
    path = _BUNDLED / f"{preset}-prompts.txt"
    if not path.exists():
        raise UsageError(
            f"prompts is missing: {preset or 'this model'} has no set of its own; give "
            "prompts=FILE, a text file with one prompt a line"
        )
    return load_prompts(path)


def _parse(line: str, folder: Path) -> Prompt:
    image, bar, text = line.partition("|")
    if not bar:
        return Prompt(line.strip())
    image = image.strip()
    if not image or is_example(image):
        return Prompt(text.strip(), image or None)
    return Prompt(text.strip(), str(folder / Path(image).expanduser()))


def _absolute(image: str) -> str:
    return image if is_example(image) else without_home(str(Path(image).resolve()))
