"""Files of a video, as a client downloads them: whole, or a range of their bytes."""

from __future__ import annotations

import re

from starlette.responses import Response, StreamingResponse

from wanjax.serve.errors import ApiError
from wanjax.serve.jobs import Job
from wanjax.serve.pictures import save_spritesheet, save_thumbnail
from wanjax.serve.server import Server

_VARIANTS = {
    "video": ("video.mp4", "video/mp4"),
    "thumbnail": ("thumbnail.webp", "image/webp"),
    "spritesheet": ("spritesheet.webp", "image/webp"),
    "record": ("record.json", "application/json"),
}
_PICTURES = {"thumbnail": save_thumbnail, "spritesheet": save_spritesheet}
_RANGE = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})")


def content(server: Server, job: Job, variant: str, asked: str | None) -> Response:
    """The file of a variant, or the range of it that is asked for (players need them).

    Raises `ApiError` for a video that is not done.
    """
    if variant not in _VARIANTS:
        text = f"variant={variant[:60]}: must be {' or '.join(_VARIANTS)}"
        raise ApiError(400, text, code="invalid_value", param="variant")
    if job.state == "failed":
        raise ApiError(400, "this video failed: there is nothing to download", code="video_failed")
    if job.state != "completed":
        raise ApiError(400, f"this video is {job.state}: wait for it", code="video_not_ready")
    name, kind = _VARIANTS[variant]
    if variant in _PICTURES:
        server.draw(job.id, name, _PICTURES[variant])
    size = server.storage.size(job.id, name)
    if size is None:
        raise ApiError(404, f"{variant} of {job.id} is gone", code="video_not_found")
    headers = {
        "accept-ranges": "bytes",
        "content-disposition": f'inline; filename="{job.id}-{name}"',
        "x-content-type-options": "nosniff",
    }
    first, last = _bytes(asked, size)
    status = 200 if (first, last) == (0, size - 1) and asked is None else 206
    if status == 206:
        headers["content-range"] = f"bytes {first}-{last}/{size}"
    headers["content-length"] = str(last + 1 - first)
    parts = server.storage.read(job.id, name, first, last)
    return StreamingResponse(parts, status, headers, kind)


def _bytes(asked: str | None, size: int) -> tuple[int, int]:
    """The first and last byte; what is no range of one piece counts as none."""
    found = _RANGE.fullmatch(asked or "")
    if found is None or not (found[1] or found[2]):
        return 0, size - 1
    if not found[1]:  # the last so many
        return max(0, size - int(found[2])), size - 1
    first = int(found[1])
    last = min(int(found[2]), size - 1) if found[2] else size - 1
    if first > last:
        raise ApiError(416, f"range={asked}: the file has {size} bytes", code="invalid_range")
    return first, last
