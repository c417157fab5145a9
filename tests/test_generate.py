"""`wanjax generate` on a small model: the files it leaves, exit codes, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from small_folder import SMALL_RUN
from test_media import interrupt_writing

from wanjax.cli.main import main
from wanjax.media.video_files import read_tags, read_video

PROMPT = "prompt=a red ball moving left"


def generate(folder, output, *args):
    return main(["generate", f"model={folder}", *SMALL_RUN, PROMPT, f"output={output}", *args])


def last_error(capsys) -> str:
    """The text of the one line that reports the error."""
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("wanjax: error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture(scope="module")
def made(small_folder, tmp_path_factory):
    """A folder with what one run wrote, and what it said."""
    folder = tmp_path_factory.mktemp("made")
    ratios = "[1,1,0.99,0.99,0.99,0.99,0.99,0.99,0.99,0.99,0.99,0.99]"
    cache = ("use_magcache=True", "retention_ratio=0", f"mag_ratios_base={ratios}")
    assert generate(small_folder, folder / "new" / "ball.mp4", "seed=7", *cache) == 0
    return folder / "new"


def test_writes_a_video_and_its_record_alone(made):
    assert sorted(path.name for path in made.iterdir()) == ["ball.json", "ball.mp4"]
    assert read_video(made / "ball.mp4").shape == (5, 32, 48, 3)


def test_record(made, small_folder):
    record = json.loads((made / "ball.json").read_text())
    config, plan = record["config"], record["plan"]
    assert (config["model"], config["seed"]) == (str(small_folder), 7)
    assert config["prompt"] == "a red ball moving left"
    assert (config["flow_shift"], config["boundary_ratio"]) == (5.0, 0.8)  # the folder's own
    assert (plan["method"], plan["steps"], plan["boundary_step"]) == ("magcache", 6, 4)
    assert plan["skipped_steps"] == [1, 2]
    assert plan["computed"] + plan["skipped"] == len(record["step_seconds"]) == 6
    assert record["seconds"].keys() == {"text", "condition", "denoise", "decode", "compile"}
    assert all(bytes > 2**20 for bytes in record["peak_memory_bytes"].values())
    assert (record["video"]["file"], record["video"]["pixel_format"]) == ("ball.mp4", "yuv420p")
    assert record["video"]["psnr_db"] > 20
    assert record["device"]["platform"] == "cpu"
    assert {"wanjax", "jax", "flax"} <= record["packages"].keys()


@pytest.mark.parametrize("name", ["ball.json", "ball.mp4"])
def test_a_record_and_a_video_run_again(made, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", str(made / name), "output=again.mp4"]) == 0
    assert (tmp_path / "again.mp4").read_bytes() == (made / "ball.mp4").read_bytes()
    first, again = (
        json.loads(p.read_text()) for p in (made / "ball.json", tmp_path / "again.json")
    )
    assert first["config"] | {"output": "again.mp4"} == again["config"]
    assert first["plan"] == again["plan"]


def test_a_record_runs_again_beside_its_video_and_with_other_values(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    record = json.loads((tmp_path / "ball.json").read_text())
    record["config"]["output"] = str(tmp_path / "ball.mp4")
    (tmp_path / "ball.json").write_text(json.dumps(record))
    assert main(["generate", str(tmp_path / "ball.json"), "seed=8", "use_magcache=False"]) == 0
    again = json.loads((tmp_path / "ball-1.json").read_text())
    assert (again["config"]["seed"], again["plan"]["method"]) == (8, "dense")
    assert (tmp_path / "ball-1.mp4").read_bytes() != (tmp_path / "ball.mp4").read_bytes()


def test_what_stands_in_the_video_itself(made):
    tags = read_tags(made / "ball.mp4")
    assert tags["title"] == "a red ball moving left"
    about = json.loads(tags["comment"])
    record = json.loads((made / "ball.json").read_text())
    assert about["wanjax"] == record["packages"]["wanjax"]
    assert about["config"] | {"output": record["config"]["output"]} == record["config"]


def test_other_formats_and_qualities(small_folder, tmp_path):
    assert generate(small_folder, tmp_path / "ball.webm", "video_quality=lossless") == 0
    record = json.loads((tmp_path / "ball.json").read_text())
    assert (record["video"]["codec"], record["video"]["psnr_db"]) == ("vp9", "inf")
    assert record["config"]["video_quality"] == "lossless"
    assert read_video(tmp_path / "ball.webm").shape == (5, 32, 48, 3)


def test_a_folder_of_frames(small_folder, tmp_path):
    assert generate(small_folder, f"{tmp_path}/ball/") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ball", "ball.json"]
    assert read_video(tmp_path / "ball").shape == (5, 32, 48, 3)


def test_nothing_is_overwritten_unless_asked(small_folder, tmp_path, capsys):
    (tmp_path / "ball.mp4").write_text("mine")
    assert generate(small_folder, tmp_path / "ball.mp4") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "ball-1.json",
        "ball-1.mp4",
        "ball.mp4",
    ]
    assert (tmp_path / "ball.mp4").read_text() == "mine"
    assert json.loads((tmp_path / "ball-1.json").read_text())["video"]["file"] == "ball-1.mp4"
    assert "ball.mp4 is there already: overwrite=True replaces it" in capsys.readouterr().err
    assert generate(small_folder, tmp_path / "ball.mp4", "overwrite") == 0
    assert (tmp_path / "ball.mp4").read_bytes() == (tmp_path / "ball-1.mp4").read_bytes()


def test_what_it_says(small_folder, tmp_path, capsys):
    assert generate(small_folder, tmp_path / "ball.mp4", "seed=7") == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    for text in (
        "flow_shift 5",
        "boundary at step 4",
        "####|##",
        "low noise, computed",
        "(h264, yuv420p, ",
    ):
        assert text in captured.err


def test_quiet_and_verbose(small_folder, tmp_path, capsys):
    assert generate(small_folder, tmp_path / "ball.mp4", "quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert generate(small_folder, tmp_path / "ball.mp4", "--verbose") == 0
    said = capsys.readouterr().err
    for text in ("loaded 0.", "step 5 0.", "compiled run_step in", "peak memory up to decode: "):
        assert text in said


def test_interrupted_writing_leaves_nothing(small_folder, tmp_path, monkeypatch, capsys):
    interrupt_writing(monkeypatch, after=2)
    assert generate(small_folder, tmp_path / "ball.mp4") == 130
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err.endswith("wanjax: interrupted\n")


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda f: cut(f / "vae/diffusion_pytorch_model.safetensors"), "is cut short"),
        (lambda f: (f / "text_encoder/model.safetensors").write_text("no"), "no safetensors file"),
        (
            lambda f: (f / "transformer_2/config.json").unlink(),
            "transformer_2/config.json is missing",
        ),
        (lambda f: (f / "tokenizer/tokenizer.json").unlink(), "it lacks tokenizer/tokenizer.json"),
        (lambda f: (f / "vae/config.json").write_text('{"is_residual": true}'), "different models"),
        (lambda f: (f / "model_index.json").write_text("{}"), "_class_name is missing"),
    ],
    ids=["cut short", "no checkpoint", "no config", "no tokenizer", "other vae", "other pipeline"],
)
def test_folders_that_cannot_be_loaded(small_folder, tmp_path, capsys, spoil, text):
    folder = shutil.copytree(small_folder, tmp_path / "model")
    spoil(folder)
    assert generate(folder, tmp_path / "ball.mp4") == 2
    error = last_error(capsys)
    assert text in error
    assert str(folder) in error
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_missing_folder(tmp_path, capsys):
    assert generate(tmp_path / "nowhere", tmp_path / "ball.mp4") == 2
    assert f"there is no folder {tmp_path / 'nowhere'}" in last_error(capsys)


def test_a_file_is_no_folder(tmp_path, capsys):
    (tmp_path / "weights.safetensors").write_bytes(b"")
    assert generate(tmp_path / "weights.safetensors", tmp_path / "ball.mp4") == 2
    assert "weights.safetensors" in last_error(capsys)


def test_offline_hub_says_how_to_fetch(tmp_path):
    """A preset's checkpoint that is not here, on a machine without network."""
    command = ["generate", "wan2.1-t2v-1.3b", PROMPT, f"output={tmp_path / 'ball.mp4'}"]
    done = subprocess.run(
        [sys.executable, "-m", "wanjax", *command],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    *_, error = done.stderr.splitlines()
    assert error.startswith("wanjax: error: model='Wan-AI/Wan2.1-T2V-1.3B-Diffusers' could not be")
    assert "hf download Wan-AI/Wan2.1-T2V-1.3B-Diffusers --local-dir FOLDER" in error
    assert not (tmp_path / "ball.mp4").exists()
