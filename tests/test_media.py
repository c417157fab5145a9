"""Images of every kind in, mp4 out and in again, nothing half-written."""

from __future__ import annotations

import struct
import zlib

import av
import numpy as np
import pytest
from PIL import Image

from wanjax.errors import UsageError
from wanjax.files import atomic_path
from wanjax.media.images import load_image
from wanjax.media.mp4 import read_video, save_video

RED, WHITE = (255, 0, 0), (255, 255, 255)


def saved(tmp_path, image, suffix=".png", **options):
    path = tmp_path / f"image{suffix}"
    image.save(path, **options)
    return path


def pixel(path, position=(0, 0)):
    image = load_image(path)
    assert image.mode == "RGB"
    return image.getpixel(position)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGB", RED, RED),
        ("RGBA", (*RED, 255), RED),
        ("RGBA", (*RED, 0), WHITE),
        ("LA", (40, 0), WHITE),
        ("LA", (40, 255), (40, 40, 40)),
        ("L", 200, (200, 200, 200)),
        ("1", 1, WHITE),
        ("I;16", 51400, (200, 200, 200)),
    ],
)
def test_modes(tmp_path, mode, colour, expected):
    assert pixel(saved(tmp_path, Image.new(mode, (5, 3), colour))) == expected


def test_half_transparent_is_blended_with_white(tmp_path):
    path = saved(tmp_path, Image.new("RGBA", (4, 4), (*RED, 128)))
    assert pixel(path) == pytest.approx((255, 127, 127), abs=1)


def test_palette_with_and_without_transparency(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 255, *RED])
    assert pixel(saved(tmp_path, image)) == RED
    assert pixel(saved(tmp_path, image, transparency=1)) == WHITE


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("CMYK", (0, 255, 255, 0), RED),
        ("I", 51400, (200, 200, 200)),
        ("F", 200.0, (200, 200, 200)),
    ],
)
def test_modes_of_tiff(tmp_path, mode, colour, expected):
    assert pixel(saved(tmp_path, Image.new(mode, (8, 8), colour), ".tif")) == expected


def test_rotated_by_exif(tmp_path):
    """Orientation 6: the camera was turned, the picture's left edge is its top."""
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8] = RED
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path, Image.fromarray(pixels), exif=exif)
    assert load_image(path).size == (8, 16)
    assert pixel(path, (4, 2)) == RED
    assert pixel(path, (4, 13)) == (0, 0, 0)


def test_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, (0, 0, 255))]
    assert pixel(saved(tmp_path, frames[0], ".gif", save_all=True, append_images=frames[1:])) == RED


def truncated_png(path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path, "PNG")
    path.write_bytes(path.read_bytes()[:4000])


def gigantic_png(path):
    """A few bytes that claim 900 million pixels."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_bytes(b""), "not an image"),
        (lambda path: path.write_text("a red ball"), "not an image"),
        (lambda path: path.mkdir(), "cannot be read"),
        (truncated_png, "cannot be read"),
        (gigantic_png, "cannot be read"),
    ],
    ids=["missing", "empty", "text", "folder", "truncated", "gigantic"],
)
def test_unusable_images_are_named(tmp_path, write, text):
    path = tmp_path / "ball.png"
    write(path)
    with pytest.raises(UsageError, match=rf"ball\.png.*{text}"):
        load_image(path)


@pytest.fixture
def clip():
    """A smooth moving gradient: what H.264 keeps well."""
    t, y, x = np.meshgrid(np.arange(9), np.arange(32), np.arange(48), indexing="ij")
    return np.stack([4 * x + 3 * t, 5 * y, 128 + 0 * x], axis=-1).astype(np.uint8)


def test_video_round_trip(tmp_path, clip):
    path = tmp_path / "new folder" / "clip.mp4"
    save_video(clip, path, fps=8)
    read = read_video(path)
    assert read.shape == clip.shape
    error = read.astype(float) - clip
    assert -10 * np.log10(np.mean((error / 255) ** 2)) > 35
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate) == ("h264", 8)


def interrupt_writing(monkeypatch, after):
    """Ctrl-C while the video's frame number `after` is written."""
    make_frame, made = av.VideoFrame.from_ndarray, []

    def interrupted(*args, **options):
        if len(made) == after:
            raise KeyboardInterrupt
        made.append(args)
        return make_frame(*args, **options)

    monkeypatch.setattr("wanjax.media.mp4.av.VideoFrame.from_ndarray", interrupted)


def test_interrupted_write_leaves_nothing(tmp_path, clip, monkeypatch):
    interrupt_writing(monkeypatch, after=4)
    with pytest.raises(KeyboardInterrupt):
        save_video(clip, tmp_path / "clip.mp4", fps=8)
    assert list(tmp_path.iterdir()) == []


def test_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "old.mp4"
    path.write_text("old")

    def fail():
        with atomic_path(path) as partial:
            partial.write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("content", [b"", b"no video", None])
def test_unreadable_video(tmp_path, content):
    path = tmp_path / "clip.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"clip\.mp4 cannot be read as a video"):
        read_video(path)
