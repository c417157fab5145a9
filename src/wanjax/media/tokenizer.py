"""Prompts to token ids, as the published models were trained."""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import ftfy
import numpy as np
import tokenizers
from jaxtyping import Int
from pydantic import BeforeValidator

from wanjax.errors import TOKENIZER_HELP, CheckpointError, UsageError
from wanjax.files import atomic_path, read_json
from wanjax.media.sentencepiece import FILE, pieces_in, tokenizer_of
from wanjax.validation import FromJSON, checked, named


def prompt_clean(text: str) -> str:
    """Mend broken Unicode, resolve HTML entities (also doubly escaped), squeeze whitespace.

    `ftfy` also turns curly quotes straight and full-width punctuation into ASCII.
    """
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return re.sub(r"\s+", " ", text).strip()


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


_Token = Annotated[str, BeforeValidator(_content)]


@checked(CheckpointError)
class _Config(FromJSON):
    """What is read of `tokenizer_config.json`; tokens are text, or objects around it."""

    pad_token: _Token = "<pad>"
    eos_token: _Token = "</s>"


_SPACE = "\u2581"  # how a piece says that a word begins


class Tokenizer:
    """The fast tokenizer of a folder (`tokenizer.json`; `tokenizer_config.json` if there).

    Without one, that of SentencePiece's `spiece.model`, in the folder, as the file itself, or in
    a text encoder's safetensors.

    Raises `CheckpointError` where a file is missing or cannot be read, and where its vocabulary
    lacks the padding or end-of-sequence token.
    """

    def __init__(self, folder: str | Path):
        place = Path(folder)
        place = place.parent if place.name == "tokenizer.json" else place
        self._tokenizer, where = _read_tokenizer(place)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        config = _read_config(place / "tokenizer_config.json")
        self.pad_id = self._token_id("pad_token", config.pad_token, where)
        self.eos_id = self._token_id("eos_token", config.eos_token, where)

    def __call__(
        self, prompts: Sequence[str], max_sequence_length: int
    ) -> tuple[Int[np.ndarray, "batch length"], Int[np.ndarray, "batch length"]]:
        """Token ids and mask (1 on tokens, 0 on padding), both int32.

        Each row is the prompt's tokens, cut to leave room for one end-of-sequence token,
        that token, then padding up to `max_sequence_length`.
        """
        if isinstance(prompts, str):
            raise UsageError(f"prompts is the string {prompts!r}; give a list: [{prompts!r}]")
        if max_sequence_length < 1:
            raise UsageError(
                f"max_sequence_length={max_sequence_length}: must be at least 1, "
                "for the end-of-sequence token"
            )
        ids = np.full((len(prompts), max_sequence_length), self.pad_id, np.int32)
        mask = np.zeros_like(ids)
        encodings = self._tokenizer.encode_batch(list(prompts), add_special_tokens=False)
        for row, encoding in enumerate(encodings):
            tokens = [*encoding.ids[: max_sequence_length - 1], self.eos_id]
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        return ids, mask

    @property
    def largest_id(self) -> int:
        return max(self._tokenizer.get_vocab().values(), default=-1)

    @functools.cached_property
    def words(self) -> frozenset[str]:
        """The whole words of the vocabulary, in small letters."""
        pieces = (piece.removeprefix(_SPACE).lower() for piece in self._tokenizer.get_vocab())
        return frozenset(piece for piece in pieces if len(piece) > 1 or piece == "a")

    def beyond(self, prompt: str, room: int) -> tuple[int, str]:
        """How many tokens a prompt has, and its text from the first one without room on."""
        encoding = self._tokenizer.encode(prompt, add_special_tokens=False)
        tokens = len(encoding.ids)
        return tokens, prompt[encoding.offsets[room][0] :].strip() if tokens > room else ""

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`."""
        with atomic_path(folder / "tokenizer.json") as partial:
            self._tokenizer.save(str(partial))

    def _token_id(self, key: str, token: str, where: Path) -> int:
        index = self._tokenizer.token_to_id(token)
        if index is None:
            raise CheckpointError(
                f"{key} is {token!r}, which is not in the vocabulary of "
                f"{where}: the tokenizer's files do not belong together"
            )
        return index


def _read_tokenizer(place: Path) -> tuple[tokenizers.Tokenizer, Path]:
    """And the file that it is from."""
    path = place / "tokenizer.json"
    if not path.is_file():
        pieces = pieces_in(place)
        if pieces is not None:
            file = place / FILE if place.is_dir() else place
            return tokenizer_of(pieces, str(file)), file
        raise CheckpointError(f"{path} is missing, and there is no {FILE}: {TOKENIZER_HELP}")
    try:
        return tokenizers.Tokenizer.from_file(str(path)), path
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(
            f"{path} cannot be read as a tokenizer ({error}); it may be cut off or a Git LFS "
            "pointer: download it again"
        ) from error


def _read_config(path: Path) -> _Config:
    if not path.is_file():
        return _Config()
    with named(path):
        return _Config.from_dict(read_json(path, CheckpointError))
