"""From arguments to a comparison: variants, clips and settings."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wanjax.config.keys import Config, keys, with_steps
from wanjax.config.resolve import arguments
from wanjax.errors import UsageError
from wanjax.evaluate.clips import Clip, make_clips
from wanjax.evaluate.comparison import Comparison
from wanjax.evaluate.folders import compare_folders
from wanjax.evaluate.generation import that_act
from wanjax.evaluate.lock import only_one
from wanjax.evaluate.perceptual import load_lpips
from wanjax.evaluate.runner import Runner
from wanjax.evaluate.store import Store
from wanjax.files import atomic_path
from wanjax.media.images import load_image
from wanjax.media.prompts import Prompt, as_lines, default_prompts, load_prompts
from wanjax.pipeline.pipeline import WanPipeline
from wanjax.pipeline.record import environment
from wanjax.planning.plot import require_figure
from wanjax.planning.run import Run, prepare
from wanjax.planning.variants import DENSE, Variants, changes, is_exact, read_variants
from wanjax.settings import as_written

CONVERGED = "converged"
VARIANTS = "dense,magcache,fewer-steps"

# What all variants share: models, the shape of the noise, and how videos are stored.
_SHARED = ("model", "task", "weights_dtype", "attention", "height", "width", "num_frames", "fps")


def compare(
    *args: str,
    prompts: Iterable[str | Prompt] | None = None,
    pipe: WanPipeline | None = None,
    **values: Any,
) -> Comparison:
    """Generate and measure; `comparison.metrics()` has the numbers, `save` writes the report.

    `args` and `values` are as on the command line: a preset or YAML file, then keys, such as
    `compare("tiny-t2v", variants="dense,magcache", seeds=(0, 1), output="out")`. `prompts` may
    be texts or `Prompt`s, `pipe` a pipeline whose models and programs serve. Finished runs are
    kept in the folder `output`. Raises `UsageError`.
    """
    # JAX has one cache for all of a process: in Python it is the caller's to switch on
    values = {"compilation_cache": False} | values
    return compare_arguments(args, values, None if prompts is None else list(prompts), pipe)


def compare_arguments(
    args: Sequence[str],
    values: Mapping[str, Any],
    prompts: Sequence[str | Prompt] | None = None,
    pipe: WanPipeline | None = None,
) -> Comparison:
    """As `compare`, from a command line's arguments."""
    values, args = dict(values), arguments(args)
    if "variants" in values:
        args = [*args, f"variants={values.pop('variants')}"]
    videos = "videos" in values or any(arg.startswith("videos=") for arg in args)
    prepared = functools.cache(prepare)
    variants = read_variants(args, "compare", "" if videos else VARIANTS, values)
    first = next(iter(variants.configs.values()))
    assert first.output is not None
    folder = Path(first.output).expanduser()
    figure = None if first.figure is None else Path(first.figure).expanduser()
    if figure is not None:
        require_figure("figure", figure)
    for key in ("figure", "sweep"):
        if first.videos and getattr(first, key) is not None:
            raise UsageError(f"{key}: videos={first.videos} are not generated, and have no speed")
    loaded = load_lpips()
    lpips, notes = (None, [loaded]) if isinstance(loaded, str) else (loaded, [])
    created = {"created": datetime.now(UTC).isoformat(timespec="seconds")}
    if first.videos:
        about = {"command": _command(args, values, None, folder)} | created
        return compare_folders(first.videos, folder, lpips, about, notes)
    clips = make_clips(_prompts(first, prompts), first.seeds)
    variants = _with_references(args, values, variants)
    _check(variants.with_rows(variants.planned_costs(prepared))[0], clips, prepared)
    given = None if prompts is None else _prompts(first, prompts)
    about = {"command": _command(args, values, given, folder)} | created
    references = [name for name in (DENSE, CONVERGED) if name in variants.configs]
    runner = Runner(variants, references, Store(folder), prepared, lpips=lpips, pipe=pipe)
    with only_one(folder / ".lock", f"output={folder}"):
        records, timed = runner.run(clips, first.repeats)
    configs = runner.configs
    dense = configs[DENSE]
    return Comparison(
        about=about | _about(prepared(dense)),
        references=tuple(references),
        changes={name: changes(dense, config) for name, config in configs.items()},
        clips=[_facts(clip) for clip in clips],
        runs={n: {c.name: r[n] for c, r in zip(clips, records, strict=True)} for n in configs},
        videos={n: {c.name: runner.store.video(n, c.name) for c in clips} for n in configs},
        folder=folder,
        fps=dense.fps,
        timed=timed,
        exact=frozenset(n for n in configs if is_exact(dense, configs[n])) - {*references},
        rows=runner.rows,
        sweeps=variants.lines,
        figure=figure,
        notes=[*notes, *_warnings(records[0]), *_commits(records)],
    )


def _facts(clip: Clip) -> dict[str, Any]:
    image = {} if clip.prompt.image is None else {"image": str(clip.prompt.image)}
    return {"name": clip.name, "prompt": clip.prompt.text, "seed": clip.seed, **image}


def _command(
    args: Sequence[str],
    values: Mapping[str, Any],
    prompts: Sequence[Prompt] | None,
    folder: Path,
) -> str:
    """What to type for the same comparison; prompts from Python are put into a file for it."""
    typed = {n: value for n, value in values.items() if n != "compilation_cache"}
    written = [*args, *(f"{name}={as_written(value)}" for name, value in typed.items())]
    if prompts is not None:
        file = folder / "prompts.txt"
        with atomic_path(file) as partial:
            partial.write_text(as_lines(prompts), encoding="utf-8")
        written.append(f"prompts={file}")
    return shlex.join(["wanjax", "compare", *written])


def _prompts(config: Config, given: Sequence[str | Prompt] | None) -> list[Prompt]:
    if given is not None:
        return [Prompt(p, config.image) if isinstance(p, str) else p for p in given]
    if config.prompts:
        return load_prompts(config.prompts)
    if config.prompt:
        return [Prompt(config.prompt, config.image)]
    return default_prompts(config.preset)


def _with_references(
    args: Sequence[str], values: Mapping[str, Any], variants: Variants
) -> Variants:
    """The dense and, if asked for, the converged run first."""
    dense = variants.configs.get(DENSE)
    if dense is None:
        rest = [arg for arg in args if not arg.startswith("variants=")]
        dense = read_variants([*rest, f"variants={DENSE}"], "compare", "", values).configs[DENSE]
    ordered = {DENSE: dense}
    if dense.reference_steps is not None:
        ordered[CONVERGED] = with_steps(dense, dense.reference_steps)
    others = {n: config for n, config in variants.configs.items() if n not in ordered}
    return replace(variants, configs=ordered | others)


def _check(
    configs: Mapping[str, Config], clips: Sequence[Clip], prepared: Callable[[Config], Run]
) -> None:
    """Raise `UsageError` for what would fail after the model has been loaded."""
    dense = configs[DENSE]
    idle = keys().keys() - {*that_act(), "output"}
    for name, config in configs.items():
        for key in sorted(idle):
            if getattr(config, key) != getattr(dense, key):
                raise UsageError(
                    f"variant {name}: {key}={getattr(config, key)} would not act: it is one for "
                    "the whole comparison; give it outside of variants="
                )
        for key in _SHARED:
            if getattr(config, key) != getattr(dense, key):
                raise UsageError(
                    f"variant {name}: {key} is {getattr(config, key)}, but all variants share "
                    f"{key}={getattr(dense, key)}; compare videos of two runs with videos=A,B"
                )
        try:
            prepared(config)
        except UsageError as error:
            raise UsageError(f"variant {name}: {error}") from error
    for clip in clips:
        given = {"t2v": (False,), "i2v": (True,)}.get(dense.task, (False, True))
        if (clip.prompt.image is not None) not in given:
            raise UsageError(
                f"prompt {clip.prompt.text!r} has no image: write `image.png | prompt` in the file"
                if dense.task == "i2v"
                else f"prompt {clip.prompt.text!r} has an image, but the model takes none"
            )
        if clip.prompt.image is not None:
            load_image(clip.prompt.image)


def _about(run: Run) -> dict[str, Any]:
    """What was compared, and where."""
    config, plan = run.config, run.plan
    boundary = f", boundary at step {plan.boundary_step}" if plan.boundary_step is not None else ""
    scales = dict.fromkeys(plan.schedule.guidance_scales)
    settings = {
        "size": f"{config.width}x{config.height}, {config.num_frames} frames at {config.fps} fps",
        "sampling": f"{config.num_inference_steps} steps of {config.sampler}, flow_shift "
        f"{config.flow_shift:g}{boundary}, guidance {' / '.join(f'{s:g}' for s in scales)}",
        "arithmetic": f"{config.activations_dtype}, attention {config.attention}",
    }
    return {
        "title": run.name,
        "settings": settings,
        "environment": environment(),
    }


def _warnings(records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the plans warn of, with the variants that it concerns."""
    found: dict[str, list[str]] = {}
    for name, record in records.items():
        for text in record["plan"]["warnings"]:
            found.setdefault(text, []).append(name)
    return [f"{', '.join(names)}: {text}" for text, names in found.items()]


def _commits(records: Sequence[Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """A note where videos were made by different states of the package."""
    found = dict.fromkeys(str(r.get("commit")) for by_name in records for r in by_name.values())
    return [f"made at different commits of wanjax: {', '.join(found)}"] if len(found) > 1 else []
