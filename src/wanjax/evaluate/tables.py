"""A comparison as Markdown tables, for papers and issues."""

from __future__ import annotations

from collections.abc import Sequence

from wanjax.evaluate.comparison import AGAINST, Comparison, Stat
from wanjax.evaluate.numbers import DIGITS, number, signed
from wanjax.evaluate.sentences import findings

_HEADS = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "temporal_ssim": "temporal SSIM",
    "lpips": "LPIPS",
    "added_flicker": "added flicker",
}


def markdown(comparison: Comparison) -> str:
    """The whole comparison as Markdown: command, tables, findings, notes."""
    about = comparison.about
    settings = "; ".join(about["settings"].values())
    environment = about["environment"]
    device, host = (environment.get(key, {}) for key in ("device", "host"))
    machine = [device.get("kind"), host.get("cpu"), host.get("cores") and f"{host['cores']} cores"]
    where = ", ".join(part for part in machine if part)
    count = len(comparison.clips)
    clips = f"{count} video{'s' * (count > 1)} each"
    parts = [f"### {about['title']}", f"```\n{about['command']}\n```"]
    parts.append(". ".join(part for part in (settings, clips, where) if part) + ".")
    parts += _quality(comparison)
    for reference in comparison.references:
        if len(rows := _paired_rows(comparison, reference)) > 1:
            parts += [f"Video by video, closeness to `{reference}`, with 95 % intervals:"]
            parts += [table(rows)]
    if comparison.timed:
        parts += ["Cost:", table(_cost_rows(comparison))]
    parts += ["\n".join(f"- {line}" for line in findings(comparison))]
    parts += [f"Note: {note}" for note in comparison.notes]
    return "\n\n".join(part for part in parts if part) + "\n"


def _quality(comparison: Comparison) -> list[str]:
    """A table against each reference; variants that are exact stand apart."""
    exact = [name for name in comparison.variants if name in comparison.exact]
    others = [name for name in comparison.variants if name not in exact]
    parts = []
    for reference in comparison.references:
        parts += [f"Quality against `{reference}`:"]
        parts += [table(_quality_rows(comparison, reference, others))]
    if exact:
        main, *_ = comparison.references
        parts += [f"Exact variants, which differ from `{main}` by rounding alone:"]
        parts += [table(_quality_rows(comparison, main, exact))]
    return parts


def table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it reads well as plain text too."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def show(stat: Stat | None, metric: str) -> str:
    """`mean ± standard deviation (worst)`."""
    if stat is None:
        return ""
    digits = DIGITS[metric]
    spread = f" ± {stat.spread:.{digits}f}" if stat.spread else ""
    worst = "" if stat.worst in (None, stat.mean) else f" ({number(stat.worst, digits)})"
    return number(stat.mean, digits) + spread + worst


def _quality_rows(
    comparison: Comparison, reference: str, variants: Sequence[str]
) -> list[list[str]]:
    against = [
        name
        for name in _HEADS
        if any(comparison.values(v, name, reference) for v in comparison.variants)
    ]
    alone = [n for n in ("flicker", "score") if comparison.values(reference, n)]
    if reference != comparison.references[0]:
        alone = []  # the first table has them
    rows = [["variant", *(_HEADS[name] for name in against), *alone]]
    for variant in variants:
        cells = [show(comparison.stat(variant, name, reference), name) for name in against]
        if variant == reference:
            cells = ["reference", *[""] * (len(against) - 1)]
        cells += [show(comparison.stat(variant, name), name) for name in alone]
        rows.append([variant, *cells])
    return rows


def _paired_rows(comparison: Comparison, reference: str) -> list[list[str]]:
    """Every cached variant against its row of equal cost and against MagCache."""
    measured = [m for m in AGAINST if comparison.values(comparison.variants[-1], m, reference)]
    heads = ["variant", "against", "cost (dense steps)"]
    rows = [heads + [_HEADS[m] for m in measured] + ["closer in PSNR", "sign test p"]]
    for variant in comparison.variants:
        for rival in comparison.rivals(variant):
            psnr = comparison.paired(variant, rival, "psnr", reference)
            if psnr is None:
                continue
            costs = " / ".join(number(comparison.cost(name), 1) for name in (variant, rival))
            cells = [_difference(comparison, variant, rival, m, reference) for m in measured]
            count = psnr.closer + psnr.tied + psnr.farther
            wins = f"{psnr.closer} of {count}"
            rows.append([variant, rival, costs, *cells, wins, f"{psnr.sign_p:.2g}"])
    return rows


def _difference(
    comparison: Comparison, variant: str, rival: str, metric: str, reference: str
) -> str:
    """`+3.1 [1.2, 5.0]`: the mean, variant minus rival, and its interval."""
    found = comparison.paired(variant, rival, metric, reference)
    if found is None:
        return ""
    digits = DIGITS[metric]
    between = ", ".join(signed(value, digits) for value in found.interval or ())
    return signed(found.difference, digits) + (f" [{between}]" if between else "")


def _cost_rows(comparison: Comparison) -> list[list[str]]:
    heads = ["variant", "steps computed", "plan", "denoise (s)", "step computed / skipped (ms)"]
    heads += ["total (s)", "speedup", "of the ideal", "step memory (MB)", "cache (MB)"]
    rows = [heads]
    for variant in sorted(comparison.variants, key=comparison.exact.__contains__):
        time, memory = comparison.time(variant), comparison.memory(variant)
        plan = comparison.plan(variant)
        if time is None or memory is None or plan is None:
            continue
        steps = [time["step_seconds"].get(kind) for kind in ("computed", "skipped")]
        rows.append(
            [
                f"{variant} (exact)" if variant in comparison.exact else variant,
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
