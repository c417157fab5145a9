"""What a server does before its first video: it measures, and has the programs that it needs."""

from __future__ import annotations

import threading

import pytest
from serving import PROMPT, serving
from small_folder import make_small_folder

from wanjax.serve.eta import SAVE, Part
from wanjax.serve.hosts import CancelledError
from wanjax.serve.live import Live
from wanjax.serve.worker import Worker


def told(running) -> float | None:
    """Seconds of a video of another size than the server's own."""
    assert running.server.worker.ready.wait(120)
    _, seconds = running.server.consider({"prompt": PROMPT, "cache": "none", "height": 48})
    return seconds


def test_a_time_is_told_before_anything_was_made(small_folder, tmp_path):
    with serving(small_folder, tmp_path / "store", warm_up=True) as running:
        assert 0 < told(running) < 60
        (model,) = running.server.models.values()
        speeds = running.server.queue.speeds
        for name in ("step blocks+blocks", "decode", SAVE):
            assert speeds.usual(model.shape, Part(name, 1, 1)) > 0


def test_without_measuring_none_can_be(small_folder, tmp_path):
    with serving(small_folder, tmp_path / "store") as running:
        assert told(running) is None


@pytest.mark.slow
def test_a_model_that_needs_a_picture_is_given_a_grey_one(tmp_path):
    folder = make_small_folder(tmp_path / "small-i2v", image=True, two_experts=False)
    with serving(folder, tmp_path / "store", warm_up=True) as running:
        assert running.server.worker.ready.wait(120)
        assert running.server.worker.failed is None


def test_steps_begin_when_all_programs_are_there():
    ends = threading.Timer(0.2, lambda: None)
    ends.start()
    seconds = Worker._wait_for_programs(None, Live(None, None, None, compiling=[ends]))
    assert not ends.is_alive()
    assert 0.1 < seconds < 5


def test_a_video_that_nobody_wants_waits_for_no_program():
    never = threading.Event()
    compiling = threading.Thread(target=never.wait)
    compiling.start()
    live = Live(None, None, None, compiling=[compiling], cancelled=True)
    with pytest.raises(CancelledError):
        Worker._wait_for_programs(None, live)
    never.set()
