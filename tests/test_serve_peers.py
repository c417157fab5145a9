"""Several servers of one database: any answers for all, and nobody's end loses a video."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest
from serving import serving
from test_serve import slow_steps

from wanjax.errors import UsageError

LEASE = 0.5


@pytest.fixture
def start(small_folder, tmp_path):
    """Start a server by its name: the database is all servers', the store its own."""
    with ExitStack() as servers:

        def start(name, files="files", **values):
            given = [*shared(tmp_path, files), f"lease={LEASE}"]
            return servers.enter_context(serving(small_folder, tmp_path / name, *given, **values))

        yield start


def shared(folder, files="files"):
    return f"database=sqlite:///{folder / 'jobs.db'}", f"files={folder / files}"


def test_any_server_answers_for_what_another_makes(start):
    asked, works = start("asked", work=False), start("works")
    video = asked.create()
    made = asked.made(video)
    assert made == works.made(video)
    assert asked.ask("/v1/videos")[1]["data"] == works.ask("/v1/videos")[1]["data"]
    assert works.server.jobs.get(video["id"]).attempts == 1
    status, remix, _ = asked.ask(f"/v1/videos/{video['id']}/remix", {"prompt": "a blue ball"})
    assert (status, works.wait(remix)["status"]) == (200, "completed")


def test_any_server_knows_how_far_a_video_is_and_ends_it(start, monkeypatch):
    told = slow_steps(monkeypatch, 0.1)
    asked, works = start("asked", work=False), start("works")
    asked.server.queue.keep_speeds()
    video, after = asked.create(num_inference_steps=50), asked.create(num_inference_steps=2)
    until(lambda: asked.show(video)["steps_done"] > 5)
    shown = asked.show(video)
    assert 0 < shown["progress"] < 100
    assert shown["eta_seconds"] == pytest.approx(works.show(video)["eta_seconds"], abs=2)
    asked.server.queue.keep_speeds()  # every minute
    waits = asked.show(after)
    assert waits["queue_position"] == 0
    assert asked.ask(f"/v1/videos/{video['id']}", method="DELETE")[0] == 200
    steps = len(told)
    assert asked.wait(after)["status"] == "completed"
    assert len(told) - steps <= 6 + 2  # told of once in half a second
    assert video["id"] not in asked.server.storage.ids()


def until(true):
    ends = time.monotonic() + 60
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_a_dead_servers_video_is_made_by_another(start):
    dies = start("dies", work=False)
    video = dies.create()
    dies.die(video)
    lives = start("lives")
    assert lives.server.peers.recovered == 0
    made = lives.made(video)
    assert made == lives.made(lives.create())
    assert lives.server.jobs.get(video["id"]).attempts == 2


@pytest.mark.slow
def test_a_server_that_was_taken_for_dead_leaves_its_video_to_the_other(start, monkeypatch):
    """As one that was stopped, or swapped out, and goes on."""
    told = slow_steps(monkeypatch, 0.05)
    hangs, other = start("hangs"), start("other", work=False)
    own = other.server.peers.own
    monkeypatch.setattr(hangs.server.peers, "beat", lambda doing: None)
    video = hangs.create(num_inference_steps=60)
    until(lambda: told)
    until(lambda: other.server.jobs.claim(video["id"], own))
    until(lambda: hangs.server.worker.live is None)
    assert other.show(video)["status"] == "in_progress"
    monkeypatch.undo()
    until(lambda: hangs.server.peers.own in {p.id for p in other.server.peers._registered()})
    assert other.server.jobs.give_back(own) == 1
    assert hangs.made(video) == hangs.made(hangs.create(num_inference_steps=60))


def test_a_server_that_comes_back_has_its_own_video_in_the_queue_at_once(small_folder, tmp_path):
    """It need not be taken for dead first: its store tells who it was."""
    args = (small_folder, tmp_path / "store", *shared(tmp_path), "lease=1000")
    with serving(*args, work=False) as before:
        video = before.create()
        before.die(video)
    with serving(*args, work=False) as after:
        assert after.server.peers.recovered == 1
        assert after.show(video)["status"] == "queued"


def test_servers_that_do_not_share_their_files_are_refused(start, tmp_path):
    start("first", work=False)
    with pytest.raises(UsageError, match="another server of this database keeps its videos elsew"):
        start("second", "others", work=False)
    assert len(list((tmp_path / "files").glob("server_*"))) == 1
    assert not list((tmp_path / "others").iterdir())
