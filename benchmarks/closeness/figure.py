"""Closeness against speed, as `measure.py` found it: pictures and tables of the documentation.

python benchmarks/closeness/figure.py T2V_FOLDER I2V_FOLDER PICTURE_FOLDER

Writes `frontier.png` (both references, task score, flicker) and `frontier-small.png` (PSNR from
dense alone), and prints the tables. A line is one method over its speeds.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tables import PUBLISHED, Found, closer, load, mean_and_worst

# Lines by the variants' names, with what the legend says and how they are drawn: forecasts black.
LINES = {
    "forecast": ("forecast", {"color": "black", "linewidth": 2, "marker": "o"}),
    "magcache-linear": ("MagCache, linear", {"color": "black", "linestyle": "--", "marker": "s"}),
    "magcache-repeat": ("MagCache, repeat", {"color": "tab:red", "marker": "s"}),
    "respaced": ("sampler respaced", {"color": "tab:blue", "marker": "^"}),
    "fewer-steps": ("fewer steps", {"color": "tab:blue", "linestyle": ":", "marker": "v"}),
    "easycache": ("EasyCache", {"color": "tab:orange", "marker": "x"}),
    "sen_cache": ("SenCache", {"color": "tab:green", "marker": "+"}),
    "cfg_cache": ("CFG cache", {"color": "tab:purple", "marker": "d"}),
}
ROWS = {
    "psnr": "PSNR from dense (dB)",
    "psnr_converged": "PSNR from converged (dB)",
    "score": "task score (%)",
    "added_flicker": "added flicker (8-bit levels)",
}
TITLES = ("tiny-t2v (text)", "tiny-i2v (image)")


def main(folders: list[Path], pictures: Path) -> None:
    models = [load(folder) for folder in folders]
    draw(models, tuple(ROWS), pictures / "frontier.png", (9.5, 11))
    draw(models, ("psnr",), pictures / "frontier-small.png", (9.5, 3.6))
    for title, found, published in zip(TITLES, models, PUBLISHED.values(), strict=True):
        print(f"\n{title}\n\n{table(found, published)}")


def family(name: str) -> str:
    return name.rpartition("-")[0]


def draw(models: list[Found], rows: tuple[str, ...], path: Path, size: tuple[float, float]) -> None:
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(rows), len(models), squeeze=False, sharex=True)
    for row, metric in enumerate(rows):
        for column, found in enumerate(models):
            panel(panels[row, column], found, metric)
        panels[row, 0].set_ylabel(ROWS[metric], fontsize=9)
    for axes, title in zip(panels[0], TITLES, strict=True):
        axes.set_title(title, fontsize=10)
    for axes in panels[-1]:
        axes.set_xlabel("ideal speedup over 40 dense steps", fontsize=9)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)


def panel(axes: Axes, found: Found, metric: str) -> None:
    scale = 100 if metric == "score" else 1
    for line, (label, style) in LINES.items():
        points = sorted(
            (run["speedup"], scale * np.mean(run[metric]))
            for name, run in found.items()
            if family(name) == line
        )
        if points:
            axes.plot(*zip(*points, strict=True), label=label, markersize=4, **style)
    if metric != "psnr" and "dense" in found:
        level = scale * float(np.mean(found["dense"][metric]))
        if metric != "added_flicker":
            axes.axhline(level, color="0.5", linewidth=1, linestyle="-.")
            axes.text(5.1, level, "dense", fontsize=8, color="0.4", va="bottom", ha="right")
    axes.set_xlim(1, 5.2)
    axes.grid(linewidth=0.3)
    axes.tick_params(labelsize=8)


def table(found: Found, published: str) -> str:
    """Every variant: mean (worst), against both references, and in how many videos it wins."""
    heads = ("variant", "ideal", "PSNR from dense (worst)", "closer than MagCache",
             "from converged", "score", "added flicker", "first frame, worst")  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, run in sorted(found.items(), key=lambda item: (family(item[0]), item[1]["speedup"])):
        wins = "" if name == published else closer(run, found[published])
        lines.append(
            f"| {name} | {run['speedup']:.2f}x | {mean_and_worst(run)} | {wins} "
            f"| {np.mean(run['psnr_converged']):.1f} | {np.mean(run['score']):.3f} "
            f"| {np.mean(run['added_flicker']):.2f} | {np.min(run['first_frame']):.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    *given, last = map(Path, sys.argv[1:])
    main(given, last)
