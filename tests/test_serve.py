"""`wanjax serve`: OpenAI's unmodified client, what its answers lack elsewhere, and cancelling."""

from __future__ import annotations

import json
import time

import numpy as np
import openai
import pytest
from openai.types import Video, VideoDeleteResponse
from PIL import Image
from serving import PROGRAMS, PROMPT, serving
from small_folder import SMALL_RUN, make_small_folder

from wanjax.cli.main import main
from wanjax.media.video_files import read_tags, read_video
from wanjax.sampling.denoise import StepReport
from wanjax.serve.eta import COMPILING, SWITCHING
from wanjax.serve.jobs import MOST_ATTEMPTS

RATIOS = [1.0] * 12
CACHED = {"use_magcache": True, "retention_ratio": 0.0, "mag_ratios_base": RATIOS}


@pytest.fixture(scope="module")
def server(small_folder, tmp_path_factory):
    with serving(small_folder, tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture
def client(server):
    """OpenAI's own."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_openais_client_creates_polls_downloads_lists_remixes_and_deletes(client, tmp_path):
    video = client.videos.create(prompt=PROMPT, size="48x32", seconds="1", extra_body={"seed": 3})
    assert isinstance(video, Video)
    assert (video.status, video.size, video.model) == ("queued", "48x32", "small-t2v")
    done = client.videos.poll(video.id)
    assert (done.status, done.progress, done.seconds) == ("completed", 100, "1.125")
    client.videos.download_content(video.id).write_to_file(tmp_path / "ball.mp4")
    assert read_video(tmp_path / "ball.mp4").shape == (9, 32, 48, 3)
    sizes = {"thumbnail": (48, 32), "spritesheet": (144, 96)}  # nine frames
    for variant in sizes:
        client.videos.download_content(video.id, variant=variant).write_to_file(tmp_path / variant)
        with Image.open(tmp_path / variant) as image:
            assert (image.format, image.size) == ("WEBP", sizes[variant])
    remix = client.videos.remix(video.id, prompt="a blue square")
    assert (remix.remixed_from_video_id, remix.prompt) == (video.id, "a blue square")
    assert client.videos.poll(remix.id).values == {**done.values, "prompt": "a blue square"}
    assert [v.id for v in client.videos.list(limit=1)][:2] == [remix.id, video.id]
    assert client.videos.delete(video.id) == VideoDeleteResponse(
        id=video.id, deleted=True, object="video.deleted"
    )
    with pytest.raises(openai.NotFoundError, match="there is no video"):
        client.videos.retrieve(video.id)
    assert [model.id for model in client.models.list()] == ["small-t2v"]


def test_a_mistake_reads_as_on_the_command_line(client):
    with pytest.raises(openai.BadRequestError, match="did you mean num_inference_steps") as caught:
        client.videos.create(prompt=PROMPT, extra_body={"steps": 3})
    assert (caught.value.param, caught.value.code) == ("steps", "unknown_parameter")
    with pytest.raises(openai.BadRequestError, match="num_frames=6: must be 4 n"):
        client.videos.create(prompt=PROMPT, extra_body={"num_frames": 6})


def test_a_video_is_the_command_lines(server, small_folder, tmp_path, monkeypatch):
    """The same bytes but for the names of model and file, which would tell of this machine."""
    monkeypatch.setattr("wanjax.pipeline.pipeline.Programs", lambda mesh: PROGRAMS)
    video = server.create(seed=7, **CACHED)
    (tmp_path / "served.mp4").write_bytes(server.made(video))
    args = [f"model={small_folder}", *SMALL_RUN, f"prompt={PROMPT}", "seed=7", "use_magcache=True"]
    args += ["retention_ratio=0", f"mag_ratios_base={RATIOS}", f"output={tmp_path / 'own.mp4'}"]
    assert main(["generate", *args]) == 0
    np.testing.assert_array_equal(
        read_video(tmp_path / "served.mp4"), read_video(tmp_path / "own.mp4")
    )
    served, own = (
        json.loads(read_tags(tmp_path / name)["comment"])["config"]
        for name in ("served.mp4", "own.mp4")
    )
    assert served == own | {"model": "small-t2v"}


def test_an_answer_has_what_the_plan_says(server):
    video = server.create(**CACHED)
    assert (video["plan"], video["steps"], video["method"]) == ("#..#|##", 6, "magcache")
    done = server.wait(video)
    assert done["steps_done"] == 6
    assert done["stage_durations"].keys() == {
        "compile", "text", "condition", "denoise", "decode", "save",
    }  # fmt: skip
    assert done["eta_seconds"] is None
    assert done["inference_time_s"] > sum(done["stage_durations"].values()) * 0.9
    _, record, _ = server.ask(f"/v1/videos/{video['id']}/content?variant=record")
    assert record["config"]["prompt"] == PROMPT
    assert record["plan"]["strip"] == "#..#|##"


def test_progress_and_eta_go_one_way(server, monkeypatch):
    slow_steps(monkeypatch, 0.05)
    video = server.create(num_inference_steps=12)
    waits, seen = server.create(num_inference_steps=4), []
    assert waits["queue_position"] is not None
    while (shown := server.show(video))["status"] != "completed":
        seen.append((shown["progress"], shown["steps_done"]))
        time.sleep(0.02)
    assert seen == sorted(seen)
    assert len({steps for _, steps in seen}) > 8
    assert shown["progress"] == 100
    server.wait(waits)


def slow_steps(monkeypatch, seconds):
    """Every step takes so much longer; returns those that were told."""
    told, original = [], StepReport.__init__

    def init(self, *args, **values):
        time.sleep(seconds)
        told.append(self)
        original(self, *args, **values)

    monkeypatch.setattr(StepReport, "__init__", init)
    return told


def test_deleting_a_running_video_ends_it_within_a_step(server, monkeypatch):
    told = slow_steps(monkeypatch, 0.1)
    video, after = server.create(num_inference_steps=50), server.create(num_inference_steps=2)
    while not told:
        time.sleep(0.01)
    status, deleted, _ = server.ask(f"/v1/videos/{video['id']}", method="DELETE")
    steps = len(told)
    assert (status, deleted["deleted"]) == (200, True)
    assert server.wait(after)["status"] == "completed"
    assert len(told) - steps <= 1 + 2
    assert video["id"] not in server.server.storage.ids()


def test_what_the_next_shape_needs_compiles_while_a_video_is_made(
    small_folder, tmp_path, monkeypatch
):
    slow_steps(monkeypatch, 0.05)
    ahead = []

    def compile_ahead(pipe, run):
        if worker.live is not None:  # else it is what the video that begins needs itself
            ahead.append((run.config.num_frames, worker.live.job.id))
        return []

    monkeypatch.setattr("wanjax.serve.worker.compile_ahead", compile_ahead)
    with serving(small_folder, tmp_path / "store") as running:
        worker = running.server.worker
        steps = {5: 6, 9: 2}
        videos = [
            running.create(num_frames=frames, num_inference_steps=steps[frames])
            for frames in (5, 5, 9, 5, 9)
        ]
        for video in videos:
            assert running.wait(video)["status"] == "completed"
        first, same = (video["id"] for video in videos[:2])
        assert [(frames, video in (first, same)) for frames, video in ahead] == [(9, True)]
        programs = [running.server.jobs.get(video["id"]).programs for video in videos]
        there = running.server.there
        assert [there.before(name, "small-t2v") for name in programs] == [[]] * 5
        assert there.before("others", "small-t2v") == [COMPILING]


def test_sync_answers_with_the_video(server):
    status, video, headers = server.ask("/v1/videos/sync", {"prompt": PROMPT, "seed": 1})
    assert (status, headers["content-type"]) == (200, "video/mp4")
    assert video == server.ask(f"/v1/videos/{headers['x-video-id']}/content")[1]


def test_a_range_of_the_file_for_players(server):
    video = server.create()
    whole = server.made(video)
    path = f"/v1/videos/{video['id']}/content"
    status, part, headers = server.ask(path, headers={"range": "bytes=10-19"})
    assert (status, part) == (206, whole[10:20])
    assert headers["content-range"] == f"bytes 10-19/{len(whole)}"
    assert server.ask(path, headers={"range": "bytes=-5"})[1] == whole[-5:]
    assert server.ask(path, headers={"range": f"bytes={len(whole)}-"})[0] == 416


def test_pages_of_a_list(server):
    ids = [server.create(num_inference_steps=1)["id"] for _ in range(3)]
    _, first, _ = server.ask("/v1/videos?limit=2")
    assert [v["id"] for v in first["data"]] == ids[:0:-1]
    assert (first["first_id"], first["last_id"], first["has_more"]) == (ids[2], ids[1], True)
    _, then, _ = server.ask(f"/v1/videos?limit=1&after={ids[1]}")
    assert [v["id"] for v in then["data"]] == ids[:1]
    _, oldest, _ = server.ask(f"/v1/videos?limit=2&order=asc&after={ids[0]}")
    assert [v["id"] for v in oldest["data"]] == ids[1:]


def test_it_says_that_it_lives_and_is_ready(server):
    server.made(server.create())
    assert server.ask("/health")[:2] == (200, {"status": "ok"})
    assert server.ask("/ready")[:2] == (200, {"ready": True})


@pytest.mark.slow
def test_a_picture_as_upload_and_in_json_and_a_model_beside(tmp_path, server, small_folder):
    folder = make_small_folder(tmp_path / "small-i2v", image=True, two_experts=False)
    picture = tmp_path / "red.png"
    Image.new("RGB", (48, 32), "red").save(picture)
    with serving(folder, tmp_path / "store", beside=[small_folder]) as images:
        client = openai.OpenAI(base_url=f"{images.url}/v1", api_key="any")
        sent = client.videos.create(
            prompt=PROMPT, input_reference=picture, extra_body={"seed": 1, "num_frames": 5}
        )
        named = {"image_url": "data:image/png;base64," + encoded(picture)}
        inside = images.create(input_reference=named, num_frames=5)
        first, second = (images.made(v) for v in (sent.to_dict(), inside))
        assert first == second
        remix = client.videos.remix(sent.id, prompt="a blue ball")
        assert images.wait(remix.to_dict())["status"] == "completed"
        status, error, _ = images.ask("/v1/videos", {"prompt": PROMPT})
        assert (status, error["error"]["param"]) == (400, "input_reference")
        text = images.create(model="small-t2v", seed=3)
        assert images.made(text) == server.made(server.create(seed=3))
        at = {
            name: model.pipe.components.where("vae") for name, model in images.server.models.items()
        }
        assert at == {"small-i2v": "host", "small-t2v": "device"}
        assert SWITCHING in images.server.there.before("any", "small-i2v")
        assert images.server.queue.speeds.seconds("small-t2v|any", SWITCHING) >= 0
        client.close()
    refused = server.ask("/v1/videos", {"prompt": PROMPT, "input_reference": named})
    assert refused[0] == 400
    assert "takes no image" in refused[1]["error"]["message"]


def encoded(path) -> str:
    import base64

    return base64.b64encode(path.read_bytes()).decode()


def test_what_was_being_made_when_a_server_ended_is_made_again(small_folder, tmp_path):
    """A process that is killed leaves its jobs as they stand in the database."""
    with serving(small_folder, tmp_path / "store", work=False) as before:
        first, second = (before.create(seed=seed) for seed in (1, 2))
        before.die(first)
        assert before.show(first)["status"] == "in_progress"
        left = before.server.storage.work / "left"
        left.mkdir()
    with serving(small_folder, tmp_path / "store") as after:
        assert after.server.peers.recovered == 1
        assert not left.exists()
        made = [after.made(video) for video in (first, second)]
        assert len({*made}) == 2
        assert after.made(after.create(seed=1)) == made[0]
        assert after.server.jobs.get(first["id"]).attempts == 2


def test_a_job_that_ends_every_server_fails(small_folder, tmp_path):
    with serving(small_folder, tmp_path / "store", work=False) as running:
        video = running.create()
        for _ in range(MOST_ATTEMPTS):
            assert running.server.jobs.claim(video["id"], "killed")
            running.server.jobs.give_back("killed")
        failed = running.show(video)
    assert failed["status"] == "failed"
    assert (
        failed["error"]["message"]
        == f"the server ended {MOST_ATTEMPTS} times while it made this video"
    )


def test_a_server_that_ends_gives_back_what_it_cannot_finish(small_folder, tmp_path, monkeypatch):
    told = slow_steps(monkeypatch, 0.1)
    with serving(small_folder, tmp_path / "store", "grace=0") as running:
        video = running.create(num_inference_steps=100)
        while not told:
            time.sleep(0.01)
    with serving(small_folder, tmp_path / "store", work=False) as again:
        assert again.server.peers.recovered == 0
        assert again.show(video)["status"] == "queued"
        assert again.server.jobs.get(video["id"]).attempts == 0


@pytest.fixture
def no_log(monkeypatch):
    """Else the logger would keep a test's stderr, which is closed by then."""
    monkeypatch.setattr("wanjax.serve.process.settle", lambda config: None)


@pytest.mark.usefixtures("no_log")
def test_two_servers_do_not_share_a_store(small_folder, tmp_path, capsys):
    with serving(small_folder, tmp_path / "store", work=False):
        args = [f"model={small_folder}", *SMALL_RUN, f"store={tmp_path / 'store'}", "port=0"]
        assert main(["serve", *args]) == 2
    assert "another server uses it" in capsys.readouterr().err


@pytest.mark.usefixtures("no_log")
@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["port=99999"], "port=99999: must be at least 0, at most 65535"),
        (["host=nowhere.invalid"], "host=nowhere.invalid port=0: cannot listen there"),
        (["also=tiny-t2v,tiny-t2v"], "also=tiny-t2v,tiny-t2v: tiny-t2v is served already"),
        (["also=nosuch"], "nosuch"),
        (["database=nonsense"], "database=nonsense://"),
        (["files=nosuch://x"], "files=nosuch://x: nothing can be kept there"),
        (["store=/dev/null/x"], "store=/dev/null/x"),
    ],
)
def test_a_mistake_at_the_start(small_folder, tmp_path, capsys, args, text):
    given = [f"model={small_folder}", *SMALL_RUN, f"store={tmp_path / 's'}", "port=0"]
    given = [arg for arg in given if arg.partition("=")[0] != args[0].partition("=")[0]]
    assert main(["serve", *given, *args]) == 2
    assert text in capsys.readouterr().err
