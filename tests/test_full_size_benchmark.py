"""benchmarks/full_size: the one command that makes the whole table, at a small size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / "benchmarks" / "full_size" / "run.py"


def run(*arguments):
    return subprocess.run(
        [sys.executable, RUN, *map(str, arguments)], capture_output=True, text=True
    )


@pytest.mark.slow
def test_the_whole_table_at_a_small_size(tmp_path):
    small = ["--steps", 10, "--tokens", 600, "--results", tmp_path]
    made = run("bundled", "attention", *small)
    assert made.returncode == 0, made.stderr
    row = json.loads((tmp_path / "bundled.json").read_text())
    assert row["wanjax"]["weights"] == "the checkpoint's"
    assert "created" in row
    theirs = row["diffusers"]
    assert theirs.get("seconds") or theirs["failed"] == "torch and diffusers are not installed"
    attention = json.loads((tmp_path / "attention.json").read_text())
    assert attention["kernel"] == "xla"
    assert 0 < attention["error"] < 1e-5
    table = (tmp_path / "table.md").read_text()
    assert made.stdout.strip() == table.strip()
    assert "| bundled: 64x64, 17 frames | 1 x cpu, float32 |" in table
    assert "Attention of 600 tokens" in table
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"bundled.json", "attention.json", "table.md"}


@pytest.mark.slow
def test_a_row_that_fails_says_so_and_the_others_go_on(tmp_path):
    """Here of a number of steps that is refused before anything is made."""
    made = run("a14b-720p", "--steps", 0, "--results", tmp_path)
    assert made.returncode == 0
    row = json.loads((tmp_path / "a14b-720p.json").read_text())
    assert "num_inference_steps=0" in row["wanjax"]["failed"]
    assert "failed: wanjax: error: num_inference_steps=0" in made.stdout


def test_a_row_that_is_none_is_refused(tmp_path):
    made = run("a14b-1080p", "--results", tmp_path)
    assert made.returncode == 2
    assert "no such row: a14b-1080p" in made.stderr
