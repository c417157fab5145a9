"""Errors as OpenAI's clients read them: `{"error": {message, type, param, code}}`."""

from __future__ import annotations

import re
from typing import Any

from wanjax.config.keys import keys
from wanjax.errors import UsageError, printable
from wanjax.files import without_home

_NAMED = re.compile(r"([A-Za-z_]+)\b")


class ApiError(Exception):
    """A request that is refused with a status and a reason; `param` is the field at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str = "invalid_request_error",
    ):
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.message = printable(without_home(message))
        self.kind = kind

    @property
    def body(self) -> dict[str, Any]:
        about = {"type": self.kind, "param": self.param, "code": self.code}
        return {"error": {"message": self.message} | about}


def refused(error: UsageError) -> ApiError:
    """What the command line would have said, with the key that its text begins with."""
    text = str(error)
    named = _NAMED.match(text)
    param = named[1] if named and named[1] in keys() else None
    return ApiError(400, text, code="invalid_value", param=param)


def not_found(video: str) -> ApiError:
    """Also of a video of another client's, which need not be told that it is there."""
    return ApiError(404, f"there is no video {video}", code="video_not_found", param="video_id")
