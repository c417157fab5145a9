"""Images of every kind in, video files out and in again, nothing half-written."""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from wanjax.errors import UsageError
from wanjax.files import atomic_path
from wanjax.media import video_files
from wanjax.media.formats import FORMATS
from wanjax.media.images import load_image
from wanjax.media.names import free, record_of
from wanjax.media.video_files import read_video, save_video

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


# Video files

KINDS = [(suffix, quality) for suffix, qualities in FORMATS.items() for quality in qualities]
each_kind = pytest.mark.parametrize(("suffix", "quality"), KINDS)
each_suffix = pytest.mark.parametrize("suffix", FORMATS)


@pytest.fixture
def clip():
    """A smooth moving gradient: what codecs keep well."""
    t, y, x = np.meshgrid(np.arange(9), np.arange(32), np.arange(48), indexing="ij")
    return np.stack([4 * x + 6 * t, 5 * y, 128 + 0 * x], axis=-1).astype(np.uint8)


def ball(frames=17, height=128, width=160, noise=3):
    """A red disc with a soft edge that moves right over a dark background, and noise."""
    t, y, x = np.meshgrid(*map(np.arange, (frames, height, width)), indexing="ij")
    distance = np.hypot(x - width / 4 - t * width / 40, y - height / 2) - height / 5
    inside = np.clip(0.5 - distance / 3, 0, 1)[..., None]
    colours = inside * (230, 40, 30) + (1 - inside) * (25, 28, 35)
    colours += np.random.default_rng(0).normal(0, noise, colours.shape)
    return colours.clip(0, 255).astype(np.uint8)


def psnr(frames, reference):
    error = np.mean(np.square(frames.astype(float) - reference))
    return 10 * np.log10(255**2 / error) if error else np.inf


@each_kind
def test_video_round_trip(tmp_path, clip, suffix, quality):
    written = save_video(clip, tmp_path / "new folder" / f"clip{suffix}", 8, quality)
    read = read_video(written.path)
    assert read.shape == clip.shape
    assert written.size == written.path.stat().st_size
    assert written.psnr == pytest.approx(psnr(read, clip))
    # measured: 36 dB (.webp, standard) and 42 to 47
    assert written.psnr == np.inf if quality == "lossless" else written.psnr > 35


def test_a_folder_of_frames_has_every_pixel(tmp_path, clip):
    written = save_video(clip, f"{tmp_path}/clip.v1/", 8)
    assert (written.path, written.codec, written.psnr) == (tmp_path / "clip.v1", "png", np.inf)
    assert written.to_dict()["format"] == "png"
    files = sorted(path.name for path in written.path.iterdir())
    assert files == [f"{number:05}.png" for number in range(len(clip))]
    assert written.size == sum(file.stat().st_size for file in written.path.iterdir())
    np.testing.assert_array_equal(read_video(written.path), clip)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.v1"]


def test_frames_replace_frames_alone(tmp_path, clip):
    save_video(clip, f"{tmp_path}/clip/", 8)
    (tmp_path / "clip/notes.txt").write_text("mine")
    save_video(clip[:2], f"{tmp_path}/clip/", 8)
    assert sorted(path.name for path in (tmp_path / "clip").iterdir()) == [
        "00000.png",
        "00001.png",
        "notes.txt",
    ]


@pytest.mark.parametrize(
    ("output", "record", "next_name"),
    [
        ("ball.mp4", "ball.json", "ball-1.mp4"),
        ("my.clips/ball.v2.webm", "my.clips/ball.v2.json", "my.clips/ball.v2-1.webm"),
        ("frames.v2/", "frames.v2.json", "frames.v2-1/"),
    ],
)
def test_names_of_records_and_of_what_is_taken(tmp_path, monkeypatch, output, record, next_name):
    monkeypatch.chdir(tmp_path)
    assert record_of(output) == Path(record)
    assert free(output) == output
    Path(record).parent.mkdir(exist_ok=True)
    Path(record).touch()  # of another format's video, which must not be overwritten either
    assert free(output) == next_name
    record_of(next_name).touch()
    assert free(output) == next_name.replace("-1", "-2")


@pytest.mark.parametrize(
    ("suffix", "quality", "codec", "pixel_format"),
    [
        (".mp4", "standard", "h264", "yuv420p"),
        (".mp4", "high", "h264", "yuv444p"),
        (".webm", "standard", "vp9", "yuv420p"),
        (".webm", "lossless", "vp9", "gbrp"),
        (".gif", "standard", "gif", "bgra"),  # as FFmpeg decodes its palette
    ],
)
def test_a_file_is_what_its_name_says(tmp_path, clip, suffix, quality, codec, pixel_format):
    written = save_video(clip, tmp_path / f"clip{suffix}", 8, quality)
    with av.open(str(written.path)) as file:
        context = file.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == (codec, pixel_format)
        # a .gif's unit is 10 ms: 12 or 13 of them a frame
        assert file.streams.video[0].average_rate == pytest.approx(8, rel=0.05)
    kind = {".mp4": "mp4", ".webm": "webm", ".gif": "gif"}[suffix]
    assert kind in file.format.name.split(",")


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
@pytest.mark.parametrize("quality", ["standard", "high"])
def test_a_file_says_what_its_colours_mean(tmp_path, clip, suffix, quality):
    """Players guess, each in its way, where it does not."""
    with av.open(str(save_video(clip, tmp_path / f"clip{suffix}", 8, quality).path)) as file:
        context = file.streams.video[0].codec_context
        bt601, limited, bt709 = 6, 1, 1  # FFmpeg's numbers
        assert (context.colorspace, context.color_range) == (bt601, limited)
        assert (context.color_primaries, context.color_trc) == (bt709, bt709)


def test_a_webp_is_a_webp_and_plays_again_and_again(tmp_path, clip):
    with Image.open(save_video(clip, tmp_path / "clip.webp", 8).path) as image:
        assert (image.format, image.n_frames, image.info["loop"]) == ("WEBP", len(clip), 0)


@each_kind
def test_equal_frames_give_equal_bytes(tmp_path, suffix, quality):
    """With x264's macroblock tree, about half of these files differed from the others."""
    paths = [tmp_path / f"{number}{suffix}" for number in range(6)]
    frames = ball()
    assert len({save_video(frames, path, 8, quality).path.read_bytes() for path in paths}) == 1


@pytest.mark.parametrize("threads", ["1", "3"])
def test_equal_frames_give_equal_bytes_by_any_number_of_threads(tmp_path, threads):
    encoding = FORMATS[".mp4"]["standard"]
    encoding = replace(encoding, options={**encoding.options, "threads": threads})
    paths = [tmp_path / f"{number}.mp4" for number in range(6)]
    for path in paths:
        video_files._encode(ball(), path, 8, encoding)
    assert len({path.read_bytes() for path in paths}) == 1


def test_colours_between_their_samples_are_interpolated(tmp_path):
    """Read with its samples repeated, or taken a quarter of a pixel aside, it is below 39 dB."""
    frames = ball(5, 64, 64, noise=0)
    assert save_video(frames, tmp_path / "clip.mp4", 8).psnr > 42  # measured: 44.2


@each_kind
@pytest.mark.parametrize("colour", [(200, 30, 60), (20, 90, 220), (240, 240, 20)])
def test_another_reader_sees_the_same_colours(tmp_path, suffix, quality, colour):
    """One that guesses the colours' matrix by itself, or reads what the file says of it."""
    frames = np.full((3, 32, 32, 3), colour, np.uint8)
    written = save_video(frames, tmp_path / f"clip{suffix}", 8, quality)
    if suffix == ".webp":
        with Image.open(written.path) as image:
            seen = np.asarray(image.convert("RGB"))
    else:
        with av.open(str(written.path)) as file:
            seen = next(file.decode(video=0)).to_ndarray(format="rgb24")
    assert np.abs(seen.astype(int) - colour).max() <= 4  # two roundings to 8 bits and the codec's


def test_high_quality_loses_less(tmp_path):
    for suffix in (".mp4", ".webm"):
        saved = {q: save_video(ball(), tmp_path / f"clip{suffix}", 8, q) for q in FORMATS[suffix]}
        losses = [file.psnr for file in saved.values()]
        assert all(low + 1 < high for low, high in pairwise(losses)), saved


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_equal_frames_in_a_row_stay_as_long(tmp_path, suffix):
    """A .webp holds them once; what is lost is told by what is seen at each frame's time."""
    frames = np.repeat(ball(3, 32, 48), (4, 1, 5), axis=0)
    quality = "lossless" if "lossless" in FORMATS[suffix] else "standard"
    written = save_video(frames, tmp_path / f"clip{suffix}", 16, quality)
    assert written.psnr > 45  # next to another frame it would be 28
    with Image.open(written.path) as image:
        durations = []
        for number in range(image.n_frames):
            image.seek(number)
            image.load()
            durations.append(image.info["duration"])
    assert sum(durations) == pytest.approx(1000 * len(frames) / 16, abs=10)  # a .gif's unit: 10 ms


@each_kind
def test_a_single_frame(tmp_path, clip, suffix, quality):
    assert len(read_video(save_video(clip[:1], tmp_path / f"clip{suffix}", 8, quality).path)) == 1


@pytest.mark.parametrize("name", ["clip.avi", "clip.png", "clip.jpg", "clip", "frames/", ".mp4"])
def test_another_suffix_is_refused(tmp_path, clip, name):
    with pytest.raises(UsageError, match=r"ends in \.mp4, \.webm, \.webp or \.gif"):
        save_video(clip, tmp_path / name, fps=8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "quality", "text"),
    [
        ("clip.mp4", "lossless", r"\.mp4 has standard or high.* lossless in \.webm or \.webp"),
        ("clip.webp", "high", r"\.webp has standard or lossless.* high in \.mp4 or \.webm"),
        ("clip.gif", "lossless", r"\.gif has standard; .* lossless in \.webm or \.webp"),
    ],
)
def test_a_quality_that_a_format_cannot_have_is_refused(tmp_path, clip, name, quality, text):
    with pytest.raises(UsageError, match=text):
        save_video(clip, tmp_path / name, 8, quality)
    assert list(tmp_path.iterdir()) == []


def test_odd_sizes(tmp_path, clip):
    odd = clip[:, :31, :45]
    with pytest.raises(UsageError, match=r"even height and width, not 31 by 45; .*=high"):
        save_video(odd, tmp_path / "clip.mp4", fps=8)
    for suffix, quality in KINDS:
        if (suffix, quality) != (".mp4", "standard"):
            path = save_video(odd, tmp_path / f"clip{suffix}", 8, quality).path
            assert read_video(path).shape == odd.shape


def test_a_gif_is_no_faster_than_browsers_play_it(tmp_path, clip):
    with pytest.raises(UsageError, match=r"fps=60 is more than a \.gif can have, which is 50"):
        save_video(clip, tmp_path / "clip.gif", fps=60)


@each_suffix
@pytest.mark.parametrize("name", ["a:b", "ball at 12:30:05", "100%d", "a ball, [red]", "BALL"])
def test_any_name(tmp_path, monkeypatch, clip, suffix, name):
    monkeypatch.chdir(tmp_path)  # FFmpeg looks for a protocol in a relative path
    save_video(clip, name + suffix.upper(), fps=8)
    assert os.listdir() == [name + suffix.upper()]
    assert read_video(name + suffix.upper()).shape == clip.shape


def test_a_home_folder_is_found(tmp_path, monkeypatch, clip):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))  # Windows
    assert save_video(clip, "~/clip.mp4", fps=8).path == tmp_path / "clip.mp4"
    assert read_video("~/clip.mp4").shape == clip.shape


def interrupt_writing(monkeypatch, after):
    """Ctrl-C while the video's frame number `after` is written."""
    make_frame, made = av.VideoFrame.from_ndarray, []

    def interrupted(*args, **options):
        if len(made) == after:
            raise KeyboardInterrupt
        made.append(args)
        return make_frame(*args, **options)

    monkeypatch.setattr("wanjax.media.video_files.av.VideoFrame.from_ndarray", interrupted)


@each_suffix
def test_interrupted_write_leaves_nothing(tmp_path, clip, monkeypatch, suffix):
    interrupt_writing(monkeypatch, after=4)
    with pytest.raises(KeyboardInterrupt):
        save_video(clip, tmp_path / f"clip{suffix}", fps=8)
    assert list(tmp_path.iterdir()) == []


def test_interrupted_check_leaves_nothing(tmp_path, clip, monkeypatch):
    """Ctrl-C while the file is read back."""

    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(video_files, "_decode", interrupted)
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


@each_suffix
@pytest.mark.parametrize("content", [b"", b"no video", None])
def test_unreadable_video(tmp_path, content, suffix):
    path = tmp_path / f"clip{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"clip\.\w+ cannot be read as a video"):
        read_video(path)
