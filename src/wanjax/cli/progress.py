"""What a run says while it goes: lines above a bar over all steps of all videos."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

from wanjax.caching.plan import Plan

if TYPE_CHECKING:
    from tqdm import tqdm

    from wanjax.sampling.denoise import StepReport


class Progress:
    """A bar over the steps that says which expert runs and what is skipped.

    It appears with the first step: compiling, which comes before, would spoil its estimate.
    `plans` are those of the videos in turn. `quiet`: nothing but warnings and failures.
    """

    def __init__(self, plans: Sequence[Plan], *, quiet: bool = False, verbose: bool = False):
        self.plans, self.quiet, self.verbose = plans, quiet, verbose
        self.video = 0  # the number of the one that is being made
        self.bar: tqdm[NoReturn] | None = None

    def __enter__(self) -> Progress:
        self.say("loading and compiling ...")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def say(self, text: str, *, always: bool = False) -> None:
        """A line on standard error, above the bar."""
        if self.quiet and not always:
            return
        if self.bar is None or self.bar.disable:
            print(text, file=sys.stderr)
        else:
            self.bar.write(text, file=sys.stderr)

    def step(self, report: StepReport) -> None:
        if self.bar is None:
            from tqdm import tqdm

            total = sum(len(plan.steps) for plan in self.plans)
            self.bar = tqdm(total=total, desc="denoising", unit="step", disable=self.quiet)
        step = report.step
        plan = self.plans[self.video]
        video = f"video {self.video + 1} of {len(self.plans)}, " * (len(self.plans) > 1)
        self.bar.set_postfix_str(video + plan.about(step), refresh=False)
        self.bar.update()
        if self.bar.n == self.bar.total:
            self.bar.close()  # decoding is not denoising
        if self.verbose:
            self.say(f"step {step.index} {report.seconds:.3f} s, {plan.about(step)}")

    def next_video(self) -> None:
        """The video is made, or given up."""
        self.video += 1
        if self.bar is not None:
            done = sum(len(plan.steps) for plan in self.plans[: self.video])
            self.bar.update(done - self.bar.n)
