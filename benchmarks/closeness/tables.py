"""Puts what `measure.py` found into the tables of the documentation.

python benchmarks/closeness/tables.py T2V_FOLDER I2V_FOLDER FILE.md...

Rows stay as they are written: their label tells the method, the ideal speedup the variant. What
follows them is written anew, as the heads of the columns say; a head or a label that names a model
begins that model's columns or rows. Bold stays bold. Prints how many cells changed in each file.
README.md, docs/methods.md and docs/forecasting.md have such tables.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wanjax.files import atomic_path

Found = Mapping[str, Mapping[str, Any]]
Value = Callable[[Mapping[str, Any], Mapping[str, Any]], str]  # of a variant, beside MagCache
PUBLISHED = {"tiny-t2v": "magcache-repeat-0.04", "tiny-i2v": "magcache-repeat-0.06"}
# What a label has, and how the variants' names begin; the first that fits.
METHODS = {
    "repeat": "magcache-repeat-",
    "linear": "magcache-linear-",
    "output forecast": "magcache-linear-",
    "quadratic": "magcache-quadratic",
    "forecast": "forecast-",
    "respaced": "respaced-",
    "fewer steps": "fewer-steps-",
    "SenCache": "sen_cache-",
    "EasyCache": "easycache-",
    "CFG cache": "cfg_cache-",
    "dense": "dense",
}


def mean_and_worst(run: Mapping[str, Any]) -> str:
    return f"{np.mean(run['psnr']):.1f} ({np.min(run['psnr']):.1f})"


def closer(run: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """Videos in which it is closer to dense than MagCache as published."""
    return f"{int(np.sum(np.array(run['psnr']) > base['psnr']))}"


COLUMNS: dict[str, Value] = {
    "PSNR": lambda run, _: mean_and_worst(run),
    "closer": closer,
    "from converged": lambda run, _: f"{np.mean(run['psnr_converged']):.1f}",
    "added flicker": lambda run, _: f"{np.mean(run['added_flicker']):.2f}",
}


def main(folders: list[Path], files: list[Path]) -> None:
    found = {preset: load(folder) for preset, folder in zip(PUBLISHED, folders, strict=True)}
    for file in files:
        text = file.read_text(encoding="utf-8")
        written, changed = rewritten(text, found)
        with atomic_path(file) as partial:
            partial.write_text(written, encoding="utf-8")
        print(f"{file}: {changed} cells changed")


def load(folder: Path) -> Found:
    """Every variant of a model, by name."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    return {name: run for name, run in found.items() if "speedup" in run}


def rewritten(text: str, found: Mapping[str, Found]) -> tuple[str, int]:
    """The text with its tables of both models anew, and how many cells differ."""
    lines, changed = text.split("\n"), 0
    heads: list[str] = []
    for number, line in enumerate(lines):
        if not line.startswith("|"):
            heads = []
        elif not heads:
            heads = cells(line)
        elif any("ideal" in head for head in heads) and not line.startswith("|---"):
            old = cells(line)
            new = row(heads, old, found)
            changed += sum(a != b for a, b in zip(old, new, strict=True))
            lines[number] = "|" + "|".join(f" {cell} " if cell else " " for cell in new) + "|"
    return "\n".join(lines), changed


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def row(heads: list[str], old: list[str], found: Mapping[str, Found]) -> list[str]:
    """A row's cells anew; those that are empty, and those of other columns, as they were."""
    new, preset, run = list(old), named(heads[0]), None
    for at, (head, cell) in enumerate(zip(heads, old, strict=True)):
        preset = named(head) or preset
        if preset is None:
            continue
        if "ideal" in head:
            run = variant(old[0], float(cell.rstrip("x")), preset, found[preset])
        value = next((COLUMNS[key] for key in COLUMNS if head.startswith(key)), None)
        if value is None or run is None or not cell:
            continue
        written = value(run, found[preset][PUBLISHED[preset]])
        if " of " in cell:
            written += f" of {len(run['psnr'])}"
        first, space, rest = written.partition(" ")
        new[at] = f"**{first}**{space}{rest}" if "**" in cell else written
    return new


def named(text: str) -> str | None:
    return next((preset for preset in PUBLISHED if preset in text), None)


def variant(label: str, speed: float, preset: str, found: Found) -> Mapping[str, Any]:
    """The variant of a row. Raises SystemExit if none has its method and its speed."""
    begin = next((METHODS[key] for key in METHODS if key in label), None)
    if begin is None:
        raise SystemExit(f"{label}: no method is known by this name")
    runs = [
        run
        for name, run in found.items()
        if name.startswith(begin) and re.fullmatch(r"[\d.]*", name[len(begin) :])
    ]
    fitting = [run for run in runs if f"{run['speedup']:.2f}" == f"{speed:.2f}"]
    if not fitting:
        speeds = sorted(f"{run['speedup']:.2f}" for run in runs)
        raise SystemExit(f"{preset}, {label} at {speed}x: measured at {speeds} alone")
    return fitting[0]


if __name__ == "__main__":
    main([Path(sys.argv[1]), Path(sys.argv[2])], [Path(name) for name in sys.argv[3:]])
