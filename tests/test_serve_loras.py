"""LoRAs by name, from the operator's folder, in a request."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from serving import PROMPT, serving
from small_folder import SMALL_RUN

from wanjax.cli.main import main
from wanjax.media.video_files import read_video

WIDTH = 32


@pytest.fixture(scope="module")
def loras(tmp_path_factory):
    """Changes of one module, for both experts and for that of low noise."""
    folder = tmp_path_factory.mktemp("loras")
    for seed, name in enumerate(("style", "other_low_noise", "a b,c")):
        rng, module = np.random.default_rng(seed), "transformer.blocks.0.attn1.to_v"
        shapes = {"lora_A": (2, WIDTH), "lora_B": (WIDTH, 2)}
        halves = {f"{module}.{h}.weight": rng.normal(size=s) for h, s in shapes.items()}
        tensors = {key: half.astype(np.float32) for key, half in halves.items()}
        save_file(tensors, folder / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="module")
def server(small_folder, tmp_path_factory, loras):
    store = tmp_path_factory.mktemp("store")
    with serving(small_folder, store, f"lora_folder={loras}") as running:
        yield running


def test_a_videos_lora_is_its_own_alone(server):
    plain = server.made(server.create())
    styled = server.create(lora="style:0.5")
    assert styled["values"]["lora"] == "style:0.5"
    assert server.made(styled) != plain
    assert server.made(server.create()) == plain
    assert server.made(server.create(lora={"name": "style", "scale": 0})) != server.made(styled)


def test_it_is_the_command_lines(server, loras, small_folder, tmp_path):
    video = server.create(lora=["style:0.5", {"name": "other_low_noise", "strength": 2}])
    (tmp_path / "served.mp4").write_bytes(server.made(video))
    args = [f"model={small_folder}", *SMALL_RUN, f"prompt={PROMPT}", "seed=1"]
    args += [f"lora={loras / 'style.safetensors'}:0.5:live"]
    args += [f"lora_low={loras / 'other_low_noise.safetensors'}:2:live"]
    assert main(["generate", *args, f"output={tmp_path / 'own.mp4'}"]) == 0
    np.testing.assert_array_equal(
        read_video(tmp_path / "served.mp4"), read_video(tmp_path / "own.mp4")
    )


def test_a_record_names_no_folder_of_the_server(server, loras):
    video = server.create(lora="style,other_low_noise:-1")
    server.made(video)
    _, record, _ = server.ask(f"/v1/videos/{video['id']}/content?variant=record")
    assert record["config"]["lora"] == "style.safetensors:1:live"
    assert record["config"]["lora_low"] == "other_low_noise.safetensors:-1:live"
    assert str(loras) not in json.dumps(record)


def test_models_say_which_there_are(server):
    _, models, _ = server.ask("/v1/models")
    assert models["data"][0]["loras"] == ["other_low_noise", "style"]


@pytest.mark.parametrize(
    ("lora", "text"),
    [
        ("nothing", "lora=nothing: must be one of: other_low_noise, style"),
        ("../loras/style", "must be a name of the server's folder"),
        ("/etc/passwd", "must be a name of the server's folder"),
        ("a b", "must be a name of the server's folder"),
        ("style:much", "lora=style:much: must have a number as its strength"),
        ("style:1e9", "must have a number"),
        (5, "lora=5: must be NAME or NAME:STRENGTH"),
        ({"path": "style"}, 'must have "name" and perhaps "scale"'),
        ({"name": "style", "scale": True}, "must have a number"),
        (["style"] * 9, "must be at most 8"),
        (None, "lora=None: must be"),
    ],
)
def test_other_names_are_refused(server, lora, text):
    status, body, _ = server.ask("/v1/videos", {"prompt": PROMPT, "lora": lora})
    assert (status, body["error"]["param"]) == (400, "lora")
    assert text in body["error"]["message"]


def test_a_lora_that_is_gone_when_its_video_is_made(server, loras):
    path = loras / "gone.safetensors"
    path.write_bytes((loras / "style.safetensors").read_bytes())
    video = server.create(num_inference_steps=50)
    waits = server.create(lora="gone")
    path.unlink()
    assert server.wait(waits)["error"]["message"].startswith("lora=gone: it is no longer")
    assert server.wait(video)["status"] == "completed"


def test_a_server_without_a_folder(small_folder, tmp_path, capsys):
    with serving(small_folder, tmp_path / "store", work=False) as running:
        status, body, _ = running.ask("/v1/videos", {"prompt": PROMPT, "lora": "style"})
    assert (status, body["error"]["code"]) == (400, "unsupported_parameter")
    args = [f"model={small_folder}", *SMALL_RUN, "port=0", "lora_folder=/nowhere"]
    assert main(["serve", *args, f"store={tmp_path / 'other'}"]) == 2
    assert "lora_folder=/nowhere: there is no such folder" in capsys.readouterr().err
