"""The `compare` command: every variant from the same noise, measured against the dense run."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from wanjax.config import Config
from wanjax.denoise import StepReport
from wanjax.errors import UsageError
from wanjax.evaluate.clips import Clip
from wanjax.evaluate.comparison import Comparison
from wanjax.evaluate.generation import decode, fingerprint, generate
from wanjax.evaluate.measuring import is_measured, measure_against, measure_alone, to_uint8
from wanjax.evaluate.perceptual import load_lpips
from wanjax.evaluate.store import Record, Store
from wanjax.evaluate.tables import FEWER_STEPS
from wanjax.evaluate.variants import CONVERGED, DENSE, changes, same_cost
from wanjax.generate import environment
from wanjax.pipeline import WanPipeline
from wanjax.planning import plan_for
from wanjax.tiny.world import parse

Frames = Float[np.ndarray, "frames height width 3"]


class Comparing:
    """Generates and measures what is not there yet.

    `configs` are the variants by name, the dense reference first; `folder` keeps finished runs,
    from which a later comparison goes on. `pipe` may be given where it is at hand: its models
    and programs serve all variants.
    """

    def __init__(
        self,
        configs: Mapping[str, Config],
        clips: Sequence[Clip],
        folder: Path,
        *,
        repeats: int = 3,
        pipe: WanPipeline | None = None,
    ):
        self.configs, self.clips, self.repeats = dict(configs), clips, repeats
        self.references = tuple(name for name in (DENSE, CONVERGED) if name in configs)
        self.store = Store(folder)
        self.warm: set[str] = set()  # variants that this process has run before
        self.bar: tqdm = tqdm(unit="step", disable=None)
        lpips = load_lpips()
        self.lpips = None if isinstance(lpips, str) else lpips
        self.notes = [lpips] if isinstance(lpips, str) else []
        if pipe is not None:
            self.pipe = pipe

    @cached_property
    def pipe(self) -> WanPipeline:
        """Loaded only if something is left to generate or to measure."""
        return WanPipeline.from_config(self.configs[DENSE])

    def run(self) -> Comparison:
        """Do what is left to do; returns everything."""
        self.bar.total = sum(self._steps(name) for name in self.configs) * len(self.clips)
        runs: dict[str, dict[str, Record]] = {name: {} for name in self.configs}
        for clip in self.clips:
            for name, record in self._clip(clip).items():
                runs[name][clip.name] = record
        timed = self._timed(runs)
        self.bar.close()
        return Comparison(
            about=self._about(),
            references=self.references,
            changes={name: changes(self.configs[DENSE], c) for name, c in self.configs.items()},
            clips=[_describe(clip) for clip in self.clips],
            runs=runs,
            videos={
                name: {clip.name: self.store.video(name, clip.name) for clip in self.clips}
                for name in self.configs
            },
            timed=timed,
            notes=[*self.notes, *self._warnings(runs)],
            fps=self.configs[DENSE].fps,
        )

    def _clip(self, clip: Clip) -> dict[str, Record]:
        """The records of one clip under all variants, generated and measured where needed."""
        records: dict[str, Record] = {}
        frames: dict[str, Frames] = {}  # of the references, and of the variant at work
        for name in self.configs:
            print_ = self._print(name, clip)
            record = self.store.read(name, clip.name, print_)
            if record is None:
                record, frames[name] = self._generate(name, clip, print_)
            else:
                self.bar.update(self._steps(name))
            records[name] = self._measure(name, clip, record, records, frames)
            if name not in self.references:
                frames.pop(name, None)
            self._settle(name, record)
        return records

    def _generate(self, name: str, clip: Clip, print_: str) -> tuple[Record, Frames]:
        made = self._run(name, clip)
        config = self.configs[name]
        self.store.write_video(name, clip.name, made.latents, to_uint8(made.frames), config.fps)
        record = self.store.write(name, clip.name, {**made.record, "fingerprint": print_})
        return record, made.frames

    def _run(self, name: str, clip: Clip) -> Any:
        self.bar.set_description(f"{name}, {clip.name}"[:60])

        def step(report: StepReport) -> None:
            self.bar.update()

        made = generate(self.pipe, self.configs[name], clip, step)
        made.record["cold"] = name not in self.warm
        self.warm.add(name)
        return made

    def _measure(
        self,
        name: str,
        clip: Clip,
        record: Record,
        records: Mapping[str, Record],
        frames: dict[str, Frames],
    ) -> Record:
        """Adds the metrics that the record lacks, against references of this clip."""
        prints = {r: self._print(r, clip) for r in self.references if r != name}
        todo = [r for r, p in prints.items() if not is_measured(record, r, p, self.lpips)]
        if "flicker" in record and not todo:
            return record
        own = self._frames(name, clip, frames)
        if "flicker" not in record:
            record |= measure_alone(own, self._scored(clip))
        against = record.get("against", {})
        for reference in todo:
            other = self._frames(reference, clip, frames)
            found = measure_against(own, other, self.lpips)
            against[reference] = {"fingerprint": prints[reference], **found}
        return self.store.write(name, clip.name, {**record, "against": against})
