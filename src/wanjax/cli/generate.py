"""
write a video and, beside it, a .json record of how it was made

usage: wanjax generate [PRESET|FILE] "PROMPT" [image=FILE] [key=value ...]
       wanjax generate [PRESET|FILE] prompts=FILE [seeds=0,1,2] [key=value ...]

  wanjax generate "a red ball moving right on a dark background"
  wanjax generate tiny-i2v image=example:red-ball "the red ball moves left" output=ball.mp4
  wanjax generate wan2.2-t2v-a14b prompt="two cats boxing" use_magcache=True seed=7
  wanjax generate my.yml prompt="two cats boxing"      # my.yml: `preset: NAME`, `key: value`
  wanjax generate ball.json seed=8                     # a record (or ball.mp4) runs again
  wanjax generate prompts=mine.txt seeds=0,1 output=many.mp4    # many-000.mp4, many-001.mp4, ...

A file of prompts has one a line, for image to video as `image.png | prompt`; every prompt runs
with every seed. The model is loaded and compiled once. A video that fails does not stop the
rest, and an interrupted batch goes on where it stopped when the same command runs again.

`output` ends in .mp4, .webm, .webp or .gif, or in a slash: a folder of frames. A name that is
taken gets a number, unless overwrite=True. quiet=True says nothing but warnings, verbose=True
each step and what was compiled.

`wanjax show PRESET` lists every key; `wanjax plan` with the same arguments shows which
steps will be computed, without loading the model.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from wanjax.cli.collector import at_rest
from wanjax.cli.progress import Progress
from wanjax.cli.together import FromFirst, together
from wanjax.config.keys import Config
from wanjax.config.resolve import arguments, resolve
from wanjax.errors import UsageError
from wanjax.files import write_json
from wanjax.media.names import free, record_of
from wanjax.planning.batch import Job, is_batch, make_jobs
from wanjax.planning.run import Run, prepare

if TYPE_CHECKING:
    from wanjax.pipeline.pipeline import WanPipeline
    from wanjax.pipeline.video import Video

_LONG = 5.0  # seconds of loading, after which its rate is said


def run(args: Sequence[str]) -> int:
    return together(resolve(args, "generate"), _generate, drawn="seed=random" in arguments(args))


def _generate(config: Config, from_first: FromFirst) -> int:
    assert config.output is not None
    jobs = make_jobs(config) if is_batch(config) else [Job(prepare(config), config.output)]
    there = from_first(lambda: [[job.output, job.made] for job in jobs])  # on the first one's disk
    jobs = [Job(job.run, *told) for job, told in zip(jobs, there, strict=True)]
    todo = [job for job in jobs if not job.made]
    plans = [job.run.plan for job in todo]
    progress = Progress(plans, quiet=config.quiet, verbose=config.verbose)
    _announce(jobs, progress)
    if not todo:
        return 0
    with progress:
        pipe = _load(config, todo[0].run, progress)
        if not is_batch(config):
            _make(pipe, todo[0], progress)
            return 0
        return _make_all(pipe, todo, progress)


def _load(config: Config, run: Run, progress: Progress) -> WanPipeline:
    """With the programs of a run, which compile meanwhile. Says what is read of which files."""
    with at_rest():
        from wanjax.pipeline.ahead import compile_ahead  # imports JAX
        from wanjax.pipeline.pipeline import WanPipeline

    pipe = WanPipeline.without_weights(config)
    pipe.check_size(run.config)
    pipe.fit(run)
    for name, reading in pipe.components.readings.items():
        if progress.verbose or name in config.parts or reading.skipped:
            progress.say(f"{name} from {reading}")
    compile_ahead(pipe, run)
    began = time.perf_counter()
    pipe.load(progress=False if config.quiet else None)
    seconds, size = time.perf_counter() - began, pipe.components.read_bytes / 1e9
    if progress.verbose or seconds > _LONG:
        progress.say(f"loaded {size:.3g} GB in {seconds:.1f} s, {size / seconds:.2g} GB/s")
    return pipe


def _make_all(pipe: WanPipeline, todo: Sequence[Job], progress: Progress) -> int:
    """One after another, whatever becomes of each; 1 if any failed."""
    from wanjax.parallel.hosts import several

    failed = 0
    for job in todo:
        try:
            _make(pipe, job, progress)
        except KeyboardInterrupt:
            done = progress.video - failed
            progress.say(f"{done} of {len(todo)} written; the same command goes on from there")
            raise
        except Exception as error:
            if several():  # which may not all have failed: they would not be at the same place
                raise
            failed += 1
            fault = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
            progress.say(f"{job.output} failed: {fault}{error}", always=True)
            if progress.verbose:
                progress.say(traceback.format_exc(), always=True)
        progress.next_video()
    if failed:
        again = "the same command tries them again"
        progress.say(f"{failed} of {len(todo)} videos failed; {again}", always=True)
    return 1 if failed else 0


def _make(pipe: WanPipeline, job: Job, progress: Progress) -> None:
    """One video, from the prompt to its files."""
    from wanjax.parallel.hosts import is_first
    from wanjax.pipeline.inputs import Prompts
    from wanjax.pipeline.kept import kept_on_failure
    from wanjax.pipeline.record import make_record, make_tags

    config = job.run.config
    # the first video's programs have begun to compile while the model loaded
    before = len(pipe.programs.compilations) if progress.video else 0
    video = pipe.execute(
        job.run,
        Prompts(config.prompt, config.negative_prompt),
        pipe.frames(config.image, config.last_image),
        seed=config.seed,
        callback=progress.step,
    )
    if not is_first():
        return
    single = len(progress.plans) == 1
    output = free(job.output) if single and not config.overwrite else job.output
    record = record_of(output)
    with kept_on_failure(video, output):
        (file,) = video.save(output, config.video_quality, make_tags(config))
        write_json(record, make_record(config, video, file))
    for line in _summary(video):
        progress.say(line)
    if progress.verbose:
        for compiled in pipe.programs.compilations[before:]:
            progress.say(f"compiled {compiled.name} in {compiled.seconds:.2f} s")
        for stage, peak in video.timings.peak_memory.items():
            progress.say(f"peak memory up to {stage}: {peak / 2**30:.2f} GiB")
    taken = f"; {job.output} is there already: overwrite=True replaces it"
    progress.say(f"wrote {output} ({file.summary()}) and {record}{taken * (output != job.output)}")


def _announce(jobs: Sequence[Job], progress: Progress) -> None:
    """What will run, before anything slow starts."""
    for run in {id(job.run.plan): job.run for job in jobs}.values():
        for line in _about(run):
            progress.say(line)
        for warning in run.plan.warnings:
            progress.say(f"warning: {warning}", always=True)
        for note in run.notes:
            progress.say(f"note: {note}")
    if len(jobs) > 1:
        made = sum(job.made for job in jobs)
        there = f", {made} there already (overwrite=True makes them again)" if made else ""
        progress.say(f"{len(jobs)} videos, {jobs[0].output} to {jobs[-1].output}{there}")


def _about(run: Run) -> list[str]:
    config, plan = run.config, run.plan
    boundary = f", boundary at step {plan.boundary_step}" if plan.boundary_step is not None else ""
    return [
        f"{run.name}: {config.width}x{config.height}, {config.num_frames} frames, "
        f"{len(plan.steps)} steps, flow_shift {config.flow_shift:g}{boundary}",
        f"plan {plan.strip()}  ({plan.method}: {plan.summary()})",
    ]


def _summary(video: Video) -> list[str]:
    parts = [f"{name} {seconds:.2f} s" for name, seconds in video.timings.stages.items()]
    lines = [f"compile {video.timings.compile:.2f} s, " + ", ".join(parts)]
    if video.plan.decided == "during the run":
        lines.insert(0, f"ran  {video.plan.strip()}  ({video.plan.summary()})")
    return lines
