"""Images in, mp4 out (and in again)."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from wanjax.errors import UsageError
from wanjax.files import atomic_path

_CRF = "14"  # H.264 quality: visually lossless


def load_image(path: str | Path) -> Image.Image:
    """Any image file as upright RGB: EXIF rotation applied, transparency on white.

    Raises `UsageError` for a file that is missing, empty, cut short or no image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return to_rgb(image)
    except FileNotFoundError:
        raise UsageError(f"image={str(path)!r}: no such file") from None
    except UnidentifiedImageError:
        raise UsageError(f"image={str(path)!r}: not an image that Pillow can read") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"image={str(path)!r} cannot be read: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright RGB of an image in any mode."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):  # 16- and 32-bit grey, which `convert` would clip
        values = np.asarray(image, np.float64)
        full = 65535 if image.mode.startswith("I") and values.max() > 255 else 255
        image = Image.fromarray((values / full * 255).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def save_video(frames: UInt8[np.ndarray, "frames height width 3"], path: str | Path, fps: int):
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
