"""Plans as a picture: the curve, what is computed and skipped, and the error that decided it.

Everything is told by shape, fill and line style, so that it survives a black-and-white print.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wanjax.caching.method import Chart
from wanjax.caching.plan import Plan
from wanjax.caching.schedule import EXPERT_NAMES
from wanjax.errors import UsageError
from wanjax.files import atomic_path
from wanjax.planning.run import Run

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FORMATS = (".png", ".pdf", ".svg")


def draw_plans(path: Path, runs: Mapping[str, Run]) -> None:
    """Draw one pair of panels per run into `path` (.png, .pdf or .svg).

    Raises `UsageError` where matplotlib is missing or `path` cannot be written.
    """
    figure_class = require_figure("plot", path)
    charts = {name: _chart(run) for name, run in runs.items()}
    heights = [h for chart in charts.values() for h in _heights(chart)]
    figure = figure_class(figsize=(9, 0.6 * sum(heights) + 0.6), layout="constrained")
    panels = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)
    for (name, run), top, bottom in zip(runs.items(), panels[::2, 0], panels[1::2, 0], strict=True):
        _draw_run(name, run.plan, charts[name], top, bottom)
    figure.legend(handles=_key(), loc="outside lower center", ncols=6, frameon=False,
                  fontsize=8, handlelength=1, columnspacing=1.2)  # fmt: skip
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=150)


def require_figure(key: str, path: Path) -> type[Figure]:
    """matplotlib's figure, to be written to the `path` that `key` names.

    Raises `UsageError` where matplotlib is missing or `path` cannot be written.
    """
    if path.suffix not in _FORMATS:
        raise UsageError(f"{key}={path}: name a file that ends in {', '.join(_FORMATS)}")
    if not path.parent.is_dir():
        raise UsageError(f"{key}={path}: there is no folder {path.parent}")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(f'{key} needs matplotlib: pip install "wanjax[plot]"') from error
    return Figure


def _chart(run: Run) -> Chart | None:
    return None if run.method is None else run.method.chart(run.plan)


def _heights(chart: Chart | None) -> tuple[float, float]:
    return (3, 2.2) if chart else (0.5, 0.7)


def _draw_run(name: str, plan: Plan, chart: Chart | None, top: Axes, bottom: Axes) -> None:
    top.set_title(f"{name}: {len(plan.steps)} steps, {plan.summary()}", loc="left", fontsize=10)
    if chart is None:
        top.set_axis_off()
    else:
        _draw_curve(top, chart)
        _draw_errors(bottom, plan, chart)
    _draw_strip(bottom, plan)
    for axes in (top, bottom):
        axes.set_xlim(-0.7, len(plan.steps) - 0.3)
        axes.spines[["top", "right"]].set_visible(False)
    _mark_phases(top, bottom, plan)
    top.set_xticklabels([])
    bottom.set_xlabel("step", fontsize=8)


def _draw_curve(axes: Axes, chart: Chart) -> None:
    styles: tuple[dict[str, Any], ...] = (
        {"linestyle": "-", "markersize": 2.5, "zorder": 3},
        {"linestyle": "--", "markersize": 6, "markerfacecolor": "white"},
        {"linestyle": ":", "markersize": 4, "markerfacecolor": "0.6", "zorder": 2},
    )
    for (label, values), style in zip(chart.lines.items(), styles, strict=False):
        axes.plot(values, color="black", marker="o", linewidth=0.8, label=label, **style)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.12 * (high - low))  # room for the experts' names
    axes.set_ylabel(chart.label, fontsize=8)
    axes.legend(frameon=False, fontsize=8, loc="best")
    axes.grid(axis="y", linewidth=0.3)


def _draw_errors(axes: Axes, plan: Plan, chart: Chart) -> None:
    errors, threshold = chart.errors, chart.threshold
    skipped = np.array([step.skipped for step in plan.steps])
    top = 2 * max(*errors[skipped], threshold or 0, 1e-3)
    for chosen, face in ((skipped, "black"), (~skipped, "white")):
        steps = np.flatnonzero(chosen & (errors > 0) & (errors <= top))
        axes.vlines(steps, 0, errors[steps], color="0.6", linewidth=0.8, zorder=1)
        axes.scatter(steps, errors[steps], s=20, facecolors=face, edgecolors="black", zorder=2)
    beyond = np.flatnonzero(errors > top)
    axes.scatter(beyond, np.full(len(beyond), top), s=24, marker="^", color="black", zorder=2)
    if threshold is not None:
        axes.axhline(threshold, linestyle=":", color="black", linewidth=1)
        axes.text(-0.5, threshold, f"threshold {threshold:g}", fontsize=8, va="bottom")
    axes.set_ylim(-0.28 * top, 1.1 * top)
    axes.set_ylabel("accumulated\nerror", fontsize=8)


def _draw_strip(axes: Axes, plan: Plan) -> None:
    """A row of boxes below zero, one a step."""
    if axes.get_ylim()[0] >= 0:  # no errors above the row
        axes.set_ylim(-1, 0)
        axes.set_yticks([])
    bottom, top = axes.get_ylim()
    height = min(-bottom, 0.14 * (top - bottom) if top > 0 else 1)
    grey = {*plan.partial_steps, *plan.open_steps}
    for step in plan.steps:
        fill = "white" if step.skipped else "0.6" if step.index in grey else "black"
        axes.bar(step.index, -height, width=0.8, color=fill, edgecolor="black", linewidth=0.6)


def _mark_phases(top: Axes, bottom: Axes, plan: Plan) -> None:
    if plan.boundary_step is None:
        return
    for phase in plan.schedule.phases:
        name = f"{EXPERT_NAMES[plan.schedule.experts[phase.start]]}-noise expert"
        middle = (phase.start + phase.stop - 1) / 2
        top.text(
            middle, 0.98, name, fontsize=8, ha="center", va="top",
            transform=top.get_xaxis_transform(),
        )  # fmt: skip
    for axes in (top, bottom):
        axes.axvline(plan.boundary_step - 0.5, color="black", linewidth=0.8, linestyle="-.")


def _key() -> list[Artist]:
    """What the marks mean, for the foot of the picture."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    def mark(label: str, shape: str, face: str) -> Line2D:
        return Line2D(
            [], [], linestyle="", marker=shape, markersize=5, markeredgecolor="black",
            markerfacecolor=face, label=label,
        )  # fmt: skip

    return [
        Patch(facecolor="black", edgecolor="black", label="computed"),
        Patch(facecolor="white", edgecolor="black", label="skipped"),
        Patch(facecolor="0.6", edgecolor="black", label="one branch computed, or undecided"),
        mark("error of a skipped step", "o", "black"),
        mark("error had it been skipped", "o", "white"),
        mark("the same, off the scale", "^", "black"),
    ]
