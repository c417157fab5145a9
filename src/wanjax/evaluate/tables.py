"""A comparison in words and as a Markdown table, for papers and issues."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from wanjax.evaluate.comparison import Comparison, Stat
from wanjax.planning.variants import FEWER_STEPS

_HEADS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "lpips": "LPIPS", "added_flicker": "added flicker"}
_DIGITS = {"psnr": 1, "ssim": 4, "lpips": 4, "added_flicker": 2, "flicker": 2, "score": 3}
_CLOSE = 0.1  # dB; less than that is no difference worth a word


def markdown(comparison: Comparison) -> str:
    """The whole comparison as Markdown: command, tables, findings, notes."""
    about = comparison.about
    settings = "; ".join(about["settings"].values())
    device = about["environment"].get("device", {}).get("kind", "")
    count = len(comparison.clips)
    clips = f"{count} video{'s' * (count > 1)} each"
    parts = [f"### {about['title']}", f"```\n{about['command']}\n```"]
    parts.append(". ".join(part for part in (settings, clips, device) if part) + ".")
    for reference in comparison.references:
        parts += [f"Quality against `{reference}`:", table(_quality_rows(comparison, reference))]
    if comparison.timed:
        parts += ["Cost:", table(_cost_rows(comparison))]
    parts += ["\n".join(f"- {line}" for line in findings(comparison))]
    parts += [f"Note: {note}" for note in comparison.notes]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it reads well as plain text too."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def findings(comparison: Comparison) -> list[str]:
    """What the numbers say, one sentence each."""
    return [
        *_speeds(comparison),
        *_duels(comparison),
        *_scores(comparison),
    ]


def show(stat: Stat | None, metric: str) -> str:
    """`mean ± standard deviation (worst)`."""
    if stat is None:
        return ""
    digits = _DIGITS[metric]
    spread = f" ± {stat.spread:.{digits}f}" if stat.spread else ""
    worst = "" if stat.worst in (None, stat.mean) else f" ({number(stat.worst, digits)})"
    return number(stat.mean, digits) + spread + worst


def number(value: float | None, digits: int) -> str:
    return "" if value is None else "∞" if math.isinf(value) else f"{value:.{digits}f}"


def _quality_rows(comparison: Comparison, reference: str) -> list[list[str]]:
    against = [
        name
        for name in _HEADS
        if any(comparison.values(v, name, reference) for v in comparison.variants)
    ]
    alone = [n for n in ("flicker", "score") if comparison.values(reference, n)]
    if reference != comparison.references[0]:
        alone = []  # the first table has them
    rows = [["variant", *(_HEADS[name] for name in against), *alone]]
    for variant in comparison.variants:
        cells = [show(comparison.stat(variant, name, reference), name) for name in against]
        if variant == reference:
            cells = ["reference", *[""] * (len(against) - 1)]
        cells += [show(comparison.stat(variant, name), name) for name in alone]
        rows.append([variant, *cells])
    return rows


def _cost_rows(comparison: Comparison) -> list[list[str]]:
    heads = ["variant", "steps computed", "plan", "denoise (s)", "step computed / skipped (ms)"]
    heads += ["total (s)", "speedup", "of the ideal", "step memory (MB)", "cache (MB)"]
    rows = [heads]
    for variant in comparison.variants:
        time, memory = comparison.time(variant), comparison.memory(variant)
        plan = comparison.plan(variant)
        if time is None or memory is None or plan is None:
            continue
        steps = [time["step_seconds"].get(kind) for kind in ("computed", "skipped")]
        rows.append(
            [
                variant,
                f"{plan['computed']} of {plan['steps']}",
                f"`{plan['strip'].replace('|', ' ')}`",  # a bar would end the cell
                f"{time['seconds']['denoise']:.3g}",
                " / ".join("-" if s is None else f"{1000 * s:.3g}" for s in steps),
                f"{time['total']:.3g}",
                f"{time['speedup']:.2f}x",
                f"{time['realised']:.0%} of {time['ideal_speedup']:.2f}x",
                f"{memory['step_memory_bytes'] / 1e6:.3g}",
                f"{memory['cache_bytes'] / 1e6:.3g}",
            ]
        )
    return rows


def _speeds(comparison: Comparison) -> Iterator[str]:
    reference, *_ = comparison.references
    for variant in comparison.variants:
        time, psnr = comparison.time(variant), comparison.stat(variant, "psnr", reference)
        if variant in comparison.references or time is None or psnr is None:
            continue
        worst = "" if psnr.worst == psnr.mean else f" (worst video {number(psnr.worst, 1)} dB)"
        yield (
            f"`{variant}` denoises {time['speedup']:.2f} times as fast as `{reference}` "
            f"({time['realised']:.0%} of the ideal {time['ideal_speedup']:.2f}), at "
            f"{number(psnr.mean, 1)} dB{worst}."
        )


def _duels(comparison: Comparison) -> Iterator[str]:
    """Caching against fewer steps of the same cost, where both ran."""
    cached = next((v for v in comparison.variants if _skips(comparison, v)), None)
    if cached is None or FEWER_STEPS not in comparison.variants:
        return
    for reference in comparison.references:
        ours = comparison.values(cached, "psnr", reference)
        theirs = comparison.values(FEWER_STEPS, "psnr", reference)
        a = comparison.stat(cached, "psnr", reference)
        b = comparison.stat(FEWER_STEPS, "psnr", reference)
        if a is None or b is None:
            continue
        wins = sum(x > y for x, y in zip(ours, theirs, strict=True))
        verdict = "is as close"
        if abs(a.mean - b.mean) >= _CLOSE:
            verdict = "is closer" if a.mean > b.mean else "loses: it is less close"
        yield (
            f"At equal cost `{cached}` {verdict} to `{reference}` "
            f"{'as' if 'as' in verdict else 'than'} `{FEWER_STEPS}`: {number(a.mean, 1)} against "
            f"{number(b.mean, 1)} dB, closer in {wins} of {len(ours)} videos."
        )


def _skips(comparison: Comparison, variant: str) -> bool:
    plan = comparison.plan(variant)
    return plan is not None and plan["method"] != "dense"


def _scores(comparison: Comparison) -> Iterator[str]:
    scores = {v: comparison.stat(v, "score") for v in comparison.variants}
    shown = [f"`{v}` {stat.mean:.1%}" for v, stat in scores.items() if stat is not None]
    if shown:
        yield f"Attributes of the prompt shown: {', '.join(shown)}."
