"""A video as HTML, for notebooks: player, plan, caption."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from wanjax.media.video_files import save_video

_MOST = 20 * 2**20  # bytes of video in a notebook; a page with more is slow to open
_LEAST_WIDTH = 256  # pixels on the page


def players(
    videos: UInt8[np.ndarray, "batch frames height width 3"], fps: int, captions: Sequence[str]
) -> str:
    """A player for each video with its caption; small ones are enlarged, pixel by pixel."""
    parts: list[str] = []
    size = 0
    for frames, caption in zip(videos, captions, strict=True):
        content = mp4(frames, fps)
        size += len(content)
        if size > _MOST:
            left = len(videos) - len(parts)
            parts.append(f"<p>{left} more, too large for a page: save them to see them.</p>")
            break
        width = frames.shape[2]
        scale = max(1, -(-_LEAST_WIDTH // width))
        parts.append(
            '<figure style="margin:0">'
            f'<video src="data:video/mp4;base64,{base64.b64encode(content).decode()}" '
            f'width="{width * scale}" style="max-width:100%;image-rendering:pixelated" '
            f"controls autoplay loop muted playsinline></video>"
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )
    return f'<div style="display:flex;flex-wrap:wrap;gap:12px">{"".join(parts)}</div>'


def mp4(frames: UInt8[np.ndarray, "frames height width 3"], fps: int) -> bytes:
    """The file's bytes, of frames with even height and width."""
    with tempfile.TemporaryDirectory() as folder:
        return Path(save_video(frames, Path(folder) / "video.mp4", fps).path).read_bytes()
