"""What a comparison found: runs of several variants, summed up over clips."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any, NamedTuple

from wanjax.evaluate.metrics import IDENTICAL, mean_psnr
from wanjax.evaluate.paired import Paired, interval, paired
from wanjax.evaluate.store import Record, plain
from wanjax.files import without_home
from wanjax.planning.variants import FEWER_STEPS, cost

Worst = Callable[[Iterable[float]], float]

# Metrics against a reference and alone, in the order of the tables, and which value is worst
# (None: neither more nor less is better as such).
AGAINST: dict[str, Worst | None] = {
    "psnr": min,
    "ssim": min,
    "temporal_ssim": min,
    "lpips": max,
    "added_flicker": max,
}
ALONE: dict[str, Worst | None] = {"flicker": None, "score": min}
STAGES = ("text", "condition", "denoise", "decode")
STEP_KINDS = {"#": "computed", ".": "skipped", "+": "in_part"}

DEFINITIONS = {
    "psnr": "dB, per frame on float frames in [0, 1] before encoding, then the mean over "
    "frames; an identical frame counts as 100 dB unless all are",
    "ssim": "11x11 Gaussian window of sigma 1.5, valid region, mean over channels and frames",
    "temporal_ssim": "SSIM, with the same constants, of the changes from frame to frame: whether "
    "things move as in the reference; what is wrong but stands still counts for nothing",
    "lpips": "AlexNet, version 0.1, mean over frames",
    "flicker": "mean absolute change from frame to frame, in 8-bit levels; motion counts",
    "added_flicker": "the flicker of the difference from the reference",
    "score": "share of the prompt's attributes that the video shows (bundled models)",
    "spread": "standard deviation over clips",
    "kind": "exact: computes what the reference does by another way, the same to rounding; "
    "lossy: anything else",
    "interval": "the mean over clips with 95 % confidence, by Student's t",
    "lines": "variants that a chart joins: a sweep's, and dense runs of fewer steps",
    "cost": "dense steps that evaluate as many transformer blocks, mean over clips",
    "equal_cost": "the fewer-steps row of the nearest whole number of steps",
    "paired": "against the row of equal cost and against MagCache, video by video: mean of "
    "variant minus rival, its 95 % interval by Student's t, in how many videos the variant is "
    "nearer to the reference, two-sided sign test; a PSNR above 100 dB counts as 100; videos "
    "count as independent, which seeds of one prompt are not wholly",
    "speedup": "denoising seconds of the reference over the variant's, medians of warm runs",
    "step_memory_bytes": "arguments, results and temporaries of the largest step, by XLA's count",
    "peak_memory_bytes": "highest since the process started: the device's, on CPU the process's",
}


class Stat(NamedTuple):
    """A metric over clips."""

    mean: float
    spread: float | None  # standard deviation; None for one clip
    worst: float | None


@dataclass(frozen=True)
class Comparison:
    """Records of every variant and clip; `references` are variants, the main one first.

    `about` says what was compared and how: title, settings, command, environment. `changes`
    are what each variant changes. `videos` are the mp4 files by variant and clip. `timed` are
    the runs that times are taken from, empty where nothing was generated. `exact` variants
    compute what the reference does by another way; `rows` are the dense rows of equal cost by
    cached variant; `sweeps` are variants of one setting at many values, by the line's name.
    `figure` is a picture that is to be drawn, too.
    """

    about: Mapping[str, Any]
    references: tuple[str, ...]
    changes: Mapping[str, str]
    clips: Sequence[Mapping[str, Any]]  # name, prompt, seed
    runs: Mapping[str, Mapping[str, Record]]
    videos: Mapping[str, Mapping[str, Path]]
    folder: Path
    fps: int
    timed: Mapping[str, Sequence[Record]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    exact: frozenset[str] = frozenset()
    rows: Mapping[str, str] = field(default_factory=dict)
    sweeps: Mapping[str, Sequence[str]] = field(default_factory=dict)
    figure: Path | None = None

    def __post_init__(self) -> None:
        for name in ("about", "changes", "clips", "notes"):  # others may read them
            object.__setattr__(self, name, without_home(getattr(self, name)))

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(self.runs)

    def values(self, variant: str, metric: str, reference: str | None = None) -> list[float]:
        """The metric of each clip, in order; empty where it was not measured."""
        found = [_value(record, metric, reference) for record in self._records(variant)]
        return [value for value in found if value is not None]

    def stat(self, variant: str, metric: str, reference: str | None = None) -> Stat | None:
        """Mean, spread and worst case over clips; None where the metric was not measured."""
        values = self.values(variant, metric, reference)
        if not values:
            return None
        mean = mean_psnr(values) if metric == "psnr" else fmean(values)
        finite = [min(value, IDENTICAL) for value in values] if metric == "psnr" else values
        spread = stdev(finite) if len(values) > 1 else None
        worst = (AGAINST | ALONE)[metric]
        return Stat(mean, spread, None if worst is None else worst(values))

    def paired(self, variant: str, rival: str, metric: str, reference: str) -> Paired | None:
        """The two video by video; None where the metric was not measured."""
        ours, theirs = (self.values(name, metric, reference) for name in (variant, rival))
        worst = AGAINST[metric]
        if worst is None or not ours or not theirs:
            return None
        if metric == "psnr":
            ours, theirs = ([min(v, IDENTICAL) for v in values] for values in (ours, theirs))
        return paired(ours, theirs, worst)

    def rivals(self, variant: str) -> list[str]:
        """Whom a cached variant is paired with: its row of equal cost, and MagCache."""
        if not self.is_cached(variant):
            return []
        cached = [name for name in self.variants if self._method(name) == "magcache"]
        magcache = "magcache" if "magcache" in cached else next(iter(cached), None)
        named = (self.rows.get(variant), magcache)
        return [name for name in named if name is not None and name != variant]

    def kind(self, variant: str) -> str:
        """`reference`, `exact` (the same to rounding) or `lossy`."""
        if variant in self.references:
            return "reference"
        return "exact" if variant in self.exact else "lossy"

    def is_cached(self, variant: str) -> bool:
        return self._method(variant) not in (None, "dense")

    def lines(self) -> dict[str, list[str]]:
        """Variants that a chart joins: those of each sweep, and dense runs of fewer steps."""
        found = {name: list(variants) for name, variants in self.sweeps.items()}
        if self.rows:
            found[FEWER_STEPS] = [self.references[0], *dict.fromkeys(self.rows.values())]
        return found

    def speed(self, variant: str) -> float | None:
        """How much faster denoising was than the main reference's, or, untimed, should be."""
        time = self.time(variant)
        if time is not None:
            return time.get("speedup")
        costs = self.cost(self.references[0]), self.cost(variant)
        return None if costs[0] is None or costs[1] is None else costs[0] / costs[1]

    def interval(self, variant: str, metric: str, reference: str) -> tuple[float, float] | None:
        """The mean over clips with 95 % confidence, by Student's t; None for fewer than two."""
        values = self.values(variant, metric, reference)
        return interval([min(v, IDENTICAL) if metric == "psnr" else v for v in values])

    def cost(self, variant: str) -> float | None:
        """Dense steps that evaluate as many transformer blocks, the mean over clips."""
        plans = [record["plan"] for record in self._records(variant) if "plan" in record]
        return fmean(map(cost, plans)) if plans else None

    def time(self, variant: str) -> dict[str, Any] | None:
        """Medians over the warm runs, and the speed relative to the main reference."""
        runs = self.timed.get(variant)
        if not runs:
            return None
        seconds = {
            stage: median(run["seconds"].get(stage, 0.0) for run in runs) for stage in STAGES
        }
        denoise = [run["seconds"]["denoise"] for run in runs]
        ideal = median(run["plan"]["ideal_speedup"] for run in runs)
        found: dict[str, Any] = {
            "runs": len(runs),
            "seconds": seconds,
            "total": sum(seconds.values()),
            "denoise_range": [min(denoise), max(denoise)],
            "step_seconds": _step_seconds(runs),
            "compile_seconds": max(run["compile_seconds"] for run in self._records(variant)),
        }
        dense = self.timed.get(self.references[0])
        if dense:
            base = median(run["seconds"]["denoise"] for run in dense)
            # a plan's ideal counts against its own steps, a speedup against the reference's
            ideal *= dense[0]["plan"]["steps"] / runs[0]["plan"]["steps"]
            speedup = base / seconds["denoise"]
            found |= {"speedup": speedup, "ideal_speedup": ideal, "realised": speedup / ideal}
        return found

    def memory(self, variant: str) -> dict[str, int] | None:
        """Bytes, the most of any run."""
        names = ("peak_memory_bytes", "step_memory_bytes", "cache_bytes")
        records = [record for record in self._records(variant) if names[0] in record]
        return {name: max(r[name] for r in records) for name in names} if records else None

    def plan(self, variant: str) -> dict[str, Any] | None:
        """The plan of the first clip (a method that decides at run time may have others)."""
        return next(iter(self._records(variant))).get("plan")

    def _method(self, variant: str) -> str | None:
        plan = self.plan(variant)
        return None if plan is None else plan["method"]

    def metrics(self) -> dict[str, Any]:
        """All of it as JSON can say it: the content of metrics.json."""
        variants = {name: self._summary(name) for name in self.variants}
        content = {
            **self.about,
            "references": self.references,
            "variants": variants,
            "lines": self.lines(),
            "clips": [self._clip(clip) for clip in self.clips],
            "notes": self.notes,
            "definitions": DEFINITIONS,
        }
        plain_content: dict[str, Any] = plain(content)
        return plain_content

    def _summary(self, variant: str) -> dict[str, Any]:
        against = {
            reference: self._stats(variant, AGAINST, reference)
            for reference in self.references
            if reference != variant
        }
        return {
            "changes": self.changes.get(variant, ""),
            "kind": self.kind(variant),
            "plan": self.plan(variant),
            "cost": self.cost(variant),
            "equal_cost": self.rows.get(variant),
            "alone": self._stats(variant, ALONE, None),
            "against": against,
            "paired": {rival: self._paired(variant, rival) for rival in self.rivals(variant)},
            "time": self.time(variant),
            "memory": self.memory(variant),
        }

    def _paired(self, variant: str, rival: str) -> dict[str, dict[str, Any]]:
        """By reference and metric."""
        return {
            reference: {
                metric: asdict(found)
                for metric in AGAINST
                if (found := self.paired(variant, rival, metric, reference)) is not None
            }
            for reference in self.references
            if reference not in (variant, rival)
        }

    def _stats(
        self, variant: str, metrics: Iterable[str], reference: str | None
    ) -> dict[str, dict[str, Any]]:
        stats = {name: self.stat(variant, name, reference) for name in metrics}
        found = {name: stat._asdict() for name, stat in stats.items() if stat is not None}
        if reference is not None:
            for name in found:
                found[name]["interval"] = self.interval(variant, name, reference)
        return found

    def _clip(self, clip: Mapping[str, Any]) -> dict[str, Any]:
        runs = {}
        for variant in self.variants:
            record = self.runs[variant][clip["name"]]
            kept: dict[str, Any] = {
                key: record[key] for key in ("flicker", "score", "right") if key in record
            }
            if "plan" in record:
                kept["strip"] = record["plan"]["strip"]
            kept["against"] = {
                reference: {key: value for key, value in found.items() if key != "fingerprint"}
                | {"mean": {m: _value(record, m, reference) for m in AGAINST if m in found}}
                for reference, found in record["against"].items()
            }
            runs[variant] = kept
        return {**clip, "runs": runs}

    def _records(self, variant: str) -> Iterator[Record]:
        return (self.runs[variant][clip["name"]] for clip in self.clips)


def _value(record: Record, metric: str, reference: str | None) -> float | None:
    found = record if reference is None else record["against"].get(reference, {})
    value = found.get(metric)
    if not isinstance(value, list):
        return None if value is None else float(value)
    frames = [float(frame) for frame in value]  # "inf" in a stored record
    if not frames:  # of a still there is nothing about time
        return None
    return mean_psnr(frames) if metric == "psnr" else fmean(frames)


def _step_seconds(runs: Sequence[Record]) -> dict[str, float]:
    """The median step of each kind."""
    found: dict[str, list[float]] = {}
    for run in runs:
        marks = run["plan"]["strip"].replace("|", "")
        for mark, seconds in zip(marks, run["step_seconds"], strict=True):
            found.setdefault(STEP_KINDS[mark], []).append(seconds)
    return {kind: median(seconds) for kind, seconds in found.items()}
