"""One thread that owns the model: it takes the next job and runs it through the pipeline."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from wanjax.config.saved import kept
from wanjax.errors import RunError, UsageError
from wanjax.files import without_home, write_json
from wanjax.parallel.hosts import several
from wanjax.pipeline.ahead import compile_ahead
from wanjax.pipeline.inputs import Frames
from wanjax.pipeline.notices import seen
from wanjax.pipeline.record import make_record, make_tags
from wanjax.pipeline.video import Video
from wanjax.planning.run import Run
from wanjax.sampling.denoise import StepReport
from wanjax.serve.eta import (
    COMPILE,
    COMPILING,
    SAVE,
    SWITCH,
    Course,
    parts_of,
    shape_of,
    step_name,
)
from wanjax.serve.hosts import (
    CancelledError,
    OutOfStepError,
    go_on,
    tell,
    tell_of_nothing,
    tell_the_end,
)
from wanjax.serve.jobs import AwayError, Job
from wanjax.serve.live import Live
from wanjax.serve.logs import LOG
from wanjax.serve.metrics import Metrics
from wanjax.serve.model import Model, rest_others
from wanjax.serve.queue import Queue
from wanjax.serve.ready import Ready
from wanjax.serve.storage import Storage
from wanjax.serve.warm_up import load_all

_LOOK = 0.1  # seconds between two looks whether a video is still wanted
_TOLD = 0.5  # seconds between two notes of progress in the database


class Worker:
    """Makes the queue's videos, one after another, until `stop`."""

    def __init__(
        self,
        models: Mapping[str, Model],
        queue: Queue,
        there: Ready,
        storage: Storage,
        metrics: Metrics,
        keep: float | None,
    ):
        self.models, self.queue, self.storage, self.keep = models, queue, storage, keep
        self._there = there
        self.metrics = metrics
        self.ready = threading.Event()
        self.live: Live | None = None
        self._compiling = threading.Thread()  # what the next job needs
        self._compiling_since, self._compiled_in = 0.0, 0.0  # by the monotonic clock; seconds
        self.failed: BaseException | None = None
        self.when_failed: Callable[[], object] = lambda: None
        self._stopping, self._away = threading.Event(), False
        self._thread = threading.Thread(target=self._work, name="wanjax-worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def cancel(self, video: str) -> None:
        """End that job, if it is being made, after the step that is being computed."""
        live = self.live
        if live is not None and live.job.id == video:
            live.cancelled = True

    def stop(self, seconds: float) -> None:
        """Finish the job that is being made if that takes no longer, else give it back."""
        self._stopping.set()
        self.queue.wake()
        live, until = self.live, time.monotonic() + seconds
        eta = None if live is None else live.eta
        if live is not None and (eta is None or eta > seconds):
            live.cancelled = True
        while self.alive and time.monotonic() < until:
            self._thread.join(0.1)
        if self.live is not None:
            self.live.cancelled = True
        if self.alive:
            self._thread.join(10)  # a step; what takes longer is made again

    def _work(self) -> None:
        try:
            self._load()
            self.ready.set()
            while not self._stopping.is_set():
                self._make_next()
            tell_the_end()
        except BaseException as error:  # /health says so
            self.failed = error
            LOG.exception("the worker has ended")
            self.when_failed()

    def _load(self) -> None:
        for name, measured in load_all(self.models).items():
            model = self.models[name]
            for part, seconds in measured:
                self.queue.speeds.add(model.shape, part, seconds)
            self._there.run(model.programs)
        if not several():  # which compile nothing ahead
            self._there.begin(model.programs for model in self.models.values())

    def _make_next(self) -> None:
        """A job, if one waits within a second."""
        try:
            if self._away:  # what became of the last job nobody knows
                self.queue.give_back()
                self._away = False
            job = self.queue.take(timeout=1.0)
            if job is not None:
                self._make(job)
                return
        except AwayError as error:
            LOG.warning("the database does not answer: %s", error)
            self._away = True
            self._stopping.wait(1.0)
        tell_of_nothing()

    def _make(self, job: Job) -> None:
        """One job, whatever becomes of it."""
        try:
            with self.storage.making(job.id) as folder:
                self._run(job, folder)
        except CancelledError:
            if self.queue.release(job):
                LOG.info("requeued", extra={"video": job.id})
            else:
                self._drop(job)
        except (OutOfStepError, AwayError):
            raise  # made again
        except Exception as error:
            code, text = _told(error)
            if not self.queue.fail(job, code, without_home(text), self.keep):
                self._drop(job)
                return
            LOG.error("failed: %s", text, extra={"video": job.id})
            if code == "server_error":
                LOG.error(traceback.format_exc(), extra={"video": job.id})
            self.metrics.videos.labels("failed").inc()
        finally:
            self.live = None

    def _drop(self, job: Job) -> None:
        """A job that is no longer this server's: deleted, or another's, who took us for dead."""
        if self.queue.is_there(job):
            LOG.warning("another server's by now", extra={"video": job.id})
        else:
            self.storage.remove(job.id)
            self.metrics.videos.labels("cancelled").inc()
            LOG.info("cancelled", extra={"video": job.id})

    def _run(self, job: Job, folder: Path) -> None:
        began, model = time.monotonic(), self.models[job.model]
        pictures = {
            Path(name).stem: self.storage.fetch(job.id, name, folder) for name in job.pictures
        }
        run = model.run(model.configured(job.arguments, job.values, folder, pictures))
        live = self.live = self._begin(job, run, model)
        frames = model.pipe.frames(run.config.image, run.config.last_image)
        tokenizer = model.pipe.components.tokenizer
        said = seen(run.config, [run.config.prompt], frames.all, tokenizer)
        if live.cancelled:
            raise CancelledError
        tell(job, pictures)
        compiling = self._wait_for_programs(live)
        video = self._execute(model, live, frames)
        video.timings.compile += compiling
        warm = job.programs in self._there.ran
        self._there.run(job.programs)
        self._measure(live, video, cold=not warm)
        result, saving = self._save(model, live, video, folder)
        for sent in pictures.values():
            sent.unlink()
        self.storage.keep(job.id, folder)
        ended = time.monotonic()
        took, after = ended - began, ended - live.since  # decoding
        speeds, course = self.queue.speeds, live.course
        speeds.add(course.shape, course.parts[SAVE], after, not warm or live.beside)
        if video.timings.compile:
            speeds.add(course.shape, COMPILING, video.timings.compile)
        predicted = None if live.told_end is None else round(live.told_end - began, 4)
        result |= {"inference_time_s": round(took, 4), "predicted_time_s": predicted}
        result["warnings"] = said
        if not self.queue.complete(job, result, took, self.keep):
            raise CancelledError
        self.metrics.videos.labels("completed").inc()
        self.metrics.made(video, saving, warm)
        if predicted is not None:
            self.metrics.eta.observe(abs(predicted / took - 1))
        LOG.info("completed", extra={"video": job.id, "seconds": round(took, 3)})

    def _begin(self, job: Job, run: Run, model: Model) -> Live:
        before = self._there.before(job.programs, job.model)
        parts = {part.name: part for part in (*before, *parts_of(run, model.configs))}
        began = time.monotonic()
        rest_others(self.models, job.model)
        self._there.model, leaving = job.model, time.monotonic() - began
        ran = job.programs in self._there.ran
        compiling = () if ran else compile_ahead(model.pipe.with_config(run.config), run)
        shape = shape_of(model.name, run.config)
        course = Course(shape, self.queue.speeds, parts, leaving=leaving)
        since, alone_from = time.monotonic(), self._alone_from()
        return Live(job, run, course, since=since, compiling=compiling, alone_from=alone_from)

    def _wait_for_programs(self, live: Live) -> float:
        """Until all of them are there: else nobody could say when decoding begins. In seconds."""
        began = time.monotonic()
        for thread in live.compiling:
            while thread.is_alive():
                thread.join(_LOOK)
                if live.cancelled:
                    raise CancelledError
        return time.monotonic() - began

    def _execute(self, model: Model, live: Live, frames: Frames) -> Video:
        run = live.run
        at = {step.index: (steps, n) for steps in run.plan.runs for n, step in enumerate(steps)}
        told = time.monotonic()

        def step(report: StepReport) -> None:
            nonlocal told
            if report.step.index == 0:
                self._before_steps(live)
                self._compile_next(live.job.programs)
            steps, n = at[report.step.index]
            name = step_name(run.plan, steps[0])
            seconds = None if n else report.seconds * len(steps)  # of all that ran as one
            live.course.done(name, seconds, 1 / len(steps), live.beside)
            live.since, live.steps_done = time.monotonic(), report.step.index + 1
            live.alone_from = self._alone_from()
            if live.steps_done == 2 and (eta := live.eta) is not None:
                live.told_end = live.since + eta
            if live.since - told > _TOLD:
                told = live.since
                if not self.queue.told(live.job, live.progress):
                    live.cancelled = True
            go_on(live.cancelled)
            if not several():  # it would compute what the others do not
                live.draw(model.pipe, report)

        try:
            return model.make(run, frames, step)
        except (CancelledError, RunError, UsageError):
            raise  # as the other processes, if there are any
        except Exception as error:
            if several():
                raise OutOfStepError from error
            raise

    def _before_steps(self, live: Live) -> None:
        """Prompt, picture, programs and weights are there; how long each took comes in the end."""
        for name in ("text", "condition", COMPILE, SWITCH):
            if name in live.course.parts:
                live.course.done(name, None)

    def _alone_from(self) -> float | None:
        """When what compiles by now will be there, as far as one can tell; None: nothing does.

        After as long as the last took; what takes longer goes on for half as long again.
        """
        if not self._compiling.is_alive():
            return None
        spent = time.monotonic() - self._compiling_since
        return self._compiling_since + max(self._compiled_in, 1.5 * spent)

    def _compile_next(self, programs: str) -> None:
        """Have threads compile what the next job of other programs needs, while this one runs."""
        if self._compiling.is_alive() or several():  # hosts compile in the same order
            return
        job = self.queue.following(self._there.programs | {programs})
        if job is None:
            return
        self._there.begin([job.programs])
        model = self.models[job.model]

        def compile_all() -> None:
            with suppress(Exception):  # the job comes to the same, and fails there
                run = model.run_of(job)
                for thread in compile_ahead(model.pipe.with_config(run.config), run):
                    thread.join()
            self._compiled_in = time.monotonic() - self._compiling_since

        self._compiling_since = time.monotonic()
        self._compiling = threading.Thread(target=compile_all, name="wanjax-compiling")
        self._compiling.start()

    def _measure(self, live: Live, video: Video, cold: bool) -> None:
        """Keep what the parts have taken."""
        stages = video.timings.stages
        live.course.learn(stages, cold, live.beside)
        live.course.done("decode", stages["decode"])
        live.since = time.monotonic()

    def _save(
        self, model: Model, live: Live, video: Video, folder: Path
    ) -> tuple[dict[str, object], float]:
        began, config = time.monotonic(), live.run.config
        public = model.public(config)
        path = folder / "video.mp4"
        (file,) = video.save(path, config.video_quality, make_tags(public))
        record = make_record(config, video, file)
        record["config"] = kept(public)  # no path of this machine
        write_json(folder / "record.json", record)
        stages = {"compile": video.timings.compile} | video.timings.stages
        spent = time.monotonic() - began
        stages["save"] = spent
        result = {
            "plan": video.plan.strip(),
            "steps": len(video.plan.steps),
            "stage_durations": {name: round(seconds, 4) for name, seconds in stages.items()},
            "peak_memory_mb": round(max(video.timings.peak_memory.values()) / 2**20, 1),
        }
        return result, spent


def _told(error: Exception) -> tuple[str, str]:
    """A code and a text for the client: a fault of ours is no affair of theirs."""
    if isinstance(error, UsageError):
        return "invalid_value", str(error)
    if isinstance(error, RunError):
        return "run_failed", str(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return "out_of_memory", "memory ran out: take a smaller size or fewer frames"
    return "server_error", "the server failed at this video; its log says how"
