"""What is kept between runs and no longer true is made again, and said: content counts alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from small_folder import SMALL_RUN

from wanjax.caching.sensitivities import Sensitivities
from wanjax.checkpoints import digest
from wanjax.cli.main import main
from wanjax.config.resolve import resolve
from wanjax.errors import Notice, UsageError
from wanjax.evaluate import calibrate as calibrate_module
from wanjax.evaluate import compare
from wanjax.evaluate.calibrate import calibrate
from wanjax.evaluate.clips import Clip
from wanjax.evaluate.generation import fingerprint
from wanjax.evaluate.lock import only_one
from wanjax.evaluate.store import Store
from wanjax.files import atomic_path
from wanjax.media.prompts import Prompt
from wanjax.pipeline.pipeline import WanPipeline
from wanjax.planning.run import prepare

SENSITIVE = ("use_sen_cache", "sen_cache_sensitivities=s.json")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(small_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_folder, tmp_path / "model"))


def mark(folder: Path, *args: str, **config: Any) -> str:
    """Of a run without its model: what is in files alone."""
    run = prepare(resolve([f"model={folder}", *SMALL_RUN, *args], "show"))
    clip = Clip("0", Prompt("a red ball", "photo.png"), 0)
    return fingerprint(replace(run, config=replace(run.config, **config)), clip, folder)


def unnoticed(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file of the same name, size and time of change."""
    before = path.stat()
    write(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def one_weight(path: Path) -> None:
    tensors = load_file(path)
    key = sorted(tensors)[-1]
    tensors[key] = tensors[key].copy()
    tensors[key].flat[-1] += 1
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "part", ["transformer", "transformer_2", "vae", "text_encoder", "tokenizer", "config", "large"]
)
def test_another_model_under_the_same_name(folder, part, monkeypatch) -> None:
    Image.new("RGB", (48, 32)).save("photo.png")
    if part == "large":  # of which samples are read
        monkeypatch.setattr(digest, "_WHOLE", 0)
        part = "transformer"
    before = mark(folder)
    assert mark(folder) == before
    if part == "tokenizer":
        file = folder / "tokenizer/tokenizer.json"
        unnoticed(file, lambda path: path.write_text(path.read_text().replace("red", "der")))
    elif part == "config":
        file = folder / "vae/config.json"
        unnoticed(file, lambda path: path.write_text(path.read_text().replace("1.5", "1.4")))
    else:
        (file,) = (folder / part).glob("*.safetensors")
        unnoticed(file, one_weight)
    assert mark(folder) != before


def test_another_picture_or_file_of_settings_under_the_same_name(folder) -> None:
    def paint(path: str, colour: str) -> None:
        Image.new("RGB", (48, 32), colour).save(path)

    def measure(alpha: float) -> None:
        Sensitivities(np.zeros(1), np.array([alpha]), np.array([alpha])).save("s.json")

    paint("photo.png", "red")
    paint("last.png", "red")
    measure(0.1)
    marks = {mark(folder, *SENSITIVE, last_image="last.png")}
    paint("photo.png", "blue")
    marks.add(mark(folder, *SENSITIVE, last_image="last.png"))
    paint("last.png", "blue")
    marks.add(mark(folder, *SENSITIVE, last_image="last.png"))
    measure(0.2)
    marks.add(mark(folder, *SENSITIVE, last_image="last.png"))
    marks.add(mark(folder, *SENSITIVE, "negative_prompt=blurred", last_image="last.png"))
    marks.add(mark(folder, *SENSITIVE, last_image="last.png", activations_dtype="bfloat16"))
    assert len(marks) == 6


# What lies in the folder of a comparison


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "out")
    frames = np.zeros((5, 32, 48, 3), np.uint8)
    made.write_video("dense", "0", np.ones((4, 2, 4, 6), np.float32), frames, 8)
    made.write("dense", "0", {"fingerprint": "f", "plan": {}, "psnr": float("inf")})
    return made


RECORD, VIDEO, LATENTS = "runs/dense/0.json", "videos/dense/0.mp4", "runs/dense/0.npz"
DAMAGE: Mapping[str, Callable[[Path], object]] = {
    "deleted": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    "of other bytes": lambda path: path.write_bytes(path.read_bytes()[::-1]),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}


def test_a_whole_run_is_taken(store) -> None:
    record = store.read("dense", "0", "f")
    assert record is not None
    assert record["psnr"] == "inf"
    assert store.write("dense", "0", record) == record


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", [VIDEO, LATENTS])
def test_a_video_or_latents_that_are_not_what_was_made(store, name, damage) -> None:
    DAMAGE[damage](store.folder / name)
    with pytest.warns(Notice, match=f"{name} (is no longer there|was cut or changed): this run"):
        assert store.read("dense", "0", "f") is None


RECORDS = [
    "", "{", "[]", "null", "1", "{}", '{"fingerprint": "f"}', '{"fingerprint": "f", "files": []}',
    "[" * 10**5, '{"fingerprint": "f", "digest": 1}', '{"psnr": NaN}', "\0",
]  # fmt: skip


@pytest.mark.parametrize("text", RECORDS, ids=lambda text: ascii(text[:20]))
def test_a_record_that_is_none(store, text) -> None:
    (store.folder / RECORD).write_text(text)
    with pytest.warns(Notice, match=r"0\.json.*: this run is made again"):
        assert store.read("dense", "0", "f") is None


def test_a_record_of_other_settings_or_numbers(store) -> None:
    with pytest.warns(Notice, match="other settings, inputs, weights or packages: this run is"):
        assert store.read("dense", "0", "g") is None
    path = store.folder / RECORD
    path.write_text(path.read_text().replace("inf", "30"))
    with pytest.warns(Notice, match="is no record of a run, or was changed"):
        assert store.read("dense", "0", "f") is None


def test_only_what_is_damaged_is_made_again(small_folder, capsys) -> None:
    Path("p.txt").write_text("a red ball\n")
    args = ["compare", f"model={small_folder}", *SMALL_RUN, "prompts=p.txt", "seeds=[0,1]",
            "variants=dense,x:use_kv_cache=True", "repeats=1", "output=out"]  # fmt: skip
    assert main(args) == 0
    (video,) = Path("out/videos/x").glob("*1.mp4")
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.npz")}
    video.write_bytes(video.read_bytes()[:-5])
    capsys.readouterr()
    assert main(args) == 0
    assert f"warning: {video} was cut or changed: this run is made again" in capsys.readouterr().err
    changed = [path for path, time in before.items() if path.stat().st_mtime_ns != time]
    assert [path.stem for path in changed] == [video.stem]
    assert changed[0].parent.name == "x"


@pytest.mark.parametrize("change", ["prompt=a blue ball", "seed=5", "seeds=[5]", "repeats=9"])
def test_a_variant_whose_change_would_not_act(change, capsys) -> None:
    assert main(["compare", "tiny-t2v", f"variants=dense,x:{change}", "output=out"]) == 2
    assert re.search(r"variant x: \w+=.* would not act: ", capsys.readouterr().err)
    assert not Path("out").exists()


# Progress of a calibration


@pytest.fixture(scope="module")
def pipe(small_folder) -> WanPipeline:
    return WanPipeline.from_config(resolve([f"model={small_folder}", *SMALL_RUN], "show"))


PROGRESS: Mapping[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda stored: [],
    "nothing": lambda stored: {},
    "other settings": lambda stored: stored | {"about": stored["about"] | {"flow_shift": 9}},
    "another model": lambda stored: stored | {"about": stored["about"] | {"inputs": {}}},
    "no runs": lambda stored: stored | {"runs": []},
    "another shape": lambda stored: stored | {"runs": {"0 0": {"residual": [[1.0]]}}},
    "text for numbers": lambda stored: stored | {"runs": {"0 0": "x"}},
    "no digests": lambda stored: {"about": stored["about"], "runs": stored["runs"]},
}


@pytest.mark.slow
def test_progress_that_is_none(pipe, monkeypatch) -> None:
    progress = Path("c.progress.json")
    prompts = [Prompt("a red ball")]
    calibrate(pipe, prompts, progress=progress)
    whole = json.loads(progress.read_text())
    measured = calibrate_module.measure_run
    made: list[int] = []
    monkeypatch.setattr(
        calibrate_module, "measure_run", lambda *a: made.append(a[2]) or measured(*a)
    )
    calibrate(pipe, prompts, progress=progress)
    assert not made
    for fault, damaged in PROGRESS.items():
        progress.write_text(json.dumps(damaged(whole)))
        with pytest.warns(Notice, match=r"c\.progress\.json.*: measured again"):
            calibrate(pipe, prompts, progress=progress)
        assert made == [0], fault
        made.clear()


# Two at a time


HOLD = """
import sys, time
from pathlib import Path
from wanjax.evaluate.lock import only_one
with only_one(Path("out/.lock"), "out"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_on_the_same_folder_is_refused(small_folder, capsys) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        args = ["compare", f"model={small_folder}", *SMALL_RUN, "prompts=p.txt", "output=out"]
        Path("p.txt").write_text("a red ball\n")
        assert main([*args, "variants=dense"]) == 2
        error = capsys.readouterr().err
        assert "output=out: another process works there (it holds out/.lock)" in error
        holder.kill()
    with only_one(Path("out/.lock"), "out"):  # of a process that is gone nothing is held
        pass
    assert not Path("out/.lock").exists()


def test_a_second_thread_is_refused() -> None:
    with only_one(Path("a.lock"), "a"):
        other = only_one(Path("a.lock"), "a")
        with pytest.raises(UsageError, match="a: another process works there"):
            other.__enter__()
        assert Path("a.lock").exists()


def test_threads_that_save_to_one_name_never_mix() -> None:
    def save(number: int) -> None:
        for _ in range(50):
            with atomic_path("x.bin") as partial:
                partial.write_bytes(bytes([number]) * 100_000)

    threads = [threading.Thread(target=save, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if Path("x.bin").exists():
            content = Path("x.bin").read_bytes()
            assert content == content[:1] * 100_000
    assert os.listdir() == ["x.bin"]


def test_two_comparisons_in_threads(pipe) -> None:
    """One of them is refused, or comes after the other: both leave a whole folder."""
    refused: list[str] = []

    def work() -> None:
        try:
            compare(
                f"model={pipe.config.model}", *SMALL_RUN, prompts=["a red ball"],
                variants="dense", repeats=1, output="out", pipe=pipe,
            )  # fmt: skip
        except UsageError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("another process works there" in text for text in refused)
    assert len(refused) <= 1
    work()
    left = {path.suffix or path.name for path in Path("out").rglob("*") if path.is_file()}
    assert left == {".json", ".mp4", ".npz", ".txt"}
