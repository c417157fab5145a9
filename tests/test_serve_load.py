"""A server as a process: under load from several clients, and killed at any moment."""

from __future__ import annotations

import importlib.util
import random
import time
from pathlib import Path

import pytest

_PATH = Path(__file__).parents[1] / "benchmarks/serving.py"
_SPEC = importlib.util.spec_from_file_location("load", _PATH)
assert _SPEC is not None
assert _SPEC.loader is not None
load = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(load)


@pytest.mark.slow
def test_clients_at_once_lose_nothing(capsys):
    found = load.main(["jobs=16", "clients=4", "steps=4"])
    assert (found["completed"], found["lost"], found["doubled"]) == (16, 0, 0)
    assert found["changes_of_programs"] <= 12
    assert found["memory_mib_late"] < found["memory_mib_early"] + 200
    assert found["served_seconds"] > 0


@pytest.mark.slow
def test_a_server_killed_again_and_again_makes_every_video_as_it_would_have(tmp_path):
    """At random moments with a full queue; then all end with the bytes of an unharmed one."""
    kills, rng = 4, random.Random(1)
    jobs = load.make_jobs(10, 10)
    cache = f"compilation_cache={tmp_path / 'cache'}"
    (tmp_path / "whole").mkdir()
    with load.Server(tmp_path / "whole", 1, cache) as server:
        whole = [contents(server, video) for video in server.make(jobs)]
    (tmp_path / "killed").mkdir()
    with load.Server(tmp_path / "killed", 1, cache) as server:
        token = server.tokens[0]
        sent = [server.ask(token, "/v1/videos", job)["id"] for job in jobs]
        for _ in range(kills):
            server.until_ready()
            time.sleep(rng.uniform(0.0, 1.5))
            server.kill()
            server.start()
        server.until_ready()
        until_done(server, sent)
        made = [contents(server, server.ask(token, f"/v1/videos/{video}")) for video in sent]
        listed = server.ask(token, "/v1/videos?limit=100")["data"]
    assert len(listed) == len(jobs)
    assert made == whole
    assert server.log.read_text().count("videos that were being made") >= kills / 2


def until_done(server, ids):
    ends = time.monotonic() + 300
    while time.monotonic() < ends:
        videos = server.ask(server.tokens[0], "/v1/videos?limit=100")["data"]
        states = {video["id"]: video["status"] for video in videos}
        assert states.keys() == set(ids)
        assert "failed" not in states.values()
        if set(states.values()) == {"completed"}:
            return
        time.sleep(0.5)
    raise AssertionError(f"not done in five minutes: {states}")


def contents(server, video) -> bytes:
    assert video["status"] == "completed"
    return server.ask(server.tokens[0], f"/v1/videos/{video['id']}/content")
