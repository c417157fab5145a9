"""mp4 out, and in again."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8

from wanjax.errors import UsageError
from wanjax.files import atomic_path

_CRF = "14"  # H.264 quality: visually lossless


def save_video(
    frames: UInt8[np.ndarray, "frames height width 3"], path: str | Path, fps: int
) -> None:
    """Write an H.264 mp4; height and width must be even."""
    height, width = frames.shape[1:3]
    options = {"movflags": "faststart"}
    with (
        atomic_path(path) as partial,
        av.open(str(partial), "w", format="mp4", options=options) as file,
    ):
        stream = file.add_stream("libx264", rate=fps, options={"crf": _CRF})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())


def read_video(path: str | Path) -> UInt8[np.ndarray, "frames height width 3"]:
    """All frames of a video file. Raises `UsageError` if it cannot be read."""
    try:
        with av.open(str(path)) as file:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise UsageError(f"{path} cannot be read as a video: {error}") from error
