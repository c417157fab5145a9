"""The kinds of video files, and what each quality means in them; no encoder is loaded here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wanjax.errors import UsageError
from wanjax.media.names import is_folder

Quality = Literal["standard", "high", "lossless"]


@dataclass(frozen=True)
class Encoding:
    """A codec with FFmpeg's name of its encoder, the file's pixel format, the encoder's options.

    `given` is the pixel format of what the encoder gets, where it converts by itself.
    """

    codec: str
    encoder: str
    pixel_format: str
    options: Mapping[str, str] = field(default_factory=dict)
    given: str | None = None


# A file's bytes depend on the number of threads, so that is fixed. With its macroblock tree x264
# gives equal frames different bytes from run to run. `chromaloc=1` says where the conversion to
# 4:2:0 puts a chroma sample, amid its four pixels: readers who assume its edge lose 4 dB.
_H264 = {"threads": "4", "x264-params": "mbtree=0:chromaloc=1"}
_VP9 = {"threads": "4", "row-mt": "1", "cpu-used": "4", "b": "0"}

# By suffix and quality. Every player has 4:2:0 (`yuv420p`): one chroma sample for four pixels.
FORMATS: Mapping[str, Mapping[Quality, Encoding]] = {
    ".mp4": {
        "standard": Encoding("h264", "libx264", "yuv420p", {"crf": "16"} | _H264),
        "high": Encoding("h264", "libx264", "yuv444p", {"crf": "12"} | _H264),
    },
    ".webm": {
        "standard": Encoding("vp9", "libvpx-vp9", "yuv420p", {"crf": "10"} | _VP9),
        "high": Encoding("vp9", "libvpx-vp9", "yuv444p", {"crf": "4"} | _VP9),
        "lossless": Encoding("vp9", "libvpx-vp9", "gbrp", {"lossless": "1"} | _VP9),
    },
    ".webp": {
        "standard": Encoding("webp", "libwebp_anim", "yuv420p", {"quality": "90"}, given="bgra"),
        "lossless": Encoding("webp", "libwebp_anim", "bgra", {"lossless": "1"}),
    },
    ".gif": {"standard": Encoding("gif", "gif", "pal8")},
}
# Of a folder of frames, in any quality.
_PICTURES = Encoding("png", "png", "rgb24")


def encoding_for(
    path: str | Path, quality: Quality, *, height: int, width: int, fps: int
) -> Encoding:
    """How to write frames of a size under a name; a folder's ends in a slash.

    Raises `UsageError` if that cannot be.
    """
    if is_folder(path):
        return _PICTURES
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise UsageError(
            f"{path}: a video is a file that ends in {_listed(FORMATS)}, "
            "or a folder of its frames, as NAME/"
        )
    if quality not in FORMATS[suffix]:
        others = [other for other, qualities in FORMATS.items() if quality in qualities]
        instead = f", or {quality} in {_listed(others)}" if others else ""
        raise UsageError(
            f"video_quality={quality}: {suffix} has {_listed(FORMATS[suffix])}; take that{instead}"
        )
    encoding = FORMATS[suffix][quality]
    halved = encoding.encoder == "libx264" and encoding.pixel_format == "yuv420p"
    if halved and (height % 2 or width % 2):
        raise UsageError(
            f"{path}: {suffix} in {quality} quality needs an even height and width, not "
            f"{height} by {width}; take video_quality=high, or .webm"
        )
    if suffix == ".gif" and fps > 50:
        raise UsageError(
            f"{path}: fps={fps} is more than a .gif can have, which is 50; take another format"
        )
    return encoding


def _listed(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last
