"""What a comparison's numbers say, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from wanjax.evaluate.comparison import AGAINST, Comparison
from wanjax.evaluate.numbers import DIGITS, number, signed
from wanjax.evaluate.paired import Paired

_CLOSE = 0.1  # dB; less than that is no difference worth a word
_NAMES = {
    "ssim": "SSIM",
    "temporal_ssim": "temporal SSIM",
    "lpips": "LPIPS",
    "added_flicker": "added flicker",
}


def findings(comparison: Comparison) -> list[str]:
    """What the numbers say, one sentence each."""
    return [
        *_speeds(comparison),
        *_exact(comparison),
        *_duels(comparison),
        *_scores(comparison),
    ]


def _speeds(comparison: Comparison) -> Iterator[str]:
    reference, *_ = comparison.references
    for variant in comparison.variants:
        time, psnr = comparison.time(variant), comparison.stat(variant, "psnr", reference)
        if comparison.kind(variant) != "lossy" or time is None or psnr is None:
            continue
        worst = "" if psnr.worst == psnr.mean else f" (worst video {number(psnr.worst, 1)} dB)"
        yield (
            f"`{variant}` denoises {time['speedup']:.2f} times as fast as `{reference}` "
            f"({time['realised']:.0%} of the ideal {time['ideal_speedup']:.2f}), at "
            f"{number(psnr.mean, 1)} dB{worst}."
        )


def _exact(comparison: Comparison) -> Iterator[str]:
    """Variants that lose nothing: how much they gain, and that they do lose nothing."""
    reference, *_ = comparison.references
    for variant in comparison.variants:
        time, psnr = comparison.time(variant), comparison.stat(variant, "psnr", reference)
        if variant in comparison.exact and time is not None and psnr is not None:
            yield (
                f"`{variant}` computes what `{reference}` does by another way: worst video "
                f"{number(psnr.worst, 1)} dB, {time['speedup']:.2f} times as fast."
            )


def _duels(comparison: Comparison) -> Iterator[str]:
    """Caching against fewer steps of the same cost, wherever both ran."""
    for variant, row in comparison.rows.items():
        for reference in comparison.references:
            yield from _duel(comparison, variant, row, reference)


def _duel(comparison: Comparison, variant: str, row: str, reference: str) -> Iterator[str]:
    ours, theirs = (comparison.stat(name, "psnr", reference) for name in (variant, row))
    found = comparison.paired(variant, row, "psnr", reference)
    if ours is None or theirs is None or found is None:
        return
    verdict, than = "is as close", "as"
    if abs(found.difference) >= _CLOSE:
        closer = found.difference > 0
        verdict, than = ("is closer" if closer else "loses: it is less close"), "than"
    count = found.closer + found.tied + found.farther
    yield (
        f"At equal cost `{variant}` {verdict} to `{reference}` {than} `{row}`: "
        f"{number(ours.mean, 1)} against {number(theirs.mean, 1)} dB, closer in {found.closer} of "
        f"{count} videos{_certainty(found)}."
    )
    if than == "than" and (others := _otherwise(comparison, variant, row, reference)):
        near = row if found.difference > 0 else variant
        yield (
            f"PSNR is not all of it: to `{reference}`, `{near}` is the closer of `{variant}` and "
            f"`{row}` by {_listed(others)}."
        )


def _certainty(found: Paired) -> str:
    """`(+3.1 dB, 95 % interval +1.2 to +5.0; sign test p = 0.004)`."""
    if found.interval is None:
        return ""
    low, high = (signed(value, 1) for value in found.interval)
    across = "" if found.decided else "; the interval holds zero, so the videos do not decide it"
    return (
        f" ({signed(found.difference, 1)} dB, 95 % interval {low} to {high}; "
        f"sign test p = {found.sign_p:.2g}{across})"
    )


def _otherwise(comparison: Comparison, variant: str, row: str, reference: str) -> list[str]:
    """What has the other one nearer than mean PSNR has: other metrics, and the worst video."""
    found = []
    psnr = comparison.paired(variant, row, "psnr", reference)
    for metric, worst in AGAINST.items():
        stats = [comparison.stat(name, metric, reference) for name in (variant, row)]
        if psnr is None or worst is None or None in stats:
            continue
        sense = (1 if worst is min else -1) * (1 if psnr.difference > 0 else -1)
        if metric == "psnr":
            name, values = "the worst video's PSNR", [s.worst for s in stats if s]
        else:
            name, values = _NAMES[metric], [s.mean for s in stats if s]
        ours, theirs = (round(value, DIGITS[metric]) for value in values if value is not None)
        if sense * ours < sense * theirs:
            shown = (number(value, DIGITS[metric]) for value in (ours, theirs))
            found.append(f"{name} ({' against '.join(shown)})")
    return found


def _listed(items: Sequence[str]) -> str:
    """`A`, `A and B`, `A, B and C`."""
    *before, last = items
    return f"{', '.join(before)} and {last}" if before else last


def _scores(comparison: Comparison) -> Iterator[str]:
    scores = {v: comparison.stat(v, "score") for v in comparison.variants}
    shown = [f"`{v}` {stat.mean:.1%}" for v, stat in scores.items() if stat is not None]
    if shown:
        yield f"Attributes of the prompt shown: {', '.join(shown)}."
