"""What a call returns: plain data that outlives the programs, the files it writes, what it cost."""

from __future__ import annotations

import gc
import json
import pickle
import sys
import types
import weakref

import numpy as np
import pytest
from small_folder import SMALL_RUN

import wanjax
from wanjax.caching.plan import dense_plan
from wanjax.config.resolve import resolve
from wanjax.pipeline.pipeline import WanPipeline
from wanjax.pipeline.record import make_record
from wanjax.pipeline.timings import Stopwatch, Timings, peak_of_process
from wanjax.pipeline.video import Video
from wanjax.planning.memory import Memory
from wanjax.planning.schedule import make_schedule
from wanjax.sampling.programs import Programs

PROMPT = "a red ball moving left"


def load_pipe(small_folder) -> WanPipeline:
    arguments = [f"model={small_folder}", *SMALL_RUN]
    return WanPipeline.from_config(resolve(arguments, "show"))


@pytest.fixture(scope="module")
def pipe(small_folder):
    return load_pipe(small_folder)


def some_video(batch=1):
    shape = (batch, 5, 32, 48, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    plan = dense_plan(make_schedule(4, flow_shift=3.0, guidance_scale=1.0))
    return Video(frames, np.zeros((batch, 16, 2, 4, 6), np.float32), plan, Timings(), 8, Memory())


# Kept and pickled


@pytest.mark.parametrize(
    "cache", [None, wanjax.SenCache(epsilon=10.0)], ids=["dense", "decides during the run"]
)
def test_a_video_can_be_pickled(pipe, cache):
    video = pipe(PROMPT, cache=cache)
    again = pickle.loads(pickle.dumps(video))
    np.testing.assert_array_equal(again.frames, video.frames)
    np.testing.assert_array_equal(again.latents, video.latents)
    assert (again.plan, again.timings, again.fps) == (video.plan, video.timings, video.fps)
    assert again.plan.to_dict() == video.plan.to_dict()


def test_a_kept_video_keeps_no_program(small_folder):
    pipe = load_pipe(small_folder)
    video = pipe(PROMPT, num_frames=1)
    programs = weakref.ref(pipe.programs)
    del pipe
    gc.collect()
    assert programs() is None
    assert video.timings.stages.keys() == {"text", "condition", "denoise", "decode"}


# What it cost


def test_a_stage_is_timed_without_its_compiling():
    programs = Programs()
    stopwatch = Stopwatch(programs)
    with stopwatch.measure("denoise"):
        programs.waited += 7.0
    assert stopwatch.timings.compile == 7.0
    assert stopwatch.timings.stages["denoise"] == pytest.approx(-7, abs=0.5)  # none was spent
    assert stopwatch.timings.peak_memory["denoise"] > 2**20


def test_a_stopwatch_goes_on_with_timings_that_are_there():
    timings = Timings(stages={"denoise": 1.0}, compile=2.0)
    with Stopwatch(Programs(), timings).measure("decode"):
        pass
    assert timings.stages.keys() == {"denoise", "decode"}
    assert timings.compile == 2.0


def fake_resource(peak):
    usage = types.SimpleNamespace(ru_maxrss=peak)
    return types.SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: usage)


@pytest.mark.parametrize(("platform", "bytes"), [("linux", 5000 * 1024), ("darwin", 5000)])
def test_peak_memory_in_the_platform_s_unit(monkeypatch, platform, bytes):
    """Linux counts in KiB, macOS in bytes."""
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setitem(sys.modules, "resource", fake_resource(5000))
    assert peak_of_process() == bytes


def test_peak_memory_on_windows_which_has_no_resource(monkeypatch):
    memory = types.SimpleNamespace(rss=3000, peak_wset=5000)
    process = types.SimpleNamespace(memory_info=lambda: memory)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "resource", None)  # importing it fails
    monkeypatch.setitem(sys.modules, "psutil", types.SimpleNamespace(Process=lambda: process))
    assert peak_of_process() == 5000


def test_peak_memory_here_is_in_bytes():
    held = np.ones(2**28, np.uint8)
    assert held.nbytes < peak_of_process() < 2**38  # a wrong unit is a factor of 1024


# Files


def test_a_batch_is_saved_in_numbered_files_of_the_asked_quality(tmp_path):
    files = some_video(batch=2).save(tmp_path / "ball.webm", quality="lossless")
    assert [file.path for file in files] == [tmp_path / "ball-0.webm", tmp_path / "ball-1.webm"]
    assert [file.psnr for file in files] == [np.inf, np.inf]


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))  # Windows
    (file,) = some_video().save("~/clips/ball.gif")
    assert file.path == tmp_path / "clips/ball.gif"
    assert file.path.exists()


@pytest.mark.parametrize(
    ("name", "quality", "expected"),
    [
        ("ball.mp4", "high", ("mp4", "h264", "yuv444p")),
        ("ball.webp", "lossless", ("webp", "webp", "bgra")),
    ],
)
def test_the_record_says_what_the_file_is_and_lost(tmp_path, name, quality, expected):
    video = some_video()
    (file,) = video.save(tmp_path / name, quality)
    record = json.loads(json.dumps(make_record(resolve([], "show"), video, file), allow_nan=False))
    about = record["video"]
    assert (about["format"], about["codec"], about["pixel_format"]) == expected
    assert (about["file"], about["quality"]) == (name, quality)
    assert about["bytes"] == (tmp_path / name).stat().st_size
    assert about["psnr_db"] == ("inf" if quality == "lossless" else round(file.psnr, 2))
