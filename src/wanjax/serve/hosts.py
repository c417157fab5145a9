"""A server over several hosts: process 0 serves, the others make each video with it.

What process 0 decides it tells all: which job is next, and after every step whether it goes on.
So all do the same in the same order. With one process nothing is told to anyone.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from wanjax.errors import RunError, UsageError
from wanjax.parallel.hosts import from_first, several
from wanjax.sampling.denoise import StepReport
from wanjax.serve.jobs import Job
from wanjax.serve.model import Model, rest_others
from wanjax.serve.warm_up import load_all

_END = "end"


class CancelledError(Exception):
    """Nobody wants the video any more, or the server ends."""


class OutOfStepError(Exception):
    """This process failed where others may not have: they can do nothing together any more."""


def tell(job: Job, pictures: Mapping[str, Path]) -> None:
    """Have the others begin this job, as the next thing that this process does itself."""
    if several():
        sent = {
            name: base64.b64encode(path.read_bytes()).decode() for name, path in pictures.items()
        }
        about = {"model": job.model, "arguments": job.arguments, "values": job.values}
        from_first(lambda: about | {"pictures": sent})


def tell_of_nothing() -> None:
    """Nobody waits for ever: a device or a network may take that for a fault."""
    from_first(lambda: None)


def tell_the_end() -> None:
    from_first(lambda: _END)


def go_on(cancelled: bool) -> None:
    """What all processes do after each step; raises `CancelledError` in all, as process 0 says."""
    if from_first(lambda: cancelled):
        raise CancelledError


def follow(models: Mapping[str, Model]) -> None:
    """Make every video that process 0 makes, until it ends. Raises what it fails with alone."""
    load_all(models)
    while (told := from_first(lambda: None)) != _END:
        if told is not None:
            rest_others(models, told["model"])
            with tempfile.TemporaryDirectory() as folder:
                _take_part(models[told["model"]], told, Path(folder))


def _take_part(model: Model, told: Mapping[str, Any], folder: Path) -> None:
    pictures = {name: folder / f"{name}.png" for name in told["pictures"]}
    for name, path in pictures.items():
        path.write_bytes(base64.b64decode(told["pictures"][name]))

    def step(report: StepReport) -> None:
        go_on(cancelled=False)  # process 0 knows

    run = model.run(model.configured(told["arguments"], told["values"], folder, pictures))
    frames = model.pipe.frames(run.config.image, run.config.last_image)
    with suppress(CancelledError, RunError, UsageError):  # all come to it, process 0 tells of it
        model.make(run, frames, step)
