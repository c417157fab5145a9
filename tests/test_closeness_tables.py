"""benchmarks/closeness/tables.py: what was measured, put into the documentation's tables."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks/closeness"))

import tables  # noqa: E402

BESIDE = """\
| | `tiny-t2v`: ideal | PSNR (dB) | closer than MagCache | `tiny-i2v`: ideal | PSNR (dB) | closer |
|---|---|---|---|---|---|---|
| MagCache, residual repeated | 1.82x | 1.0 (0.5) | | 1.74x | 1.0 (0.5) | |
| **forecast** | 1.82x | **1.0** (0.5) | 1 of 1 | 1.74x | 1.0 (0.5) | 0 |
"""
BELOW = """\
| `tiny-i2v` | ideal | PSNR from dense | closer | from converged | added flicker |
|---|---|---|---|---|---|
| dense | 1.00x | | | 1.0 | |
| forecast | 3.08x | **1.0** (0.5) | 1 | 1.0 | 1.00 |
"""


def run(speedup, *psnr):
    return {
        "speedup": speedup,
        "psnr": psnr,
        "psnr_converged": [p - 1 for p in psnr],
        "added_flicker": [0.25 for _ in psnr],
    }


@pytest.fixture
def folders(tmp_path):
    t2v = {"magcache-repeat-0.04": run(40 / 22, 40, 42), "forecast-18": run(40 / 22, 39, 55)}
    t2v |= {"forecast-27-plain": run(40 / 22, 1, 2)}
    i2v = {"magcache-repeat-0.06": run(40 / 23, 50, 60), "forecast-17": run(40 / 23, 70, 80)}
    i2v |= {"forecast-27": run(40 / 13, 61, 63), "dense": run(1.0, 100, 100)}
    for name, runs in (("t2v", t2v), ("i2v", i2v)):
        (tmp_path / name).mkdir()
        for variant, facts in runs.items():
            (tmp_path / name / f"{variant}.json").write_text(json.dumps(facts))
    return [tmp_path / "t2v", tmp_path / "i2v"]


def test_rows_are_found_by_method_and_speed(folders, tmp_path):
    file = tmp_path / "page.md"
    file.write_text(
        f"Before.\n\n{BESIDE}\nBetween | no table\n\n{BELOW}\n| other |\n|---|\n| 1.0 |\n"
    )
    tables.main(folders, [file])
    assert (
        file.read_text()
        == """\
Before.

| | `tiny-t2v`: ideal | PSNR (dB) | closer than MagCache | `tiny-i2v`: ideal | PSNR (dB) | closer |
|---|---|---|---|---|---|---|
| MagCache, residual repeated | 1.82x | 41.0 (40.0) | | 1.74x | 55.0 (50.0) | |
| **forecast** | 1.82x | **47.0** (39.0) | 1 of 2 | 1.74x | 75.0 (70.0) | 2 |

Between | no table

| `tiny-i2v` | ideal | PSNR from dense | closer | from converged | added flicker |
|---|---|---|---|---|---|
| dense | 1.00x | | | 99.0 | |
| forecast | 3.08x | **62.0** (61.0) | 2 | 61.0 | 0.25 |

| other |
|---|
| 1.0 |
"""
    )


def test_a_speed_that_was_not_measured_is_named(folders, tmp_path):
    file = tmp_path / "page.md"
    file.write_text(BELOW.replace("3.08x", "4.00x"))
    with pytest.raises(SystemExit, match=r"forecast at 4.0x: measured at \['1.74', '3.08'\]"):
        tables.main(folders, [file])


def test_the_documentations_rows_all_have_a_method():
    """Their labels are those that the program knows."""
    for name in ("README.md", "docs/methods.md", "docs/forecasting.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        found = {preset: _Every() for preset in tables.PUBLISHED}
        assert tables.rewritten(text, found)[1] > 10


class _Every(dict):
    """A run of every method at every speed of the tables."""

    def __init__(self):
        speeds = [1.0, 1.13, 1.29, 1.74, 1.81, 1.82, 2.05, 2.11, 2.22, 2.89, 3.08, 4.0, 5.0]
        runs = {
            f"{method}{i}": run(speed, 1, 2)
            for method in tables.METHODS.values()
            for i, speed in enumerate(speeds)
        }
        super().__init__(runs | {name: run(1.8, 1, 2) for name in tables.PUBLISHED.values()})
