"""Video files out, and in again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from jaxtyping import UInt8
from PIL import Image, ImageSequence

from wanjax.errors import UsageError
from wanjax.files import atomic_path
from wanjax.media.formats import Encoding, Quality, encoding_for
from wanjax.media.frames import read_frames, write_frames
from wanjax.media.names import is_folder

# Chroma between its samples is interpolated, as players with a graphics card do. PyAV's default
# repeats the samples, which costs 7 dB on small frames, and rounds as the processor likes.
_EXACT = (
    Interpolation.BICUBIC
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
)
_BT601 = 6  # FFmpeg's number of the matrix that every reader can undo, also one that ignores tags
_RGB = 0
# Without versions and random identifiers in the file; an mp4's index at its start, for the web;
# a .webp that plays again and again, as a .gif does. By FFmpeg's names of the formats.
_CONTAINER = {
    "mp4": {"fflags": "bitexact", "movflags": "faststart"},
    "webm": {"fflags": "bitexact"},
    "webp": {"loop": "0"},
    "gif": {},
}


@dataclass(frozen=True)
class VideoFile:
    """A written video.

    `psnr` says what the codec lost, in dB: of the file, read back, against the frames that
    went in, over all of them. Infinite: nothing.
    """

    path: Path
    quality: Quality
    codec: str
    pixel_format: str
    size: int  # bytes
    psnr: float

    def summary(self) -> str:
        """`h264, yuv420p, 42.4 dB from the frames`."""
        lost = f"{self.psnr:.1f} dB from the frames" if np.isfinite(self.psnr) else "lossless"
        return f"{self.codec}, {self.pixel_format}, {lost}"

    def to_dict(self) -> dict[str, Any]:
        """As the record beside the file has it."""
        return {
            "file": self.path.name,
            "format": "png" if self.codec == "png" else self.path.suffix.lower().removeprefix("."),
            "codec": self.codec,
            "pixel_format": self.pixel_format,
            "quality": self.quality,
            "bytes": self.size,
            "psnr_db": round(self.psnr, 2) if np.isfinite(self.psnr) else "inf",
        }


def save_video(
    frames: UInt8[np.ndarray, "frames height width 3"],
    path: str | Path,
    fps: int,
    quality: Quality = "standard",
    tags: Mapping[str, str] | None = None,
) -> VideoFile:
    """Write .mp4, .webm, .webp or .gif, as `path` ends; equal frames give equal bytes.

    The text of a `path` that ends in a slash is a folder, which has a .png for each frame.
    "standard" plays everywhere and halves the colours' resolution, "high" keeps it (.mp4 and
    .webm), "lossless" keeps every pixel (.webm and .webp). Raises `UsageError` for another
    suffix, or a size or rate that the format cannot have. `tags`, such as `title` and `comment`,
    stand in the file where its format has room for them (.mp4, .webm).
    """
    height, width = frames.shape[1:3]
    encoding = encoding_for(path, quality, height=height, width=width, fps=fps)
    folder, path = is_folder(path), Path(path).expanduser()
    if folder:
        size, psnr = write_frames(frames, path), float("inf")
        return VideoFile(path, quality, encoding.codec, encoding.pixel_format, size, psnr)
    with atomic_path(path) as partial:
        _encode(frames, partial, fps, encoding, tags)
        psnr = _psnr(frames, partial, fps)
        size = partial.stat().st_size
    return VideoFile(path, quality, encoding.codec, encoding.pixel_format, size, psnr)


def read_video(path: str | Path) -> UInt8[np.ndarray, "frames height width 3"]:
    """All frames of a video file or a folder of frames. Raises `UsageError` if it cannot be read.

    A .webp holds equal frames in a row once, for so much longer.
    """
    path = Path(path).expanduser()
    try:
        if path.is_dir():
            return read_frames(path)
        return np.stack([frame for _, frame in _decode(path)])
    except (av.FFmpegError, OSError, ValueError, IndexError) as error:
        raise UsageError(f"{path} cannot be read as a video: {error}") from error


def read_tags(path: str | Path) -> dict[str, str]:
    """What a video file says of itself, such as `title` and `comment`. Raises `UsageError`."""
    try:
        with av.open(_address(Path(path).expanduser())) as file:
            return {name.lower(): text for name, text in file.metadata.items()}
    except (av.FFmpegError, OSError) as error:
        raise UsageError(f"{path} cannot be read as a video: {error}") from error


def _encode(
    frames: UInt8[np.ndarray, "frames height width 3"],
    path: Path,
    fps: int,
    encoding: Encoding,
    tags: Mapping[str, str] | None = None,
) -> None:
    kind = path.suffix.lower().removeprefix(".")
    with av.open(_address(path), "w", format=kind, options=_CONTAINER[kind]) as file:
        file.metadata.update(tags or {})
        pixel_format = encoding.given or encoding.pixel_format
        stream = file.add_stream(encoding.encoder, rate=fps, options=dict(encoding.options))
        stream = cast(av.VideoStream, stream)  # the encoder's name says so
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        _tag_colours(stream.codec_context, pixel_format)
        for picture in _converted(_pictures(frames, fps), pixel_format):
            file.mux(stream.encode(picture))
        file.mux(stream.encode())


def _tag_colours(context: av.VideoCodecContext, pixel_format: str) -> None:
    """Say which colours the numbers mean: players guess, each in its way, where a file does not."""
    if pixel_format.startswith("yuv"):
        context.colorspace, context.color_range = _BT601, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    elif pixel_format == "gbrp":
        context.colorspace, context.color_range = _RGB, ColorRange.JPEG


def _pictures(
    frames: UInt8[np.ndarray, "frames height width 3"], fps: int
) -> Iterator[av.VideoFrame]:
    for number, frame in enumerate(frames):
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
        picture.pts, picture.time_base = number, Fraction(1, fps)
        yield picture


def _converted(pictures: Iterator[av.VideoFrame], pixel_format: str) -> Iterator[av.VideoFrame]:
    """In the stream's pixel format; the encoder would convert too, but less exactly."""
    if pixel_format == "pal8":
        yield from _with_palette(pictures)
        return
    to_yuv: dict[str, Any] = {}
    if pixel_format.startswith("yuv"):
        to_yuv = {"dst_colorspace": Colorspace.ITU601, "dst_color_range": ColorRange.MPEG}
    for picture in pictures:
        yield picture.reformat(format=pixel_format, interpolation=_EXACT, threads=1, **to_yuv)


def _with_palette(pictures: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """In 256 colours, the best ones for the whole clip."""
    first = next(pictures)
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=first.width, height=first.height, format=first.format, time_base=first.time_base
    )
    split, generate = graph.add("split"), graph.add("palettegen")
    use, sink = graph.add("paletteuse"), graph.add("buffersink")
    source.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(generate, 1, 0)
    generate.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    graph.vpush(first)
    for picture in pictures:
        graph.vpush(picture)
    graph.vpush(None)
    while True:
        try:
            yield graph.vpull()
        except av.EOFError:
            return


def _decode(path: Path) -> Iterator[tuple[float, UInt8[np.ndarray, "height width 3"]]]:
    """Frames with the second at which each begins."""
    if path.suffix.lower() == ".webp":  # FFmpeg reads no animated ones
        with Image.open(path) as file:
            for image in ImageSequence.Iterator(file):
                pixels = np.asarray(image.convert("RGB"))
                yield image.info.get("timestamp", 0) / 1000, pixels
        return
    with av.open(_address(path)) as file:
        for frame in file.decode(video=0):
            picture = frame.reformat(format="rgb24", interpolation=_EXACT, threads=1)
            yield frame.time or 0.0, picture.to_ndarray()


def _psnr(frames: UInt8[np.ndarray, "frames height width 3"], path: Path, fps: int) -> float:
    """Of what a player shows in the middle of each frame's time against that frame."""
    decoded = _decode(path)
    shown, following = next(decoded), next(decoded, None)
    errors = []
    for number, frame in enumerate(frames):
        while following is not None and following[0] <= (number + 0.5) / fps:
            shown, following = following, next(decoded, None)
        errors.append(np.mean(np.square(shown[1].astype(np.float32) - frame), dtype=np.float64))
    mean = np.mean(errors)
    return float(10 * np.log10(255**2 / mean)) if mean else float("inf")


def _address(path: Path) -> str:
    """For FFmpeg, which takes `a` in `a:b.mp4` for a protocol."""
    return f"file:{path}"
