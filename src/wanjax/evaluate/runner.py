"""Runs every variant of every clip from the same noise, and measures it against the references."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from statistics import fmean

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from wanjax.checkpoints.locate import locate
from wanjax.checkpoints.loras import expert_loras
from wanjax.checkpoints.presence import cached
from wanjax.config.keys import Config
from wanjax.evaluate.clips import Clip
from wanjax.evaluate.generation import Generated, decode, fingerprint, generate
from wanjax.evaluate.measuring import is_measured, measure_against, measure_alone, to_uint8
from wanjax.evaluate.perceptual import Lpips
from wanjax.evaluate.store import Record, Store
from wanjax.pipeline.pipeline import WanPipeline
from wanjax.planning.run import Run
from wanjax.planning.variants import Variants, cost
from wanjax.sampling.denoise import StepReport
from wanjax.tiny.world import parse

Frames = Float[np.ndarray, "frames height width 3"]
Records = dict[str, Record]  # by variant


class Runner:
    """Generates and measures what a folder does not hold yet.

    `variants` have the references first; `configs` are those and their rows of equal cost,
    `rows` which is whose. One pipeline serves all whose weights are the references', and each
    other way of keeping weights has one more; they are loaded when something is left to do, unless
    it is given. `prepared` plans a configuration's run, once.
    """

    def __init__(
        self,
        variants: Variants,
        references: Sequence[str],
        store: Store,
        prepared: Callable[[Config], Run],
        *,
        lpips: Lpips | None = None,
        pipe: WanPipeline | None = None,
    ):
        self.variants, self.references = variants, references
        self.costs = variants.planned_costs(prepared)
        self.configs, self.rows = variants.with_rows(self.costs)
        self.store, self.lpips = store, lpips
        self.prepared = prepared
        self.used: set[str] = set()  # variants that this process has run
        self.bar = tqdm(unit="step", delay=0.1)
        self._others: dict[tuple[Hashable, ...], WanPipeline] = {}
        if pipe is not None:
            self.pipe = pipe

    @cached_property
    def pipe(self) -> WanPipeline:
        return WanPipeline.from_config(self.configs[self.references[0]])

    def _pipe(self, name: str) -> WanPipeline:
        """That of a variant's weights."""
        config, reference = self.configs[name], self.configs[self.references[0]]
        weights = weights_of(config)
        if weights == weights_of(reference):
            return self.pipe
        if weights not in self._others:
            self._others[weights] = WanPipeline.from_config(config)
        return self._others[weights]

    def run(
        self, clips: Sequence[Clip], repeats: int
    ) -> tuple[list[Records], dict[str, list[Record]]]:
        """The records of each clip and, by variant, at least `repeats` warm runs to time.

        Every run counts but a variant's first in a process, which may still compile. Variants
        take turns, so that a slow moment of the machine does not meet one of them alone.
        """
        records: list[Records] = [{} for _ in clips]
        self.bar.reset(0)
        with self.bar:
            self._run(list(self.configs), clips, records)
            self._run(self._late_rows(records), clips, records)
            timed = {n: [r[n] for r in records if not r[n]["cold"]] for n in self.configs}
            for name in self.configs:
                timed[name] += self._stored_timings(name, clips[0])
            while behind := [name for name in self.configs if len(timed[name]) < repeats]:
                for name in behind:
                    timed[name] += self._time(name, clips[0])
        return records, timed

    def _run(self, names: Sequence[str], clips: Sequence[Clip], records: list[Records]) -> None:
        """The records of all clips under these variants, added to those of others."""
        steps = sum(self.configs[name].num_inference_steps for name in names)
        self.bar.total = (self.bar.total or 0) + len(clips) * steps
        for clip, found in zip(clips, records, strict=True):
            self._clip(clip, names, found)

    def _clip(self, clip: Clip, names: Sequence[str], records: Records) -> None:
        """Add the records of one clip under these variants, complete with metrics."""
        frames: dict[str, Frames] = {}  # of the references, and of the variant at work
        for name in self.references:
            if name not in records:
                records[name] = self._ensure(name, clip, frames)
        for name in names:
            if name not in self.references:
                records[name] = self._ensure(name, clip, frames)
            records[name] = self._measure(name, clip, records, frames)
            if name not in self.references:
                frames.pop(name, None)

    def _late_rows(self, records: Sequence[Records]) -> list[str]:
        """Rows of equal cost for what decided during the run: the mean of all clips."""
        late = [name for name in self.variants.cached() if name not in self.costs]
        for name in late:
            self.costs[name] = fmean(cost(found[name]["plan"]) for found in records)
        before = self.configs
        self.configs, self.rows = self.variants.with_rows(self.costs)
        return [name for name in self.configs if name not in before]

    def _ensure(self, name: str, clip: Clip, frames: dict[str, Frames]) -> Record:
        """The run's record, read or made; a new run's frames go to `frames`."""
        mark = self._mark(name, clip)
        record = self.store.read(name, clip.name, mark)
        if record is not None:
            self.bar.update(self.configs[name].num_inference_steps)
            return record
        made = self._generate(name, clip)
        frames[name] = made.frames
        fps = self.configs[name].fps
        self.store.write_video(name, clip.name, made.latents, to_uint8(made.frames), fps)
        return self.store.write(name, clip.name, made.record | {"fingerprint": mark})

    def _generate(self, name: str, clip: Clip) -> Generated:
        self.bar.set_description(f"{name}: {clip.prompt.text[:40]}, seed {clip.seed}")

        def advance(report: StepReport) -> None:
            self.bar.update()

        made = generate(self._pipe(name), self._prepared(name, clip), clip, advance)
        made.record["cold"] = name not in self.used
        self.used.add(name)
        return made

    def _prepared(self, name: str, clip: Clip) -> Run:
        """The variant's run; an image of the clip's own may give it a size of its own."""
        return self.prepared(replace(self.configs[name], image=clip.prompt.image))

    def _mark(self, name: str, clip: Clip) -> str:
        return fingerprint(self._prepared(name, clip), clip, self._folder)

    @cached_property
    def _folder(self) -> Path:
        """The model's, which is downloaded if it is not here."""
        config = self.configs[self.references[0]]
        model = str(config.model)
        if "pipe" in self.__dict__:
            return self.pipe.components.folder.path
        return locate(model) or cached(model, config.revision) or self.pipe.components.folder.path

    def _measure(
        self, name: str, clip: Clip, records: Records, frames: dict[str, Frames]
    ) -> Record:
        """The record with the metrics that it lacked."""
        record = records[name]
        against = dict(record.get("against", {}))
        marks = {r: records[r]["fingerprint"] for r in self.references if r != name}
        todo = [r for r in marks if not is_measured(against.get(r), marks[r], self.lpips)]
        if "flicker" in record and not todo:
            return record
        alone = measure_alone(self._frames(name, clip, frames), self._task(clip))
        for reference in todo:
            own, other = (self._frames(n, clip, frames) for n in (name, reference))
            found = measure_against(own, other, self.lpips)
            against[reference] = {"fingerprint": marks[reference], **found}
        return self.store.write(name, clip.name, {**record, **alone, "against": against})

    def _frames(self, name: str, clip: Clip, frames: dict[str, Frames]) -> Frames:
        if name not in frames:
            frames[name] = decode(self.pipe, self.store.latents(name, clip.name))
        return frames[name]

    def _task(self, clip: Clip) -> str | None:
        """The prompt, if the model is of the tiny world and the prompt speaks of it."""
        config = self.configs[self.references[0]]
        bundled = str(config.model).startswith("wanjax/tiny/")
        return clip.prompt.text if bundled and parse(clip.prompt.text) else None

    def _stored_timings(self, name: str, clip: Clip) -> list[Record]:
        """Earlier runs that were made for their timing alone."""
        mark = self._mark(name, clip)
        found: list[Record] = []
        while (record := self.store.read(name, _timing(len(found)), mark)) is not None:
            found.append(record)
        return found

    def _time(self, name: str, clip: Clip) -> list[Record]:
        """One more run of `clip`, for its timing alone; none if it turned out cold."""
        self.bar.total = (self.bar.total or 0) + self.configs[name].num_inference_steps
        record = self._generate(name, clip).record
        if record["cold"]:
            return []
        mark = self._mark(name, clip)
        number = len(self._stored_timings(name, clip))
        return [self.store.write(name, _timing(number), record | {"fingerprint": mark})]


def weights_of(config: Config) -> tuple[Hashable, ...]:
    """What of a configuration is in the weights that are loaded, besides the model."""
    given = (config.lora, config.lora_high, config.lora_low)
    loras = expert_loras(*given, config.num_experts)
    merged = (tuple(lora for lora in its_own if not lora.live) for its_own in loras)
    return (config.quantize, config.weights, *merged, *sorted(config.parts.items()))


def _timing(number: int) -> str:
    return f"timing-{number}"
