"""
write a video and, beside it, a .json record of how it was made

usage: wanjax generate [PRESET|FILE] "PROMPT" [image=FILE] [key=value ...]

  wanjax generate "a red ball moving right on a dark background"
  wanjax generate tiny-i2v image=ball.png prompt="the ball moves left" output=ball.mp4
  wanjax generate wan2.2-t2v-a14b prompt="two cats boxing" use_magcache=True seed=7
  wanjax generate my.yml prompt="two cats boxing"      # my.yml: `preset: NAME`, `key: value`
  wanjax generate ball.json seed=8                     # a record (or ball.mp4) runs again

`wanjax show PRESET` lists every key; `wanjax plan` with the same arguments shows which
steps will be computed, without loading the model.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from wanjax.caching.plan import Plan
from wanjax.caching.schedule import EXPERT_NAMES
from wanjax.config.resolve import resolve
from wanjax.files import write_json
from wanjax.media.names import free, record_of
from wanjax.planning.run import Run, prepare

if TYPE_CHECKING:
    from tqdm import tqdm

    from wanjax.pipeline.video import Video
    from wanjax.sampling.denoise import StepReport


def run(args: Sequence[str]) -> None:
    prepared = prepare(resolve(args, "generate"))
    config = prepared.config
    _announce(prepared)
    from wanjax.pipeline.inputs import Prompts  # imports JAX
    from wanjax.pipeline.pipeline import WanPipeline
    from wanjax.pipeline.record import make_record, make_tags

    with Progress(prepared.plan) as progress:
        pipe = WanPipeline.from_config(config)
        video = pipe.execute(
            prepared,
            Prompts(config.prompt, config.negative_prompt),
            pipe.frames(config.image, config.last_image),
            seed=config.seed,
            callback=progress.step,
        )
    assert config.output is not None
    output = config.output if config.overwrite else free(config.output)
    (file,) = video.save(output, config.video_quality, make_tags(config))
    record = record_of(output)
    write_json(record, make_record(config, video, file))
    _summarise(video)
    taken = f"; {config.output} is there already: overwrite=True replaces it"
    print(
        f"wrote {output} ({file.summary()}) and {record}{taken * (output != config.output)}",
        file=sys.stderr,
    )


class Progress:
    """A bar over the steps that says which expert runs and what is skipped.

    It appears with the first step: compiling, which comes before, would spoil its estimate.
    """

    def __init__(self, plan: Plan):
        self.plan = plan
        self.bar: tqdm[NoReturn] | None = None

    def __enter__(self) -> Progress:
        print("loading and compiling ...", file=sys.stderr)
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def step(self, report: StepReport) -> None:
        if self.bar is None:
            from tqdm import tqdm

            self.bar = tqdm(total=len(self.plan.steps), desc="denoising", unit="step")
        step = report.step
        two = self.plan.schedule.num_experts == 2
        expert = f"{EXPERT_NAMES[step.expert]} noise, " if two else ""
        state = "skipped" if step.skipped else "computed"
        self.bar.set_postfix_str(expert + state, refresh=False)
        self.bar.update()
        if self.bar.n == self.bar.total:
            self.bar.close()  # decoding is not denoising


def _announce(run: Run) -> None:
    """What will run, before anything slow starts."""
    config, plan = run.config, run.plan
    boundary = f", boundary at step {plan.boundary_step}" if plan.boundary_step is not None else ""
    print(
        f"{run.name}: {config.width}x{config.height}, {config.num_frames} frames, "
        f"{len(plan.steps)} steps, flow_shift {config.flow_shift:g}{boundary}",
        file=sys.stderr,
    )
    print(f"plan {plan.strip()}  ({plan.method}: {plan.summary()})", file=sys.stderr)
    for warning in plan.warnings:
        print(f"warning: {warning}", file=sys.stderr)


def _summarise(video: Video) -> None:
    if video.plan.decided == "during the run":
        print(f"ran  {video.plan.strip()}  ({video.plan.summary()})", file=sys.stderr)
    parts = [f"{name} {seconds:.2f} s" for name, seconds in video.timings.stages.items()]
    print(f"compile {video.timings.compile:.2f} s, " + ", ".join(parts), file=sys.stderr)
