"""Folders that may not be written, files that may not be read: said before a model loads."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from wanjax.checkpoints import folder as folder_module
from wanjax.cli.main import main

_OVERRIDES = 0b1110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
_VERSION = 0x20080522  # of Linux' capabilities, 64 of them


@contextmanager
def without_privileges() -> Iterator[None]:
    """Permissions hold inside, for root too: this thread lacks what overrides them."""
    if os.geteuid() != 0:
        yield
        return
    if sys.platform != "linux":
        pytest.skip("root may write everywhere")
    libc = ctypes.CDLL(None, use_errno=True)
    header, before = (ctypes.c_uint32 * 2)(_VERSION, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, before) == 0
    less = (ctypes.c_uint32 * 6)(*before)
    less[0] &= ~_OVERRIDES
    assert libc.capset(header, less) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`locked` may be read, `closed` not even that, and no file in `mine`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("wanjax.serve.process.settle", lambda _: None)
    monkeypatch.setattr(folder_module, "load_parameters", lambda *_, **__: pytest.fail("loaded"))
    for name in ("locked/sub", "closed", "mine/vae"):
        Path(name).mkdir(parents=True)
    for name in ("a.png", "a.json", "a.yml", "a.txt", "a.safetensors", "model_index.json"):
        Path("mine", name).write_text("{}")
        Path("mine", name).chmod(0)
    for name, mode in (("locked/sub", 0o555), ("locked", 0o555), ("closed", 0)):
        Path(name).chmod(mode)
    with without_privileges():
        yield
    Path("closed").chmod(0o755)


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(args) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("wanjax: error: ")
    assert sorted(os.listdir()) == ["closed", "locked", "mine"]
    return line


@pytest.mark.parametrize(
    "args",
    [
        "generate prompt=ball output=locked/a.mp4",
        "generate prompt=ball output=locked/new/a.mp4",
        "generate prompt=ball output=locked/frames/",
        "generate prompt=ball output=mine/new/../../locked/a.mp4",
        "generate prompt=ball seeds=0,1 output=locked/a.mp4",
        "calibrate output=locked/a.json",
        "benchmark output=locked/a.json",
        "compare prompt=ball output=locked/new",
        "compare prompt=ball output=locked/sub",
        "compare prompt=ball figure=locked/a.png",
        "compare videos=locked,mine output=locked/new",
        "plan plot=locked/a.png",
        "convert tiny-t2v locked/new",
        "convert tiny-t2v locked/sub",
    ],
)
def test_a_folder_that_may_not_be_written_is_seen_before_a_model_loads(args, capsys) -> None:
    line = refused(capsys, *args.split())
    assert "nothing can be written to " in line
    assert "locked" in line
    assert "Permission denied" in line


@pytest.mark.parametrize(
    "args",
    ["store=locked/new", "store=locked/sub", "store=mine/s files=locked/sub",
     "store=mine/s database=sqlite:///locked/jobs.db"],
)  # fmt: skip
def test_a_server_says_where_nothing_can_be_kept(args, capsys) -> None:
    line = refused(capsys, "serve", "port=0", *args.split())
    said = ("nothing can be written", "nothing can be kept there", "unable to open database file")
    assert any(text in line for text in said)


@pytest.mark.parametrize(
    "args",
    [
        "generate tiny-i2v prompt=ball image=HERE/a.png",
        "generate prompt=@HERE/a.txt",
        "generate prompts=HERE/a.txt",
        "generate HERE/a.yml prompt=ball",
        "generate HERE/a.json prompt=ball",
        "generate prompt=ball model=HERE",
        "generate prompt=ball lora=HERE/a.safetensors",
        "generate prompt=ball use_magcache mag_ratios_base=HERE/a.json",
        "serve port=0 tokens=HERE/a.txt store=mine/s",
    ],
)
@pytest.mark.parametrize("place", ["mine", "closed"])
def test_a_file_that_may_not_be_read_is_named(args, place, capsys) -> None:
    line = refused(capsys, *args.replace("HERE", place).split())
    assert place in line
    assert "may not look there" in line or "Permission denied" in line
