"""SentencePiece's own files (`spiece.model`) as a fast tokenizer.

ComfyUI's text encoders carry one as the tensor `spiece_model`. Fields by their numbers in
https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto; made of them is
what transformers' `SpmConverter` makes, by which the published tokenizer.json was written.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import Unigram

from wanjax.errors import CheckpointError
from wanjax.files import require_regular

TENSOR = "spiece_model"
FILE = "spiece.model"
_LARGEST = 2**26  # bytes: UMT5's has four million
_SPACE = "\u2581"  # how a piece says that a word begins

# ModelProto, SentencePiece, TrainerSpec and NormalizerSpec
_PIECE, _TRAINER, _NORMALIZER = 1, 2, 3
_TEXT, _SCORE, _TYPE = 1, 2, 3
_MODEL_TYPE, _BYTE_FALLBACK, _UNKNOWN_ID = 3, 35, 40
_CHARACTERS = 2

_UNIGRAM = 1
_NOTHING = memoryview(b"")
_UNKNOWN, _CONTROL, _USER = 2, 3, 4  # types of pieces that stand for themselves in a text


def pieces_in(place: Path) -> bytes | None:
    """The content of a `spiece.model`: of that file, of a folder that has it, or of a text
    encoder's safetensors that carries it. None where there is none."""
    if place.suffix == ".safetensors" and place.is_file():
        return _carried(place)
    file = place / FILE if place.is_dir() else place
    if file.suffix != ".model" or not file.exists():
        return None
    require_regular(file, CheckpointError)
    if (size := file.stat().st_size) > _LARGEST:
        raise CheckpointError(f"{file} has {size:,} bytes, more than the {_LARGEST:,} allowed")
    return file.read_bytes()


def carries_pieces(file: Path) -> bool:
    """Whether a text encoder's file has its tokenizer in it; what cannot be read has not."""
    if file.suffix != ".safetensors" or not file.is_file():
        return False
    try:
        with safe_open(file, framework="np") as tensors:
            return TENSOR in tensors.keys()  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError):  # which is said where its weights are read
        return False


def tokenizer_of(content: bytes, where: str) -> Tokenizer:
    """Raises `CheckpointError` naming `where` for what is no Unigram model of SentencePiece."""
    try:
        return _made(memoryview(content))
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(
            f"{where} cannot be read as a SentencePiece model ({error or type(error).__name__}); "
            "it may be cut off: download it again, or give tokenizer=FOLDER with a tokenizer.json"
        ) from error


def _carried(file: Path) -> bytes | None:
    if not carries_pieces(file):
        return None
    with safe_open(file, framework="np") as tensors:
        size = math.prod(tensors.get_slice(TENSOR).get_shape())
        if tensors.get_slice(TENSOR).get_dtype() != "U8" or size > _LARGEST:
            raise CheckpointError(f"{file}: {TENSOR} must be bytes, at most {_LARGEST:,}")
        content: bytes = tensors.get_tensor(TENSOR).tobytes()
        return content


def _made(content: memoryview) -> Tokenizer:
    pieces: list[tuple[str, float]] = []
    added: list[AddedToken] = []
    trainer: dict[int, int | memoryview] = {}
    normalizer: dict[int, int | memoryview] = {}
    for number, value in _fields(content):
        if number == _PIECE:
            text, score, kind = _piece(_bytes(value))
            pieces.append((text, score))
            if kind in (_UNKNOWN, _CONTROL, _USER):
                added.append(AddedToken(text, normalized=False, special=kind != _USER))
        elif number == _TRAINER:
            trainer |= dict(_fields(_bytes(value)))
        elif number == _NORMALIZER:
            normalizer |= dict(_fields(_bytes(value)))
    if (model_type := trainer.get(_MODEL_TYPE, _UNIGRAM)) != _UNIGRAM:
        raise ValueError(f"model_type is {model_type}, expected 1 (Unigram)")
    if not pieces:
        raise ValueError("there are no pieces")
    unknown, bytes_too = _int(trainer.get(_UNKNOWN_ID, 0)), _int(trainer.get(_BYTE_FALLBACK, 0))
    made = Tokenizer(Unigram(pieces, unknown, bool(bytes_too)))
    made.add_tokens(added)
    made.normalizer = _normalizer(bytes(_bytes(normalizer.get(_CHARACTERS, _NOTHING))))
    made.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme="always")
    return made


def _normalizer(characters: bytes) -> normalizers.Sequence:
    mapped = [normalizers.Precompiled(characters)] if characters else []
    spaces = [normalizers.Strip(left=False), normalizers.Replace(Regex(" {2,}"), _SPACE)]
    return normalizers.Sequence([*mapped, *spaces])


def _piece(content: memoryview) -> tuple[str, float, int]:
    """Its text, score and type (1: normal)."""
    fields = dict(_fields(content))
    (score,) = struct.unpack("<f", _bytes(fields.get(_SCORE, memoryview(bytes(4)))))
    if not math.isfinite(score):
        raise ValueError(f"a score is {score}")
    return str(_bytes(fields.get(_TEXT, _NOTHING)), "utf-8"), score, _int(fields.get(_TYPE, 1))


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where a text or message should")
    return value


def _int(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise ValueError("a text or message stands where a number should")
    return value


def _fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a message of Protocol Buffers."""
    at = 0
    while at < len(content):
        key, at = _number(content, at)
        value: int | memoryview
        if key & 7 == 0:
            value, at = _number(content, at)
        else:
            size = {1: 8, 5: 4}.get(key & 7)
            if key & 7 == 2:
                size, at = _number(content, at)
            if size is None or at + size > len(content):
                raise ValueError("it is cut short, or no message of Protocol Buffers")
            value, at = content[at : at + size], at + size
        yield key >> 3, value


def _number(content: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    number = shift = 0
    while shift < 70:
        if at >= len(content):
            raise ValueError("it is cut short")
        byte = content[at]
        number, shift, at = number | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return number, at
    raise ValueError("a number has more than 64 bits")
