"""Numbers that are not finite, disks that are full, files that are somebody's: said, not hidden."""

from __future__ import annotations

import errno
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_folder import SMALL_RUN

import wanjax
from wanjax.cli import generate
from wanjax.cli.main import main
from wanjax.errors import NonFiniteError, UsageError
from wanjax.pipeline import video as video_module

PROMPT = "prompt=a red ball"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(folder: Path, *args: str) -> int:
    code = main(["generate", f"model={folder}", *SMALL_RUN, PROMPT, "output=ball.mp4", *args])
    for thread in threading.enumerate():  # compiling ahead; of a process this is the end
        if thread.name in ("_until_latents", "_decode"):
            thread.join()
    return code


def damaged(folder: Path, component: str, name: str) -> Path:
    """A copy in which one value of the tensor whose name ends so is not a number."""
    copy = Path.cwd() / "damaged"
    shutil.copytree(folder, copy)
    (file,) = (copy / component).glob("*.safetensors")
    tensors = load_file(file)
    key = next(key for key in tensors if key.endswith(name))
    tensors[key] = tensors[key].copy()
    tensors[key].flat[0] = np.nan
    save_file(tensors, file)
    return copy


def failed(capsys: pytest.CaptureFixture[str]) -> str:
    lines = capsys.readouterr().err.splitlines()
    (line,) = (line for line in lines if line.startswith("wanjax: failed: "))
    assert not Path("ball.mp4").exists()
    return line


def test_a_weight_that_is_no_number_is_named(small_folder, capsys) -> None:
    folder = damaged(small_folder, "transformer_2", "proj_out.weight")
    assert run(folder) == 1
    line = failed(capsys)
    assert "latents are not finite" in line
    assert "transformer_2 proj_out" in line
    assert run(folder, "nonfinite=each_step") == 1
    assert "after step 4 (expert 1, " in failed(capsys)  # the low-noise expert's first
    assert run(folder, "nonfinite=keep") == 0
    assert "warning: the denoised latents are not finite" in capsys.readouterr().err
    assert Path("ball.mp4").exists()


def test_a_vae_that_is_no_number_is_named(small_folder, capsys) -> None:
    assert run(damaged(small_folder, "vae", "decoder.conv_out.bias")) == 1
    line = failed(capsys)
    assert "the VAE made values that are no finite numbers" in line
    assert "not finite: vae decoder.conv_out.bias" in line


def test_a_text_encoder_that_is_no_number_is_named(small_folder, capsys) -> None:
    assert run(damaged(small_folder, "text_encoder", "SelfAttention.q.weight")) == 1
    line = failed(capsys)
    assert "not finite at the start: the prompt's embedding, the negative prompt's emb" in line
    assert "text_encoder " in line


def test_a_lora_that_is_no_number_is_refused_by_file_and_key(small_folder, capsys) -> None:
    down, up = np.zeros((2, 32), np.float32), np.full((32, 2), np.inf, np.float32)
    key = "blocks.0.attn1.to_q"
    save_file({f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}, "l.safetensors")
    for how in ("", ":1:live"):
        assert run(small_folder, f"lora=l.safetensors{how}") == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert f"wanjax: error: l.safetensors: {key}.lora_B.weight has values that are no" in line


def test_what_a_caller_gives_must_be_finite(small_folder) -> None:
    pipe = wanjax.WanPipeline.from_pretrained(small_folder)
    shape = pipe.latents_shape(pipe.config)
    latents = np.full((1, *shape), np.inf, np.float32)
    with pytest.raises(UsageError, match="latents: has values that are no finite numbers"):
        pipe("a red ball", latents=latents)
    assert issubclass(NonFiniteError, RuntimeError)


@pytest.mark.parametrize(
    ("args", "kept", "text"),
    [
        (["use_magcache", "mag_ratios_base=c.json", "output=c.mp4"], "c.json", "the record of"),
        (["tiny-i2v", "image=photo.png", "output=photo.png/../photo.png"], "photo.png", ""),
        (["overwrite", "output=package.mp4"], "package.json", "no file that wanjax wrote"),
    ],
)
def test_a_users_own_files_are_safe(args, kept, text, capsys, monkeypatch) -> None:
    monkeypatch.setattr(generate, "_load", lambda *_: pytest.fail("a model is loaded"))
    shipped = Path(wanjax.__file__).parent
    shutil.copy(shipped / "caching/curves/tiny-t2v.json", "c.json")
    shutil.copy(shipped / "tiny/examples/red-ball.png", "photo.png")
    Path("package.json").write_text('{"name": "mine"}\n')
    before = Path(kept).read_bytes()
    assert main(["generate", PROMPT, *args]) == 2
    assert text in capsys.readouterr().err
    assert Path(kept).read_bytes() == before


def test_a_plot_does_not_land_on_the_photo(capsys) -> None:
    shutil.copy(Path(wanjax.__file__).parent / "tiny/examples/red-ball.png", "photo.png")
    before = Path("photo.png").read_bytes()
    assert main(["plan", "tiny-i2v", "image=photo.png", "plot=./photo.png"]) == 2
    assert "plot=./photo.png is read by the same command" in capsys.readouterr().err
    assert Path("photo.png").read_bytes() == before


def test_a_full_disk_keeps_the_latents(small_folder, monkeypatch, capsys) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(video_module, "save_video", full)
    assert run(small_folder) == 1
    line = failed(capsys)
    assert "No space left on device; its latents are kept in " in line
    latents = np.load("ball-latents.npy")
    pipe = wanjax.WanPipeline.from_pretrained(small_folder)
    assert pipe.decode(latents).shape == (1, 5, 32, 48, 3)


@pytest.mark.parametrize("args", [["plan", "plot=p.png"], ["convert", "tiny-t2v", "out"]])
@pytest.mark.parametrize("named", [True, False])
def test_a_full_disk_is_one_line_whatever_is_written(args, named, monkeypatch, capsys) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "out.bin" if named else None)

    monkeypatch.setattr("wanjax.planning.plot.draw_plans", full)
    monkeypatch.setattr("wanjax.cli.convert.convert", full)
    assert main(args) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("wanjax: failed: " + ("out.bin cannot be wr" if named else "a file is"))
    assert "No space left on device; make room, or write to another disk or folder" in line
    assert ("the same command goes on" in line) == (args[0] == "convert")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: 9 GiB")])
def test_memory_that_runs_out_is_one_line(error, monkeypatch, capsys) -> None:
    def out_of_memory(*_: object) -> None:
        raise error

    monkeypatch.setattr(generate, "_load", out_of_memory)
    assert main(["generate", PROMPT]) == 1
    assert "memory ran out; lower height, width or num_frames" in failed(capsys)
