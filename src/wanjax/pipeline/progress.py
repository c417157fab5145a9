"""Bars over what takes long: loading, compiling, steps. tqdm knows terminals and notebooks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from wanjax.caching.plan import Plan
from wanjax.checkpoints.folder import LoadReport
from wanjax.sampling.denoise import StepReport
from wanjax.sampling.programs import Programs

_MOMENT = 0.5  # seconds


class Progress:
    """Shows how far a call is: `shown` True or False, or None for where somebody looks on.

    That is in a terminal and in a notebook.
    """

    def __init__(self, shown: bool | None = None):
        self.shown = watched() if shown is None else shown
        self._bar: Any = None  # tqdm's, of whichever kind

    def close(self) -> None:
        """End the bar that is open."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def loading(self, report: LoadReport) -> None:
        """A bar of bytes for each part of a model; what is there in a moment shows none."""
        if self._bar is None:
            self._open(f"loading {report.part}", report.total, "B", unit_scale=True, delay=_MOMENT)
        self._advance(to=report.bytes)
        if report.bytes == report.total:
            self.close()

    @contextmanager
    def compiling(self, name: str) -> Iterator[None]:
        """Around the compilation of a program."""
        if self._bar is None:
            self._open("compiling", None, "program", leave=False)
        self._say(name.replace("_", " "))
        yield
        self._advance()

    @contextmanager
    def over(self, programs: Programs) -> Iterator[Progress]:
        """Shows what these compile, too; what is open is closed in the end."""
        programs.compiling = self.compiling
        try:
            yield self
        finally:
            programs.compiling = nullcontext
            self.close()

    def steps(
        self, plan: Plan, then: Callable[[StepReport], None] | None
    ) -> Callable[[StepReport], None]:
        """A callback for the steps of `plan`, which calls the one `then`."""

        def step(report: StepReport) -> None:
            if report.step.index == 0:  # all programs of the steps are compiled
                self.close()
                self._open("denoising", len(plan.steps), "step")
            self._say(plan.about(report.step))
            self._advance()
            if report.step.index == len(plan.steps) - 1:
                self.close()  # decoding is not denoising
            if then is not None:
                then(report)

        return step

    def _open(self, what: str, total: int | None, unit: str, **how: Any) -> None:
        if self.shown:
            from tqdm.auto import tqdm  # looks for a notebook, which takes a moment

            self._bar = tqdm(desc=what, total=total, unit=unit, **how)

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def _advance(self, to: int | None = None) -> None:
        if self._bar is not None:
            self._bar.update(1 if to is None else to - self._bar.n)


def watched() -> bool:
    """Whether somebody looks on: in a terminal, or in a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel") or sys.stderr.isatty()
