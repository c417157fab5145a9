"""What a call returns: plain data that outlives the programs, what it cost."""

from __future__ import annotations

import gc
import pickle
import sys
import types
import weakref

import numpy as np
import pytest
from small_folder import SMALL_RUN

import wanjax
from wanjax.config.resolve import resolve
from wanjax.pipeline.pipeline import WanPipeline
from wanjax.pipeline.timings import Stopwatch, Timings, peak_of_process
from wanjax.sampling.programs import Programs

PROMPT = "a red ball moving left"


def load_pipe(small_folder) -> WanPipeline:
    arguments = [f"model={small_folder}", *SMALL_RUN]
    return WanPipeline.from_config(resolve(arguments, "show"))


@pytest.fixture(scope="module")
def pipe(small_folder):
    return load_pipe(small_folder)


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
        programs.seconds += 7.0
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
