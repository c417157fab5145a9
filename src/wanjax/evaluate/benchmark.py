"""Seconds of a model's stages on this machine, and how much of its arithmetic they reach."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array
from tqdm import tqdm

from wanjax.caching.plan import Step
from wanjax.checkpoints.configs import model_configs
from wanjax.checkpoints.locate import locate
from wanjax.checkpoints.presence import presence
from wanjax.checkpoints.random import RandomFolder
from wanjax.config.keys import Config, active_methods
from wanjax.errors import UsageError
from wanjax.pipeline.encode import encode_ids
from wanjax.pipeline.inputs import Prompts
from wanjax.pipeline.pipeline import WanPipeline
from wanjax.pipeline.record import environment
from wanjax.pipeline.timings import peak_memory
from wanjax.pipeline.video import Video
from wanjax.planning.flops import stage_flops, step_flops
from wanjax.planning.run import FROM_CONFIG, Run, prepare
from wanjax.sampling.denoise import StepReport


@dataclass(frozen=True)
class Measured:
    """One stage of one video: the seconds of each time that it ran, and its operations."""

    seconds: tuple[float, ...]
    flops: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def to_dict(self, rate: float) -> dict[str, Any]:
        """`rate`: the matrix rate of all devices together."""
        found: dict[str, Any] = {
            "seconds": round(self.median, 6),
            "fastest": round(min(self.seconds), 6),
            "slowest": round(max(self.seconds), 6),
            "times": len(self.seconds),
            "flops": self.flops,
        }
        if self.flops:
            reached = self.flops / self.median
            found |= {"flops_per_second": reached, "matrix_rate_share": round(reached / rate, 4)}
        return found


@dataclass(frozen=True)
class MatrixRate:
    """What one device reaches in products of square matrices of a size, in FLOP/s."""

    dtype: str
    size: int
    rate: float


@dataclass(frozen=True)
class Benchmark:
    """What `benchmark` has measured; `to_dict` is what its file has."""

    run: Run
    weights: str
    mesh: dict[str, int]
    matrix: MatrixRate
    stages: dict[str, Measured]
    dense_seconds: tuple[float, ...]  # of all steps together, of each repeat
    cached_seconds: tuple[float, ...]
    compile_seconds: float
    peak_memory: int

    @property
    def rate(self) -> float:
        """The matrix rate of all devices of the mesh."""
        devices = 1
        for size in self.mesh.values():
            devices *= size
        return self.matrix.rate * devices

    @property
    def realised(self) -> float:
        """How many times as fast as the dense run the cached one was, decoding apart."""
        return statistics.median(self.dense_seconds) / statistics.median(self.cached_seconds)

    def to_dict(self) -> dict[str, Any]:
        config, plan = self.run.config, self.run.plan
        ideal = plan.ideal_speedup
        found: dict[str, Any] = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": self.run.name,
            "weights": self.weights,
            "height": config.height,
            "width": config.width,
            "num_frames": config.num_frames,
            "dtype": config.activations_dtype,
            "attention": config.attention,
            "mesh": self.mesh,
            "matrix_rate": vars(self.matrix),
            "stages": {name: s.to_dict(self.rate) for name, s in self.stages.items()},
            "speedup": {
                "method": plan.method,
                "plan": plan.strip(),
                "steps": len(plan.steps),
                "dense_seconds": round(statistics.median(self.dense_seconds), 6),
                "cached_seconds": round(statistics.median(self.cached_seconds), 6),
                "ideal": round(ideal, 4),
                "realised": round(self.realised, 4),
                "realised_share": round(self.realised / ideal, 4),
            },
            "compile_seconds": round(self.compile_seconds, 2),
            "peak_memory_bytes": self.peak_memory,
        }
        if "skipped_step" in self.stages:
            share = self.stages["skipped_step"].median / self.stages["computed_step"].median
            found["skipped_step_share"] = round(share, 6)
        return found | environment()


def benchmark(config: Config, tell: Callable[[str], None]) -> Benchmark:
    """Time a configuration's model, one video at a time, after a warm-up of every program.

    The weights are the model folder's or, of a published model that is not here, random. The
    caching method is the one that is switched on, else MagCache. `tell` is told what comes next.
    Raises `UsageError`, before anything is loaded, for what the devices have no room for.
    """
    cached = prepare(config, FROM_CONFIG if active_methods(config) else "magcache")
    dense = prepare(config, None)
    pipe, weights = _pipeline(config)
    pipe.check_size(config)
    for run in (cached, dense):
        pipe.fit(run)
    tell(f"{cached.name}, {weights} weights; measuring the device ...")
    matrix = matrix_rate(config.activations_dtype)
    stages, embeds = {}, _Embeds(pipe)
    configs = pipe.components.folder.model_configs()
    flops = stage_flops(config, cached.plan, configs)
    tell("encoding text ...")
    pipe.components.arrange(pipe.fit(cached).placement["text"].places)
    stages["text"] = Measured(_timed(embeds, config.repeats), flops["text"])
    tell("compiling, and a first step of each kind to warm up ...")
    runs = _Runs(pipe, embeds, dense, cached, config.repeats)
    for name in ("condition", "decode"):
        stages[name] = Measured(tuple(v.timings.stages[name] for v in runs.videos), flops[name])
    for name, steps in runs.steps().items():
        count = step_flops(config, cached.plan, configs, steps[0].step)
        stages[name] = Measured(tuple(step.seconds for step in steps), count)
    order = ("text", "condition", "computed_step", "skipped_step", "decode")
    return Benchmark(
        run=cached,
        weights=weights,
        mesh={} if pipe.programs.mesh is None else dict(pipe.programs.mesh.shape),
        matrix=matrix,
        stages={name: stages[name] for name in order if name in stages},
        dense_seconds=_sums(runs.dense),
        cached_seconds=_sums(runs.cached),
        compile_seconds=pipe.programs.seconds,
        peak_memory=peak_memory(),
    )


def matrix_rate(dtype: str, repeats: int = 5) -> MatrixRate:
    """The best rate of one device in products of `dtype`, which is the fastest work it has."""
    accelerated = jax.devices()[0].platform != "cpu"
    size, times = (8192, 32) if accelerated else (1024, 8)
    spread = size**-0.5  # so that a product's numbers are as large as its factors'
    first, second = (
        (spread * jax.random.normal(jax.random.key(i), (size, size))).astype(dtype) for i in (0, 1)
    )

    @partial(jax.jit, static_argnums=2)
    def products(x: Array, y: Array, count: int) -> Array:
        made: Array = jax.lax.fori_loop(0, count, lambda _, x: x @ y, x)
        return made

    seconds = _timed(lambda: products(first, second, times), repeats)
    return MatrixRate(dtype, size, 2 * size**3 * times / min(seconds))


def _timed(function: Callable[[], Any], repeats: int) -> tuple[float, ...]:
    """Seconds of each call until its arrays are there, after one that does not count."""
    jax.block_until_ready(function())
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(function())
        found.append(time.perf_counter() - began)
    return tuple(found)


def _pipeline(config: Config) -> tuple[WanPipeline, str]:
    """With nothing loaded yet, and whose weights it will have."""
    model = str(config.model)
    if config.parts and presence(model, config.parts, config.revision).state != "here":
        raise UsageError(
            f"{min(config.parts)}= is given, and other parts of {model} are not here: a benchmark "
            "takes all weights from files, or all at random"
        )
    if config.parts or locate(model) is not None:
        return WanPipeline.without_weights(config), "the checkpoint's"
    folder = RandomFolder.of(model, model_configs(model))
    return WanPipeline.without_weights(config, folder), "random"


class _Embeds:
    """One prompt's embeddings, of tokens that mean nothing; there is not always a tokenizer."""

    def __init__(self, pipe: WanPipeline):
        length = pipe.config.max_sequence_length
        self.pipe = pipe
        self.ids = np.arange(1, 1 + length, dtype=np.int32)[None] % 100
        self.mask = np.ones((1, length), np.int32)

    def __call__(self) -> Array:
        encoder, programs = self.pipe.components.text_encoder, self.pipe.programs
        embeds: Array = encode_ids(encoder, programs, self.ids, self.mask)
        return embeds


class _WarmError(Exception):
    """A run to warm up has done what it was for."""


class _Timed(NamedTuple):
    """What is left of a step's report: none of its arrays."""

    step: Step
    seconds: float


class _Runs:
    """Dense and cached runs in turn, so that a slow moment does not meet one kind alone."""

    def __init__(self, pipe: WanPipeline, embeds: _Embeds, dense: Run, cached: Run, repeats: int):
        self.pipe, self.prompt = pipe, embeds()
        self.frames = pipe.plain_frames(cached.config)
        self.dense: list[list[_Timed]] = []
        self.cached: list[list[_Timed]] = []
        self.videos: list[Video] = []
        self._warm_up(dense, cached)
        steps = len(dense.plan.steps) + len(cached.plan.steps)
        with tqdm(total=repeats * steps, unit="step") as bar:
            for _ in range(repeats):
                dense_steps, _ = self._timed(dense, bar.update, decode=False)
                cached_steps, video = self._timed(cached, bar.update, decode=True)
                self.dense.append(dense_steps)
                self.cached.append(cached_steps)
                self.videos.append(video)

    def _warm_up(self, dense: Run, cached: Run) -> None:
        """The first steps until each kind of step has run once, the moves of weights, a decode.

        Whole runs would do the same, and at full size take as long as all that is measured.
        """
        for run in (dense, cached):
            plan = run.plan
            unseen = {step.kind for step in plan.steps if step.expert == plan.steps[0].expert}

            def note(report: StepReport, unseen: set[Any] = unseen) -> None:
                unseen.discard(report.step.kind)
                if not unseen:
                    raise _WarmError

            with suppress(_WarmError):
                self._run(run, note, decode=False)
        components, fit, config = self.pipe.components, self.pipe.fit(cached), cached.config
        for stage in fit.placement.stages:
            components.arrange(stage.places)
            for number, name in enumerate(components.folder.experts):
                if stage.places.get(name) == "device":
                    jax.block_until_ready(components.parameters(number))
        latents = np.zeros(self.pipe.latents_shape(config), np.float32)
        self.pipe.decode_in(fit, latents[None])

    def _timed(
        self, run: Run, advance: Callable[[], Any], *, decode: bool
    ) -> tuple[list[_Timed], Video]:
        reports: list[_Timed] = []

        def note(report: StepReport) -> None:
            reports.append(_Timed(report.step, report.seconds))
            advance()

        video = self._run(run, note, decode=decode)
        return reports, video

    def _run(self, run: Run, note: Callable[[StepReport], None], *, decode: bool) -> Video:
        prompts = Prompts(None, None, self.prompt, self.prompt)
        return self.pipe.execute(run, prompts, self.frames, seed=0, decode=decode, callback=note)

    def steps(self) -> dict[str, list[_Timed]]:
        """Of the first step's kind where all are computed, and of the first skipped one's."""
        found = {"computed_step": _alike(self.dense, lambda step: not step.skipped)}
        skipped = _alike(self.cached, lambda step: step.skipped)
        return found | ({"skipped_step": skipped} if skipped else {})


def _alike(runs: Sequence[Sequence[_Timed]], wanted: Callable[[Step], bool]) -> list[_Timed]:
    reports = [report for run in runs for report in run if wanted(report.step)]
    return [report for report in reports if report.step.kind == reports[0].step.kind]


def _sums(runs: Sequence[Sequence[_Timed]]) -> tuple[float, ...]:
    return tuple(sum(report.seconds for report in run) for run in runs)
