"""Plans and curves as small SVG pictures, for notebooks; files are drawn by `planning.plot`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from wanjax.caching.strips import COMPUTED, PARTIAL, SKIPPED, SWITCH, UNDECIDED

_FILL = {COMPUTED: "#222", SKIPPED: "#fff", PARTIAL: "#999", UNDECIDED: "#ddd"}
_MEANING = {
    COMPUTED: "computed",
    SKIPPED: "skipped",
    PARTIAL: "one branch computed",
    UNDECIDED: "decided during the run",
}
_WIDTH, _MARGIN = 760, 12
_BOX = 26  # pixels at most


def strip_svg(strip: str, title: str) -> str:
    """A box a step, filled where it computes, with a gap where the experts change."""
    marks = strip.replace(SWITCH, "")
    switch = strip.find(SWITCH)
    gap = 10 if switch > 0 else 0
    size = min(_BOX, (_WIDTH - 2 * _MARGIN - gap) / len(marks))
    every = next(n for n in (1, 2, 5, 10, 20, 50, 100, 200) if n * size >= 20)
    parts = [_text(_MARGIN, 20, title)]
    for i, mark in enumerate(marks):
        x = _MARGIN + i * size + (gap if 0 < switch <= i else 0)
        parts.append(
            f'<rect x="{x + 1:.1f}" y="30" width="{size - 2:.1f}" height="22" rx="2" '
            f'fill="{_FILL[mark]}" stroke="#222" stroke-width="0.8">'
            f"<title>step {i}: {_MEANING[mark]}</title></rect>"
        )
        if i % every == 0:
            parts.append(_text(x + size / 2, 66, str(i), size=10, anchor="middle"))
    if switch > 0:
        x = _MARGIN + switch * size + gap / 2
        parts.append(f'<path d="M{x:.1f} 27V55" stroke="#222" stroke-dasharray="3 2"/>')
    width = min(_WIDTH, max(2 * _MARGIN + len(marks) * size + gap, 8.0 * len(title)))
    key = "   ".join(_MEANING[mark] for mark in dict.fromkeys(marks))
    return _svg(width, 74, f"{title}. Steps in turn: {strip} ({key})", parts)


class Line(NamedTuple):
    """Values at steps, by name, NaN where there is none; `dashed` tells it from another."""

    name: str
    values: Float[np.ndarray, " steps"]
    dashed: bool = False


def lines_svg(lines: Sequence[Line], title: str, switch: int | None = None) -> str:
    """Values over the steps; a dashed vertical before step `switch`."""
    left, right, top, bottom, height = 52, 14, 46, 30, 230
    values = np.concatenate([line.values for line in lines])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = 0.06 * (high - low) or 0.01
    low, high = low - margin, high + margin
    last = max(len(lines[0].values) - 1, 1)

    def at(step: float, value: float) -> tuple[float, float]:
        across = left + (_WIDTH - left - right) * step / last
        return across, top + (height - top - bottom) * (high - value) / (high - low)

    parts = [_text(_MARGIN, 20, title)]
    for value in _ticks(low, high):
        x, y = at(0, value)
        parts.append(f'<path d="M{x:.1f} {y:.1f}H{_WIDTH - right}" stroke="#ddd"/>')
        parts.append(_text(x - 6, y + 4, f"{value:g}", size=10, anchor="end"))
    for step in _ticks(0, last):
        if step == int(step):
            parts.append(_text(at(step, low)[0], height - 12, f"{step:g}", 10, "middle"))
    if switch is not None:
        x, y = at(switch - 0.5, low)
        parts.append(f'<path d="M{x:.1f} {top}V{y:.1f}" stroke="#222" stroke-dasharray="6 3 1 3"/>')
    for number, line in enumerate(lines):
        style = 'fill="none" stroke="#222" stroke-width="1.4"'
        style += ' stroke-dasharray="5 3"' * line.dashed
        path, pen = "", "M"
        for step, value in enumerate(line.values):
            path += "" if np.isnan(value) else "{}{:.1f} {:.1f}".format(pen, *at(step, value))
            pen = "M" if np.isnan(value) else "L"
        parts.append(f'<path d="{path}" {style}/>')
        x = left + 150 * number
        parts.append(f'<path d="M{x} 35h26" {style}/>')
        parts.append(_text(x + 32, 39, line.name, size=11))
    names = " and ".join(line.name for line in lines)
    return _svg(_WIDTH, height, f"{title}: {names} over {last + 1} steps", parts)


def _ticks(low: float, high: float) -> Iterator[float]:
    """Round values between the two, five or so."""
    rough = (high - low) / 5
    scale = 10.0 ** np.floor(np.log10(rough))
    step = next(n * scale for n in (1, 2, 5, 10) if n * scale >= rough)
    for n in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1):
        yield round(n * step, 12)


def _text(x: float, y: float, text: str, size: int = 13, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-family="sans-serif" font-size="{size}" fill="#222" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )


def _svg(width: float, height: float, about: str, parts: Sequence[str]) -> str:
    """On white, so that it can be read on a dark page."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" role="img" aria-label="{escape(about)}" '
        f'style="max-width:100%;height:auto">'
        f'<rect width="100%" height="100%" rx="6" fill="#fff"/>{"".join(parts)}</svg>'
    )
