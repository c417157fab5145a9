"""The video that is being made, as others may look at it at any time."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from wanjax.pipeline.pipeline import WanPipeline
from wanjax.planning.run import Run
from wanjax.sampling.denoise import StepReport
from wanjax.serve.eta import Course
from wanjax.serve.jobs import Job

_WATCHED, _FRAME = 3.0, 0.25  # seconds that a look lasts; between two previews


@dataclass
class Live:
    """The job that is being made, as others may look at it at any time."""

    job: Job
    run: Run
    course: Course
    steps_done: int = 0
    since: float = 0.0  # when the last part ended, by the monotonic clock
    cancelled: bool = False
    compiling: Sequence[threading.Thread] = ()  # what it needs itself
    alone_from: float | None = None  # when other programs are compiled, by the monotonic clock
    told_end: float | None = None  # when it would be there, as told after two steps
    preview: Image.Image | None = None
    looked: float = -math.inf  # when somebody last did, by the monotonic clock
    drawn: float = -math.inf  # when the preview was made

    @property
    def progress(self) -> int:
        return min(99, int(100 * self.course.share))

    @property
    def beside(self) -> bool:
        """Whether other programs are compiled meanwhile."""
        return self.alone_from is not None

    @property
    def eta(self) -> float | None:
        beside = None if self.alone_from is None else max(0.0, self.alone_from - self.since)
        left = self.course.remaining(beside)
        return None if left is None else max(0.0, left - (time.monotonic() - self.since))

    def look(self) -> Image.Image | None:
        """The newest preview; they are made while somebody looks, and none otherwise."""
        self.looked = time.monotonic()
        return self.preview

    def draw(self, pipe: WanPipeline, report: StepReport) -> None:
        """Make a preview of a computed step, if it is wanted and the VAE has a fit."""
        now = time.monotonic()
        wanted = now - self.looked < _WATCHED and now - self.drawn > _FRAME
        if wanted and not report.step.skipped and pipe.components.preview is not None:
            self.preview, self.drawn = pipe.preview(report), now
