"""Bodies of requests: JSON or a form with files, of bounded size, and never on the disk."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from wanjax.serve.errors import ApiError
from wanjax.serve.requests import PICTURES

_FIELDS = 200
_FORGOTTEN = 2**26  # bytes
_TEXT = 2**20  # bytes of a field that is no file


class _InMemory(MultiPartParser):
    spool_max_size = 2**62  # the whole body is bounded: no file of the system's is written


async def read_body(request: Request, most: int) -> dict[str, Any]:
    """The fields of a request, files as bytes. Raises `ApiError`."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind in ("application/json", ""):
            return _of_json(b"".join([part async for part in _bounded(request, most)]))
        if kind == "multipart/form-data":
            return await _of_form(request, most)
    except _TooLargeError:
        raise _too_large(most) from None
    raise ApiError(
        415,
        f"content-type={kind}: send application/json or multipart/form-data",
        code="unsupported_media_type",
    )


async def forget(receive: Receive) -> None:
    """Read a body that is not wanted, so that the client hears why: as much as of others."""
    come = 0
    while come <= _FORGOTTEN:
        message = await receive()
        come += len(message.get("body", b""))
        if not message.get("more_body"):
            break


class _TooLargeError(MultiPartException):
    """The parser of forms closes its files at it."""


async def _bounded(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    """The body, as it comes; of one that is too long the rest is read and forgotten.

    An answer before the end would meet a client that still sends, and be lost.
    """
    come = 0
    try:
        async for part in request.stream():
            come += len(part)
            if come <= most:
                yield part
            elif come > most + _FORGOTTEN:
                break
    except ClientDisconnect:
        raise ApiError(400, "the request was cut short") from None
    if come > most:
        raise _TooLargeError("too large")


def _too_large(most: int) -> ApiError:
    text = (
        f"the request has more than the {most / 2**20:.3g} MiB that are read: send a smaller file"
    )
    return ApiError(413, text, code="request_too_large")


def _of_json(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content, object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is no valid JSON: {error}", code="invalid_json") from None
    if not isinstance(body, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    return body


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    body = dict(pairs)
    if len(body) < len(pairs):
        raise ValueError("a field is given twice")
    return body


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no finite number")


async def _of_form(request: Request, most: int) -> dict[str, Any]:
    parser = _InMemory(
        request.headers,
        _bounded(request, most),
        max_files=len(PICTURES),
        max_fields=_FIELDS,
        max_part_size=_TEXT,
    )
    try:
        form = await parser.parse()
    except _TooLargeError:
        raise
    except (MultiPartException, KeyError, UnicodeDecodeError) as error:
        text = getattr(error, "message", None) or "its boundary or a header is missing"
        raise ApiError(400, f"the form cannot be read: {text}", code="invalid_form") from None
    body: dict[str, Any] = {}
    try:
        for name, value in form.multi_items():
            _put(body, name, value if isinstance(value, str) else await _read(name, value))
    finally:
        await form.close()
    return body


def _put(body: dict[str, Any], name: str, value: Any) -> None:
    """`a[b]` is a field of an object and `a[]` an item of a list, as clients write them."""
    outer, bracket, inner = name.partition("[")
    if bracket and inner == "]":
        listed = body.setdefault(outer, [])
        if isinstance(listed, list):
            listed.append(value)
            return
    elif bracket and inner.endswith("]"):
        known = body.setdefault(outer, {})
        if isinstance(known, dict) and inner[:-1] not in known:
            known[inner[:-1]] = value
            return
    elif name not in body:
        body[name] = value
        return
    raise ApiError(400, f"{outer} is given twice", param=outer[:60], code="invalid_form")


async def _read(name: str, file: UploadFile) -> bytes:
    if name not in PICTURES:
        known = " and ".join(PICTURES)
        raise ApiError(400, f"{name[:60]}: no file goes here; files: {known}", param=name[:60])
    return await file.read()
