"""Many videos from one command: every prompt with every seed, and which of them are made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wanjax.config.checks import check_inputs
from wanjax.config.keys import Config
from wanjax.config.saved import digests, kept
from wanjax.errors import UsageError
from wanjax.files import read_json
from wanjax.media.names import in_turn, is_taken, numbered, record_of
from wanjax.media.prompts import Prompt, load_prompts
from wanjax.planning.run import Run, prepare
from wanjax.validation import named


@dataclass(frozen=True, eq=False)
class Job:
    """One video of a batch; `made`: its file is there, written by an earlier run of the same."""

    run: Run
    output: str
    made: bool = False


def is_batch(config: Config) -> bool:
    return config.prompts is not None or len(config.seeds) > 1


def make_jobs(config: Config) -> list[Job]:
    """Every prompt with every seed, the seeds of a prompt after one another.

    Each run is what the prompt and the seed alone would give. The files are numbered from the
    output's name; those that an earlier run of the same batch has written are `made`. Where
    other files have these names, the whole batch takes a number more, unless it may overwrite
    them. Raises `UsageError` naming the prompt.
    """
    runs = make_runs(config)
    assert config.output is not None
    if config.overwrite:
        return [Job(run, name) for run, name in zip(runs, _names(config.output, runs), strict=True)]
    found = (_jobs(runs, stem) for stem in in_turn(config.output))
    return next(jobs for jobs in found if jobs is not None)


def make_runs(config: Config) -> list[Run]:
    """The runs of a batch; those with the same picture share all but prompt and seed."""
    prompts = [Prompt(config.prompt)] if config.prompts is None else load_prompts(config.prompts)
    planned: dict[str | None, Run] = {}
    runs = []
    for number, prompt in enumerate(prompts, 1):
        image = prompt.image or config.image
        one = replace(config, prompt=prompt.text, image=image, prompts=None)
        with named(f"prompt {number} of {config.prompts}"):
            check_inputs(one)
            if image not in planned:
                planned[image] = prepare(one)
        run = planned[image]
        for seed in config.seeds:
            its_own = replace(run.config, prompt=prompt.text, seed=seed, seeds=(seed,))
            runs.append(replace(run, config=its_own))
    return runs


def _names(output: str, runs: Sequence[Run]) -> list[str]:
    """With a number each; of fixed width, so that prompts may be added at the end."""
    return [numbered(output, f"{number:03}") for number in range(len(runs))]


def _jobs(runs: Sequence[Run], output: str) -> list[Job] | None:
    """None where a name is taken by something else."""
    jobs = []
    for run, name in zip(runs, _names(output, runs), strict=True):
        made = is_taken(name)
        if made and not _is_made(run, name):
            return None
        jobs.append(Job(run, name, made))
    return jobs


def _is_made(run: Run, output: str) -> bool:
    """Whether video and record are there, and the record is this run's."""
    try:
        record = read_json(record_of(output), UsageError)
    except UsageError:
        return False
    then, now = record.get("config"), json.loads(json.dumps(kept(run.config)))
    same = isinstance(then, dict) and then | {"output": None} == now | {"output": None}
    there = Path(output).expanduser().exists()
    return there and same and record.get("inputs", {}) == digests(run.config)
