"""Closeness against speed: a line for each sweep and one through fewer steps, as a picture.

Everything is told by marker and line style too, so that it survives a black-and-white print.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wanjax.evaluate.comparison import Comparison
from wanjax.files import atomic_path
from wanjax.planning.plot import require_figure
from wanjax.planning.variants import FEWER_STEPS

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_FEWER = {"color": "black", "linestyle": "--", "marker": "v"}
# Colours of Okabe and Ito, which colour-blind readers tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5B5B5B")
_MARKERS = ("o", "s", "D", "^", "P", "X", "*", "<", ">")


@dataclass(frozen=True)
class Point:
    """A variant in the figure: speed, mean PSNR and its 95 % interval (None: one video)."""

    variant: str
    speed: float
    psnr: float
    interval: tuple[float, float] | None


def draw_figure(path: Path, comparison: Comparison) -> None:
    """Draw PSNR over speedup into `path` (.png, .pdf or .svg), a panel for each reference.

    Raises `UsageError` where matplotlib is missing or `path` cannot be written.
    """
    figure_class = require_figure("figure", path)
    references = comparison.references
    figure = figure_class(figsize=(5.2 * len(references) + 0.6, 4.4), layout="constrained")
    panels = figure.subplots(1, len(references), squeeze=False)[0]
    for axes, reference in zip(panels, references, strict=True):
        _draw(axes, comparison, reference)
    labelled: dict[str, Artist] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        labelled |= dict(zip(labels, handles, strict=True))
    figure.legend(handles=list(labelled.values()), loc="outside lower center",
                  ncols=2 * len(references), frameon=False, fontsize=8)  # fmt: skip
    figure.suptitle(f"{comparison.about['title']}, {len(comparison.clips)} videos", fontsize=10)
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=200)


def series(comparison: Comparison, reference: str) -> Iterator[tuple[str, list[Point]]]:
    """The lines of the figure, then the variants that are on none, by their names.

    Points of a line are in the order of their speed. Exact variants are left out: they are as
    close as rounding lets them be, which would leave no room for the others.
    """
    lines = comparison.lines()
    joined = {variant for line in lines.values() for variant in line}
    alone = [v for v in comparison.variants if v not in joined and v not in comparison.references]
    for name, variants in [*lines.items(), *((variant, [variant]) for variant in alone)]:
        found = [_point(comparison, variant, reference) for variant in variants]
        points = [point for point in found if point is not None]
        if points:
            yield name, sorted(points, key=lambda point: point.speed)


def _point(comparison: Comparison, variant: str, reference: str) -> Point | None:
    stat, speed = comparison.stat(variant, "psnr", reference), comparison.speed(variant)
    if stat is None or speed is None or variant in comparison.exact or variant == reference:
        return None
    interval = comparison.interval(variant, "psnr", reference)
    return Point(variant, speed, min(stat.mean, 100.0), interval)


def _draw(axes: Axes, comparison: Comparison, reference: str) -> None:
    others = 0
    for name, points in series(comparison, reference):
        style: dict[str, Any] = dict(_FEWER)
        if name != FEWER_STEPS:
            style["color"] = _COLOURS[others % len(_COLOURS)]
            style["marker"] = _MARKERS[others % len(_MARKERS)]
            style["linestyle"] = "-"
            others += 1
        label = "fewer steps" if name == FEWER_STEPS else name
        x, y = [p.speed for p in points], [p.psnr for p in points]
        axes.plot(x, y, label=label, linewidth=1.3, markersize=5, zorder=3, **style)
        for point in points:
            if point.interval is not None:
                axes.vlines(point.speed, *point.interval, color=style["color"], linewidth=0.8)
        if len(points) > 1 and name != FEWER_STEPS:
            _label_ends(axes, name, points, style["color"])
    axes.set_xlabel(f"speedup of denoising over {comparison.references[0]}", fontsize=9)
    axes.set_ylabel(f"PSNR against {reference} (dB)", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(linewidth=0.3)
    axes.tick_params(labelsize=8)


def _label_ends(axes: Axes, name: str, points: list[Point], colour: str) -> None:
    """The swept values at both ends of a line."""
    base = name.partition(",")[0]
    for point, shift in ((points[0], (4, 5)), (points[-1], (4, 5))):
        text = point.variant.removeprefix(f"{base}-").replace("-", " ", 1)
        axes.annotate(text, (point.speed, point.psnr), xytext=shift, fontsize=7, color=colour,
                      textcoords="offset points")  # fmt: skip
