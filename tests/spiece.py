"""A SentencePiece model written field by field, as its protocol has it."""

from __future__ import annotations

import struct
from collections.abc import Iterable

NORMAL, UNKNOWN, CONTROL = 1, 2, 3


def spiece_model(
    pieces: Iterable[tuple[str, float]], *, unknown: int = 3, controls: int = 3, model_type: int = 1
) -> bytes:
    """The first `controls` pieces stand for no text: padding, end, begin."""
    content = b""
    for number, (text, score) in enumerate(pieces):
        kind = UNKNOWN if number == unknown else CONTROL if number < controls else NORMAL
        fields = _text(1, text.encode()) + b"\x15" + struct.pack("<f", score) + _number(3, kind)
        content += _text(1, fields)
    trainer = _number(3, model_type) + _number(40, unknown)
    return content + _text(2, trainer) + _text(3, _text(1, b"identity"))


def _text(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    made = b""
    while value > 0x7F:
        made, value = made + bytes([value & 0x7F | 0x80]), value >> 7
    return made + bytes([value])
