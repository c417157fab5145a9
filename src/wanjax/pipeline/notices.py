"""What is seen in a prompt and its pictures that may be meant otherwise; one warning each."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence

from PIL import Image

from wanjax.config.keys import Config
from wanjax.errors import notify
from wanjax.media.images import resize_and_crop
from wanjax.media.tokenizer import Tokenizer, prompt_clean
from wanjax.tiny.sight import WORLD, about_prompt, is_drawing

_LEAST_CUT = 0.05  # of a side; rounding the size to whole patches costs less
_SHOWN = 60  # characters of a prompt


def notice(
    config: Config,
    prompts: Sequence[str],
    pictures: Sequence[Image.Image],
    tokenizer: Tokenizer | None,
) -> None:
    """Warn (`Notice`) of prompts and pictures that the model will not take as they are.

    Prompts need the `tokenizer`.
    """
    for text in seen(config, prompts, pictures, tokenizer):
        notify(text, stacklevel=_outside())


def seen(
    config: Config,
    prompts: Sequence[str],
    pictures: Sequence[Image.Image],
    tokenizer: Tokenizer | None,
) -> list[str]:
    """The texts of these warnings."""
    found: list[str] = []
    for prompt in prompts:
        assert tokenizer is not None
        found += _of_prompt(config, prompt, tokenizer)
    for picture in pictures:
        found += _of_picture(config, picture)
    return list(dict.fromkeys(found))


def _outside() -> int:
    """How far up the stack, seen from `notice`, is what called this package."""
    frame, levels, package = inspect.currentframe(), 0, 0
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("wanjax."):
            package = levels
        frame, levels = frame.f_back, levels + 1
    return package + 1


def _of_prompt(config: Config, prompt: str, tokenizer: Tokenizer) -> Iterator[str]:
    cleaned = prompt_clean(prompt)
    shown = f'"{cleaned[:_SHOWN]}{"..." * (len(cleaned) > _SHOWN)}"'
    room = config.max_sequence_length - 1  # the last token is the end's
    tokens, unseen = tokenizer.beyond(cleaned, room)
    if unseen:
        yield (
            f"{shown} has {tokens} tokens, and max_sequence_length={config.max_sequence_length} "
            f'leaves room for {room}: the model does not see "{unseen}"; shorten it'
        )
    about = about_prompt(cleaned, tokenizer.words) if _is_bundled(config) else None
    if about:
        yield f"{shown}: {about}"


def _of_picture(config: Config, picture: Image.Image) -> Iterator[str]:
    height, width = config.height, config.width
    if _is_bundled(config) and not is_drawing(resize_and_crop(picture, height, width)):
        yield (
            "this picture is outside the bundled model's world, which is drawn: "
            f"{WORLD}; image=example:red-ball is such a one"
        )
    ratio = (picture.width / picture.height) / (width / height)
    cut = 1 - min(ratio, 1 / ratio)
    if cut > _LEAST_CUT:
        side = "left and right" if ratio > 1 else "top and bottom"
        mend = (
            "the model was trained on squares: cut it yourself to choose what is seen"
            if _is_bundled(config)
            else "leave height and width out to have the picture's own shape"
        )
        yield (
            f"the picture is {picture.width}x{picture.height}, the video {width}x{height}: "
            f"{cut:.0%} of it is cut away, at {side}; {mend}"
        )


def _is_bundled(config: Config) -> bool:
    return str(config.model).startswith("wanjax/tiny/")
