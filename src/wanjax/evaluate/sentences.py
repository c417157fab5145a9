"""What a comparison's numbers say, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from wanjax.evaluate.comparison import AGAINST, Comparison
from wanjax.evaluate.numbers import DIGITS, number, signed
from wanjax.evaluate.paired import Paired

_CLOSE = 0.1  # dB; less than that is no difference worth a word
_UNSTEADY = 1.2  # of the ideal speedup; caches and small kernels account for less
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
        *_sweeps(comparison),
        *_scores(comparison),
        *_unsteady(comparison),
    ]


def _speeds(comparison: Comparison) -> Iterator[str]:
    reference, *_ = comparison.references
    for variant in comparison.variants:
        time, psnr = comparison.time(variant), comparison.stat(variant, "psnr", reference)
        if comparison.kind(variant) != "lossy" or time is None or psnr is None:
            continue
        if variant in _of_sweeps(comparison) or variant in comparison.rows.values():
            continue  # the tables and the figure have them
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
    for variant in comparison.variants:
        row = comparison.rows.get(variant)
        if row is not None and variant not in _of_sweeps(comparison):
            for reference in comparison.references:
                yield from _duel(comparison, variant, row, reference)


def _of_sweeps(comparison: Comparison) -> set[str]:
    """The variants that a sweep made: one sentence is for all of them."""
    return {variant for line in comparison.sweeps.values() for variant in line[1:]}


def _sweeps(comparison: Comparison) -> Iterator[str]:
    for name, line in comparison.sweeps.items():
        for reference in comparison.references:
            pairs = [(v, comparison.rows[v]) for v in line if v in comparison.rows]
            found = [comparison.paired(*pair, "psnr", reference) for pair in pairs]
            known = [pair for pair in found if pair is not None]
            closer = [pair for pair in known if pair.difference > 0]
            if known:
                yield (
                    f"Over the sweep `{name}` caching is closer to `{reference}` than fewer steps "
                    f"of the same cost at {len(closer)} of {len(known)} values, "
                    f"{sum(pair.decided for pair in closer)} of them beyond chance."
                )


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
    near, far = (variant, row) if found.difference > 0 else (row, variant)
    if than == "than" and (others := _otherwise(comparison, near, far, reference)):
        yield (
            f"PSNR is not all of it: `{far}` is closer to `{reference}` than `{near}` by "
            f"{_listed(others)}."
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


def _otherwise(comparison: Comparison, near: str, far: str, reference: str) -> list[str]:
    """What has `far` nearer, which mean PSNR has not: other metrics, and the worst video."""
    found = []
    for metric, worst in AGAINST.items():
        stats = [comparison.stat(name, metric, reference) for name in (far, near)]
        if worst is None or None in stats:
            continue
        if metric == "psnr":
            name, values = "the worst video's PSNR", [s.worst for s in stats if s]
        else:
            name, values = _NAMES[metric], [s.mean for s in stats if s]
        ours, theirs = (round(value, DIGITS[metric]) for value in values if value is not None)
        if ours > theirs if worst is min else ours < theirs:
            shown = (number(value, DIGITS[metric]) for value in (ours, theirs))
            found.append(f"{name} ({' against '.join(shown)})")
    return found


def _listed(items: Sequence[str]) -> str:
    """`A`, `A and B`, `A, B and C`."""
    *before, last = items
    return f"{', '.join(before)} and {last}" if before else last


def _scores(comparison: Comparison) -> Iterator[str]:
    scores = {v: comparison.stat(v, "score") for v in comparison.variants}
    shown = {v: f"{stat.mean:.1%}" for v, stat in scores.items() if stat is not None}
    if len(shown) > 1 and len(set(shown.values())) == 1:
        yield f"Attributes of the prompt shown: {next(iter(shown.values()))} by every variant."
    elif shown:
        each = (f"`{variant}` {share}" for variant, share in shown.items())
        yield f"Attributes of the prompt shown: {', '.join(each)}."


def _unsteady(comparison: Comparison) -> Iterator[str]:
    """Faster than counting blocks allows: the machine did something else in between."""
    times = {variant: comparison.time(variant) for variant in comparison.variants}
    beyond = {v: t["realised"] for v, t in times.items() if t and t.get("realised", 0) > _UNSTEADY}
    if beyond:
        variant = max(beyond, key=lambda name: beyond[name])
        yield (
            f"The times are unsteady: `{variant}` seems to reach {beyond[variant]:.0%} of its "
            "ideal speedup. Measure again on an idle machine, or with more repeats."
        )
