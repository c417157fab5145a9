"""How long a video takes: from its plan, and the seconds that such parts have taken before.

A part is a stage (`text`, `condition`, `decode`, `save`), what comes before (`compile`, `switch`),
or a step by what its branches do (`step blocks+blocks`). Each has an amount of work: FLOPs, or the
pixels that are saved. Where a part has been measured in videos of the same shape its seconds are
those; elsewhere they follow from what the same work has taken in other shapes.
"""

from __future__ import annotations

import statistics
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from wanjax.caching.plan import Plan, Step
from wanjax.checkpoints.published_models import ModelConfigs
from wanjax.config.keys import Config
from wanjax.planning.flops import stage_flops, step_flops
from wanjax.planning.run import Run

COMPILE, SWITCH, SAVE = "compile", "switch", "save"
_STEP = "step"
_LITTLE = 0.1  # of the largest step's work: what takes less tells nothing of the pace
_LAST = 5  # videos whose median is what a part usually takes
_NEWEST = 0.15  # weight of the newest of many variances
_ALIKE = 4  # steps after one another, which differ alike: they tell as much as one
_RECENT = 16  # steps that tell how busy the machine is
_SURPRISE = 3.0  # standard deviations
_BESIDE = 0.25  # variance of a run's pace beside the compiling of other programs


@dataclass(frozen=True)
class Part:
    """So many times the same, of so much `work` each."""

    name: str
    count: float
    work: float

    @property
    def is_step(self) -> bool:
        return self.name.startswith(_STEP)


COMPILING = Part(COMPILE, 1, 0)  # of programs that are not there yet
SWITCHING = Part(SWITCH, 1, 0)  # to a model whose weights are not on the devices


@dataclass
class _Usual:
    """The median of the last few. A run that was no usual one counts until there is another."""

    seconds: float = 0.0
    count: int = 0
    _last: deque[float] = field(default_factory=lambda: deque(maxlen=_LAST))

    def add(self, seconds: float, unusual: bool) -> None:
        if unusual:
            self.seconds = self.seconds if self.count else seconds
            return
        if self.count and not self._last:  # which is known from another process
            self._last.append(self.seconds)
        self._last.append(seconds)
        self.count += 1
        self.seconds = statistics.median(self._last)


@dataclass
class _Spread:
    """How seconds differ in a shape, as variances: a run's pace (its seconds over the usual
    ones), and a step's seconds from its run's pace, per usual second."""

    runs: float = 0.05  # until there are some
    steps: float = 0.00025
    count: int = 0

    def add(self, runs: float, steps: float) -> None:
        self.count += 1
        weight = max(1 / (self.count + 1), _NEWEST)
        self.runs += weight * (runs - self.runs)
        self.steps += max(1 / self.count, _NEWEST) * (steps - self.steps)


def shape_of(model: str, config: Config) -> str:
    """What seconds are compared within."""
    size = f"{config.width}x{config.height}x{config.num_frames}"
    lora = any((config.lora, config.lora_high, config.lora_low))
    return f"{model}|{size}{'|one by one' * (not config.batch_guidance)}{'|lora' * lora}"


def programs_of(shape: str, run: Run) -> str:
    """A name for what has to be compiled for a run."""
    plan = run.plan
    kinds = sorted({"+".join(step.kind) for step in plan.distinct_steps})
    keeps = "".join(map(str, plan.keeps))
    decides = f"|{plan.method}" if plan.decisions is not None else ""
    return f"{shape}|{','.join(kinds)}|{keeps}{'c' * plan.corrects}{decides}"


def step_name(plan: Plan, step: Step) -> str:
    """Of a step; one that is decided during the run is of the kind of its method."""
    if step.index in plan.open_steps:
        return f"step of {plan.method}"
    return f"step {'+'.join(step.kind)}"


def parts_of(run: Run, configs: ModelConfigs) -> list[Part]:
    """What a run does in the end; of steps that run as one only the first counts."""
    config, plan = run.config, run.plan
    pixels = config.width * config.height * config.num_frames
    stages = stage_flops(config, plan, configs) | {SAVE: pixels}
    parts: dict[str, Part] = {name: Part(name, 1, work) for name, work in stages.items()}
    for steps in plan.runs:
        name = step_name(plan, steps[0])
        work = step_flops(config, plan, configs, steps[0])
        before = parts.get(name, Part(name, 0, work))
        parts[name] = Part(name, before.count + 1, max(work, before.work))
    return list(parts.values())


class Speeds:
    """Seconds by shape and part; `rows` are what `rows()` gave in an earlier process."""

    def __init__(self, rows: Iterable[tuple[str, str, float, int]] = ()):
        self._known = {
            (shape, name): _Usual(seconds, count) for shape, name, seconds, count in rows
        }
        self._spreads: dict[str, _Spread] = {}  # of shapes
        self._lock = threading.Lock()

    def rows(self) -> list[tuple[str, str, float, int]]:
        with self._lock:
            return [(*key, mean.seconds, mean.count) for key, mean in self._known.items()]

    def hear(self, rows: Iterable[tuple[str, str, float, int]]) -> None:
        """What other servers have measured, of parts that were not measured here."""
        with self._lock:
            for shape, name, seconds, count in rows:
                self._known.setdefault((shape, name), _Usual(seconds, count))

    def add(self, shape: str, part: Part, seconds: float, unusual: bool = False) -> None:
        """What a part took, once: of its shape, and of its model for other shapes.

        `unusual`: its programs ran for the first time, or beside the compiling of others. Either
        takes longer.
        """
        with self._lock:
            self._known.setdefault((shape, part.name), _Usual()).add(seconds, unusual)
            rate = seconds / part.work if part.work else seconds
            for name in (part.name, *([_STEP] if part.work and part.is_step else [])):
                self._known.setdefault((_everywhere(shape), name), _Usual()).add(rate, unusual)

    def usual(self, shape: str, part: Part) -> float | None:
        """What it has taken in this shape, once its programs had run before; None: not yet."""
        with self._lock:
            own = self._known.get((shape, part.name))
        return own.seconds if own is not None and own.count else None

    def seconds(self, shape: str, part: Part) -> float | None:
        """What it takes once; None where nothing like it was measured yet."""
        if (usual := self.usual(shape, part)) is not None:
            return usual
        with self._lock:
            first = self._known.get((shape, part.name))
            rate = self._known.get((_everywhere(shape), part.name))
            if first is not None and (rate is None or not rate.count):
                return first.seconds
            if rate is None and part.work and part.name != SAVE:
                rate = self._known.get((_everywhere(shape), _STEP))
        if rate is not None:
            return rate.seconds * (part.work or 1)
        # a step without the model, or a file, is next to nothing
        return None if part.work and part.name != SAVE else 0.0

    def spread(self, shape: str) -> tuple[float, float]:
        """Variances: of a run's pace in this shape, and of a step's seconds per usual second."""
        with self._lock:
            known = self._spreads.get(shape, _Spread())
            return known.runs, known.steps

    def differed(self, shape: str, runs: float, steps: float) -> None:
        """What a run's variances were."""
        with self._lock:
            self._spreads.setdefault(shape, _Spread()).add(runs, steps)

    def estimate(self, shape: str, parts: Sequence[Part]) -> float | None:
        """What all of it takes."""
        each = [(part, self.seconds(shape, part)) for part in parts]
        known = [part.count * seconds for part, seconds in each if seconds is not None]
        return sum(known) if len(known) == len(each) else None


def _everywhere(shape: str) -> str:
    return f"{shape.partition('|')[0]}|any"


@dataclass
class Course:
    """A run under way: what is done, and what the rest will take.

    The parts of a run are told by `done` as they end. What is left takes what is usual in this
    shape, times the run's pace: how its steps but the first, which takes longer, and those that
    skip the model, which take next to nothing, have been against the usual ones. Single steps
    differ more than whole runs do, so a pace that a few steps show counts as much as what is known
    of both makes likely.

    What runs beside the compiling of other programs is slower until that ends, and tells nothing
    of the time after it or of other runs.
    """

    shape: str
    speeds: Speeds
    parts: Mapping[str, Part]
    left: dict[str, float] = field(default_factory=dict)
    took: dict[str, list[float]] = field(default_factory=dict)
    alone: dict[str, list[float]] = field(default_factory=dict)  # of these, without compiling
    share: float = 0.0  # of the whole that is done
    leaving: float = 0.0  # seconds that the weights of another model took to leave the devices
    _largest: float = 0.0  # work of a step
    _first: tuple[float, float] | None = None
    _steps: list[tuple[float, float]] = field(default_factory=list)  # seconds, and usual ones
    _beside: list[tuple[float, float]] = field(default_factory=list)  # likewise, beside compiling

    def __post_init__(self) -> None:
        self.left = {name: part.count for name, part in self.parts.items()}
        steps = [part.work for part in self.parts.values() if part.is_step]
        self._largest = max(steps, default=0.0)

    def done(
        self, name: str, seconds: float | None, count: float = 1.0, beside: bool = False
    ) -> None:
        """So much of a part has ended, which took `seconds` (if known) for all of it.

        `beside`: other programs compiled meanwhile.
        """
        if seconds is not None:
            self.took.setdefault(name, []).append(seconds)
            if not beside:
                self.alone.setdefault(name, []).append(seconds)
            part = self.parts[name]
            if part.is_step and part.work >= _LITTLE * self._largest:
                usual = self.speeds.usual(self.shape, part) or 0.0
                if self._first is None:
                    self._first = (seconds, usual)
                elif usual:
                    (self._beside if beside else self._steps).append((seconds, usual))
        self.left[name] = max(0.0, self.left.get(name, 0.0) - count)
        self.share = max(self.share, self._share())

    def remaining(self, beside: float | None = None) -> float | None:
        """Seconds from the end of the last part on.

        `beside`: for so many of them other programs are going to compile; None: for none.
        """
        pace, total = self._pace(beside is not None), 0.0
        for name, count in self.left.items():
            if count:
                seconds = self._seconds(name, pace)
                if seconds is None:
                    return None
                total += count * seconds
        slowed = total if beside is None or pace <= 1 else min(total, beside)
        return slowed + (total - slowed) / pace

    def learn(self, stages: Mapping[str, float], cold: bool, beside: bool = False) -> None:
        """Keep what stages and steps took, and how these differed, for runs to come.

        `cold`: its programs ran for the first time. `beside`: the stages ran beside the compiling
        of other programs.
        """
        if self._steps and not cold:
            pace, _ = _pace_of(self._steps)
            squares = [(seconds - pace * usual) ** 2 / usual for seconds, usual in self._steps]
            self.speeds.differed(self.shape, (pace - 1) ** 2, sum(squares) / len(squares))
        usual = {n: self.speeds.usual(self.shape, self.parts[n]) for n in stages if n in self.parts}
        arriving = SWITCH in self.parts  # weights, amid the stages
        unusual = cold or beside
        for name in usual:
            self.speeds.add(self.shape, self.parts[name], stages[name], unusual or arriving)
        if arriving and not unusual and None not in usual.values():
            longer = sum(max(0.0, stages[name] - (usual[name] or 0.0)) for name in usual)
            self.speeds.add(self.shape, SWITCHING, self.leaving + longer)
        for name, took in self.took.items():
            if self.parts[name].is_step:
                alone = self.alone.get(name)
                provisional = not alone or (cold and len(alone) == 1)
                self.speeds.add(self.shape, self.parts[name], _later(alone or took), provisional)

    def _seconds(self, name: str, pace: float) -> float | None:
        part = self.parts[name]
        usual, own = self.speeds.usual(self.shape, part), self.alone.get(name, self.took.get(name))
        expected = self.speeds.seconds(self.shape, part)
        if usual is None and own:  # the first of these takes longer than other shapes' may tell
            return _later(own) if len(own) > 1 or expected is None else min(*own, expected)
        return self._by_work(part) if expected is None else expected * pace

    def _pace(self, beside: bool) -> float:
        """The likeliest, given how runs and steps differ."""
        steps = (self._beside if beside else self._steps)[-_RECENT:]
        if not steps:
            return 1.0
        runs, by_step = self.speeds.spread(self.shape)
        if beside:
            runs = max(runs, _BESIDE)
        elif _surprises(steps, runs, by_step):
            first = [self._first] if self._first and self._first[1] else []
            others = _without_slowest([*first, *steps])
            if not others or _surprises(others, runs, by_step):  # another machine than it was
                runs = (_pace_of(steps)[0] - 1) ** 2
            else:  # one of them stalled
                steps = others
        seen, usual = _pace_of(steps)
        return 1 + (seen - 1) * runs / (runs + _ALIKE * by_step / usual)

    def _by_work(self, part: Part) -> float | None:
        """From what this run itself has had to do so far."""
        steps = {n: took for n, took in self.took.items() if self.parts[n].is_step}
        done = [(sum(took), len(took) * self.parts[n].work) for n, took in steps.items()]
        work = sum(amount for _, amount in done)
        return part.work * sum(seconds for seconds, _ in done) / work if work else None

    def _share(self) -> float:
        """By seconds where they are known, else by work."""
        weights = {}
        for name, part in self.parts.items():
            seconds = self.speeds.seconds(self.shape, part)
            weights[name] = part.work if seconds is None else seconds
        whole = sum(part.count * weights[name] for name, part in self.parts.items())
        left = sum(count * weights[name] for name, count in self.left.items())
        return 1 - left / whole if whole else 0.0


def _later(took: Sequence[float]) -> float:
    """The mean but for the first of a kind, which takes longer."""
    later = took[1:] or took
    return sum(later) / len(later)


def _pace_of(steps: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Seconds over usual seconds, and the latter."""
    took, usual = (sum(column) for column in zip(*steps, strict=True))
    return took / usual, usual


def _surprises(steps: Sequence[tuple[float, float]], runs: float, by_step: float) -> bool:
    """Whether the pace is one that there never was, by these variances."""
    pace, usual = _pace_of(steps)
    return (pace - 1) ** 2 > _SURPRISE**2 * (runs + by_step / usual)


def _without_slowest(steps: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    slowest = max(steps, key=lambda step: step[0] - step[1])
    return [step for step in steps if step is not slowest]
