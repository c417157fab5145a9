"""Whatever stands on a command line or in a file of settings is answered in one line.

Every case is one of a class: it is refused with exit code 2, at once, in one printable line,
before anything is loaded.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wanjax.cli import generate
from wanjax.cli.main import main

WHOLE = ("num_inference_steps", "height", "width", "num_frames", "fps", "seed", "magcache_K")
REAL = ("flow_shift", "boundary_ratio", "guidance_scale", "magcache_thresh", "retention_ratio")
NO_NUMBER = ["inf", "nan", "-1", "0x10", "True", "[]", "1,2", "2026-11-27", "9" * 5000, "1_0"]
NO_WHOLE = [*NO_NUMBER, "1e400", "1.5", "1e3", "\u0661\u0662", "9" * 41]
TEXTS = ["a\nb", "a\x1b[31m", "a\0b", "\udc80", "a" * 5000, "../" * 2000, "~nobody-here/x"]
FILES = ("model", "image", "mag_ratios_base", "prompts", "plot", "output", "lora", "tokenizer")
YAML = {
    "twice": "seed: 1\nseed: 2\n",
    "a type": "prompt: !!python/object/apply:os.system ['true']\n",
    "a tab": "\tseed: 1\n",
    "an alias": "prompt: &a x\nnegative_prompt: *a\n",
    "two documents": "seed: 1\n---\nseed: 2\n",
    "a list": "[1, 2]",
    "false": "false",
    "zero": "0",
    "text": "hello",
    "deep": "prompt: " + "[" * 3000,
    "deep and closed": "prompt: " + "{a: " * 2000 + "1" + "}" * 2000,
    "large": "prompt: " + "a" * 20_000_000,
    "many keys": "\n".join(f"k{n}: {n}" for n in range(400_000)),
    "Latin-1": b"prompt: caf\xe9\n",
    "UTF-16": "seed: 1\n".encode("utf-16"),
    "a NUL": b"seed: 1\0\n",
    "a number as key": "1: 2\n",
    "a date": "seed: 2026-11-27\n",
    "sixty": "num_inference_steps: 1:30\n",
    "a hexadecimal": "num_inference_steps: 0x28\n",
    "not a number": "flow_shift: .nan\n",
    "an object": "height: {a: 1}\n",
    "a list as key": "? [a]\n: 1\n",
    "nothing named so": "prompt: *nothing\n",
}
RECORDS = [
    "{}", "[]", "", '{"config": []}', '{"config": {"seed": "x"}}', "[" * 100_000,
    '{"config": {"seed": 1e400}}', '{"config": {"seed": %s}}' % ("9" * 5000),
    '{"config": {"preset": ["tiny-t2v"]}}', '{"config": {"model": {"a": 1}}}', b"\xff\xfe",
]  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def never(*_: object) -> None:
    raise AssertionError("a model is loaded")


def assert_refused(
    args: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "_load", never)
    began = time.process_time()
    code = main(args)
    seconds = time.process_time() - began
    error = capsys.readouterr().err
    shown = args[-1][:80]
    assert code == 2, (shown, code, error)
    assert error.startswith("wanjax: error: "), (shown, error)
    assert error.endswith("\n"), (shown, error)
    assert error[:-1].isprintable(), (shown, error)
    assert len(error) < 700, (shown, len(error))
    assert seconds < 2, (shown, seconds)  # a second, and slow machines


@pytest.mark.parametrize("key", WHOLE)
def test_what_is_no_whole_number(key: str, capsys, monkeypatch) -> None:
    for value in NO_WHOLE:
        assert_refused(["plan", "use_magcache", f"{key}={value}"], capsys, monkeypatch)


@pytest.mark.parametrize("key", REAL)
def test_what_is_no_number(key: str, capsys, monkeypatch) -> None:
    for value in [*NO_NUMBER, "1e400", "9" * 400]:
        assert_refused(["plan", "use_magcache", f"{key}={value}"], capsys, monkeypatch)


@pytest.mark.parametrize("key", ["height", "width", "num_frames", "fps"])
def test_what_no_video_can_have(key: str, capsys, monkeypatch) -> None:
    for value in (1_000_000, 65_536, 2**31, 2**63 - 1):
        assert_refused(["plan", f"{key}={value}"], capsys, monkeypatch)


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_what_no_name_can_be(text: str, capsys, monkeypatch) -> None:
    for key in FILES:
        args = ["plan"] if key in ("model", "plot") else ["generate", "prompt=a ball"]
        args = ["generate"] if key == "prompts" else args
        args += {"image": ["tiny-i2v"], "mag_ratios_base": ["use_magcache"]}.get(key, [])
        assert_refused([*args, f"{key}={text}"], capsys, monkeypatch)
    for key in ("mesh", "preset", "attention"):
        assert_refused(["plan", f"{key}={text}"], capsys, monkeypatch)
    assert_refused(["compile", f"target={text}"], capsys, monkeypatch)


@pytest.mark.parametrize("fault", YAML)
def test_yaml_that_holds_no_settings(fault: str, capsys, monkeypatch) -> None:
    content = YAML[fault]
    Path("my.yml").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert_refused(["plan", "my.yml"], capsys, monkeypatch)


@pytest.mark.parametrize("content", RECORDS, ids=lambda content: ascii(content[:30]))
def test_json_that_is_no_record(content: str | bytes, capsys, monkeypatch) -> None:
    Path("r.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert_refused(["plan", "r.json"], capsys, monkeypatch)


@pytest.fixture(params=["a pipe", "a folder", "a circle of links"])
def no_file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A name without suffix beside which there are names with every suffix, none a file."""
    for name in ("x", "x.yml", "x.json", "x.mp4", "x.png"):
        if request.param == "a pipe":
            os.mkfifo(tmp_path / name)
        elif request.param == "a folder":
            (tmp_path / name).mkdir()
        else:
            (tmp_path / name).symlink_to(name)
    return "x"


def test_what_is_no_file_is_not_waited_for(no_file: str, capsys, monkeypatch) -> None:
    for args in (
        ["plan", f"model={no_file}"],
        ["plan", f"{no_file}.yml"],
        ["plan", f"{no_file}.json"],
        ["plan", f"{no_file}.mp4"],
        ["plan", f"prompt=@{no_file}"],
        ["plan", "use_magcache", f"mag_ratios_base={no_file}"],
        ["plan", "use_forecast", f"mag_ratios_base={no_file}"],
        ["generate", f"prompts={no_file}"],
        ["generate", "tiny-i2v", "prompt=a ball", f"image={no_file}.png"],
        ["generate", "prompt=a ball", f"output={no_file}.mp4"],
    ):
        if "output" in args[-1] and Path("x").is_symlink():
            continue  # it is taken: another name is found
        assert_refused(args, capsys, monkeypatch)


def test_odd_arguments(capsys, monkeypatch) -> None:
    for odd in ("", " ", "--", "--=3", "=", "=3", "-x", "\0", "a=", "seeds=1,,2", "seeds=1;2"):
        assert_refused(["generate", "prompt=a ball", odd], capsys, monkeypatch)
    for seeds in ("1,2,1", "[1", "1]", "-1", str(2**32), "0..3"):
        assert_refused(["generate", "prompt=a ball", f"seeds={seeds}"], capsys, monkeypatch)
    for target in ("v6e:", "v6e:0x0", "v6e:2x4x9", "h100:0", "h100:1e9", "h100:" + "9" * 5000):
        assert_refused(["plan", f"target={target}"], capsys, monkeypatch)
    for mesh in ("data:0", "fsdp:", "x:1", "data:1,data:1", "fsdp:" + "9" * 5000, ",", ":"):
        assert_refused(["plan", f"mesh={mesh}"], capsys, monkeypatch)


def test_a_model_that_is_not_there(capsys, monkeypatch) -> None:
    assert_refused(["plan", "model=/nowhere/model"], capsys, monkeypatch)


def test_a_byte_order_mark_is_no_fault() -> None:
    Path("my.yml").write_bytes(b"\xef\xbb\xbfpreset: tiny-t2v\nseed: 1\n")
    assert main(["plan", "my.yml"]) == 0


def test_a_home_folder_is_known_in_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(Path.cwd()))
    curve = Path(generate.__file__).parents[1] / "caching/curves/tiny-t2v.json"
    Path("c.json").write_bytes(curve.read_bytes())
    Path("my.yml").write_text("preset: tiny-t2v\nuse_magcache: yes\nmag_ratios_base: ~/c.json\n")
    assert main(["plan", "~/my.yml"]) == 0
