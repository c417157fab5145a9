"""Who may ask, what a server takes, what it forgets, and what it tells its operator."""

from __future__ import annotations

import json
import logging
import re
import time

import pytest
from serving import PROMPT, serving

from wanjax.errors import UsageError
from wanjax.parallel.targets import Target
from wanjax.serve.auth import Tokens
from wanjax.serve.logs import LOG, log_to_stderr

ANN, BOB = "ann-0123456789abcdef", "bob-0123456789abcdef"


def bearer(token):
    return {"authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "tokens.txt"
    path.write_text(f"# who may ask\nann {ANN}\nbob {BOB}\n")
    return path


@pytest.fixture(scope="module")
def closed(small_folder, tmp_path_factory, tokens):
    """A server with tokens that makes nothing."""
    store = tmp_path_factory.mktemp("store")
    with serving(small_folder, store, f"tokens={tokens}", work=False) as running:
        yield running


@pytest.mark.parametrize("headers", [{}, bearer("wrong"), bearer(""), {"authorization": ANN}])
@pytest.mark.parametrize("path", ["/v1/videos", "/v1/models", "/metrics", "/v1/other"])
def test_without_a_token_there_is_nothing(closed, headers, path):
    status, body, _ = closed.ask(path, headers=headers)
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")


def test_whether_it_lives_anybody_may_ask(closed):
    assert closed.ask("/ready")[:2] == (503, {"ready": False})


def test_a_client_sees_its_own_videos_alone(closed):
    body = {"prompt": PROMPT, "seed": 1}
    _, video, _ = closed.ask("/v1/videos", body, headers=bearer(ANN))
    path = f"/v1/videos/{video['id']}"
    assert closed.ask(path, headers=bearer(ANN))[0] == 200
    assert closed.ask(path, headers=bearer(BOB))[0] == 404
    assert closed.ask(path, method="DELETE", headers=bearer(BOB))[0] == 404
    assert closed.ask(f"{path}/remix", body, headers=bearer(BOB))[0] == 404
    assert closed.ask(f"/v1/videos?after={video['id']}", headers=bearer(BOB))[0] == 400
    assert closed.ask("/v1/videos", headers=bearer(BOB))[1]["data"] == []
    assert len(closed.ask("/v1/videos", headers=bearer(ANN))[1]["data"]) == 1


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "holds no token"),
        ("# nothing\n", "holds no token"),
        ("short\n", "line 1 must be TOKEN or NAME TOKEN"),
        (f"{ANN}\na b {BOB}\n", "line 2 must be"),
    ],
)
def test_a_file_of_tokens_that_cannot_be_used(tmp_path, text, error):
    (tmp_path / "tokens").write_text(text)
    with pytest.raises(UsageError, match=error):
        Tokens.read(str(tmp_path / "tokens"))


@pytest.fixture(scope="module")
def small(small_folder, tmp_path_factory):
    """A server of narrow limits that makes nothing."""
    limits = ["max_queue=2", "max_pixels=10000", "max_steps=8", "max_upload=0.01"]
    with serving(small_folder, tmp_path_factory.mktemp("s"), *limits, work=False) as running:
        yield running


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"num_frames": 9}, "48x32 in 9 frames: 13,824 pixels, at most 10,000 are made here"),
        ({"num_inference_steps": 9}, "num_inference_steps=9: at most 8"),
        ({"prompt": "a" * 11000}, "more than the 0.01 MiB"),
    ],
)
def test_limits(small, fields, text):
    status, body, _ = small.ask("/v1/videos", {"prompt": PROMPT} | fields)
    assert status in (400, 413)
    assert text in body["error"]["message"]


def test_a_queue_has_an_end(small):
    ids = [small.create()["id"] for _ in range(2)]
    status, body, _ = small.ask("/v1/videos", {"prompt": PROMPT})
    assert (status, body["error"]["code"]) == (429, "queue_full")
    assert small.ask(f"/v1/videos/{ids[0]}", method="DELETE")[0] == 200
    small.create()


def test_a_video_too_large_for_the_device_is_refused_with_what_would_fit(small, monkeypatch):
    (model,) = small.server.models.values()
    tiny = Target("here", "gpu", "a small one", 1, memory_limit=600_000)
    monkeypatch.setattr(model.pipe, "target", tiny)
    status, body, _ = small.ask("/v1/videos", {"prompt": PROMPT})
    assert status == 400
    assert "this run needs about" in body["error"]["message"]


def test_another_sites_page_cannot_ask(small):
    """A browser on this machine would send it."""
    own = {"origin": small.url}
    assert small.ask("/v1/models", headers=own)[0] == 200
    foreign = {"origin": "https://elsewhere.example"}
    assert small.ask("/v1/videos", {"prompt": "a"}, headers=foreign)[0] == 403
    renamed = {"host": "elsewhere.example"}
    assert small.ask("/v1/videos", headers=renamed)[0] == 403


def test_what_is_done_is_kept_so_long(small_folder, tmp_path):
    with serving(small_folder, tmp_path / "store", "keep_hours=0.0002") as running:
        video = running.create(num_inference_steps=1)
        done = running.wait(video)
        assert done["expires_at"] - done["completed_at"] in (0, 1)
        time.sleep(0.8)
        assert running.ask(f"/v1/videos/{video['id']}")[0] == 404
        running.server.expire()
        assert running.server.storage.ids() == running.server.jobs.ids() == set()


def test_metrics_count_what_was_made(small_folder, tmp_path):
    with serving(small_folder, tmp_path / "store") as running:
        for seed in (0, 1):
            running.made(running.create(seed=seed, cache="none"))
        running.ask("/v1/videos/x")
        _, text, headers = running.ask("/metrics")
    assert headers["content-type"].startswith("text/plain")
    found = dict(re.findall(r"^(wanjax_\S+) (\S+)$", text.decode(), re.MULTILINE))
    assert found['wanjax_videos_total{outcome="completed"}'] == "2.0"
    assert found['wanjax_jobs{state="completed"}'] == "2.0"
    assert found['wanjax_jobs{state="queued"}'] == "0.0"
    assert found['wanjax_step_seconds_count{kind="computed"}'] == "12.0"
    assert found['wanjax_stage_seconds_count{stage="decode"}'] == "2.0"
    assert found['wanjax_programs_total{cache="hit"}'] == "1.0"
    assert found['wanjax_requests_total{method="GET",status="404"}'] == "1.0"
    assert float(found["wanjax_eta_error_ratio_count"]) >= 1


def test_a_fault_of_ours_is_told_without_its_trace(small_folder, tmp_path, monkeypatch):
    with serving(small_folder, tmp_path / "store") as running:

        def fault(*args):
            raise RuntimeError("secret")

        monkeypatch.setattr(running.server, "show", fault)
        status, body, _ = running.ask("/v1/videos", {"prompt": PROMPT, "num_inference_steps": 1})
        assert status == 500
        assert "secret" not in json.dumps(body)
        monkeypatch.undo()
        monkeypatch.setattr("wanjax.serve.worker.make_record", fault)
        failed = running.wait(running.create(num_inference_steps=1))
        assert failed["error"] == {
            "code": "server_error",
            "message": "the server failed at this video; its log says how",
        }
        assert running.ask("/health")[0] == 200


def test_logs_for_machines_are_a_line_of_json(capsys):
    before = LOG.handlers, LOG.propagate, LOG.level
    log_to_stderr("json")
    try:
        LOG.info("completed", extra={"video": "v\n1", "seconds": 0.5})
        log_to_stderr("text")
        LOG.info("completed", extra={"video": "v\n1"})
    finally:
        LOG.handlers, LOG.propagate = before[:2]
        LOG.setLevel(before[2])
        logging.getLogger("uvicorn").handlers = []
    first, second = capsys.readouterr().err.splitlines()
    event = json.loads(first)
    assert (event["event"], event["video"], event["seconds"]) == ("completed", "v\n1", 0.5)
    assert second.endswith(r"completed video=v\n1")
