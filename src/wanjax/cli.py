"""The command line: `wanjax COMMAND [PRESET|FILE.yml] [key=value ...]`."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from wanjax.caching import Plan
from wanjax.config.keys import KEYS, Config
from wanjax.config.resolve import load_preset, preset_names, resolve
from wanjax.config.values import describe, nearest
from wanjax.errors import UsageError
from wanjax.files import json_text
from wanjax.planning.plans import caching_method, plan_for
from wanjax.planning.variants import resolve_variants

USAGE = """\
usage: wanjax COMMAND [PRESET|FILE.yml] [key=value ...]

Wan 2.1 / 2.2 video generation in JAX with step caching.

commands:
{commands}

A preset is a model with its official sampling values (`wanjax presets`); the keys and their
values are listed by `wanjax show PRESET`. Without a preset the bundled model runs, offline:

  wanjax generate prompt="a red ball moving right on a dark background"

`wanjax COMMAND --help` tells more.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 for success, 2 for a user's mistake, 1 for a failure."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(args)
    except UsageError as error:
        print(f"wanjax: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("wanjax: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone, as in `wanjax ... | head`
        return 1


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        print(_usage(), end="")
        return 0 if args else 2
    if args[0] == "--version":
        from importlib.metadata import version  # slow to import

        print(f"wanjax {version('wanjax')}")
        return 0
    command, *rest = args
    if command not in COMMANDS:
        raise UsageError(
            f"unknown command {command}{nearest(command, COMMANDS)}; "
            f"commands: {', '.join(COMMANDS)}"
        )
    if "-h" in rest or "--help" in rest:
        print(textwrap.dedent(COMMANDS[command].__doc__ or "").strip())
        return 0
    COMMANDS[command](rest)
    return 0


def _usage() -> str:
    lines = [
        f"  {name:11}{(function.__doc__ or '').strip().splitlines()[0]}"
        for name, function in COMMANDS.items()
    ]
    return USAGE.format(commands="\n".join(lines))


def generate(args: Sequence[str]) -> None:
    """
    write a video and, beside it, a .json record of how it was made

    usage: wanjax generate [PRESET|FILE.yml] prompt=TEXT [image=FILE] [key=value ...]

      wanjax generate prompt="a red ball moving right on a dark background"
      wanjax generate tiny-i2v image=ball.png prompt="the ball moves left" output=ball.mp4
      wanjax generate wan2.2-t2v-a14b prompt="two cats boxing" use_magcache=True seed=7
      wanjax generate my.yml prompt="two cats boxing"      # my.yml: `preset: NAME`, `key: value`

    `wanjax show PRESET` lists every key; `wanjax plan` with the same arguments shows which
    steps will be computed, without loading the model.
    """
    config = resolve(args, "generate")
    from wanjax.generate import run  # imports JAX

    run(config)


def calibrate(args: Sequence[str]) -> None:
    """
    measure a model's magnitude curve, which MagCache goes by, or SenCache's sensitivities

    usage: wanjax calibrate [PRESET|FILE.yml] [prompts=FILE] [seeds=0,1] [key=value ...]

      wanjax calibrate output=my-curve.json              # the bundled model, its own prompts
      wanjax calibrate wan2.2-t2v-a14b prompts=mine.txt seeds=0,1,2 output=a14b.json
      wanjax generate wan2.2-t2v-a14b prompt="..." use_magcache=True mag_ratios_base=a14b.json
      wanjax calibrate use_sen_cache=True output=my-sensitivities.json

    Every prompt runs with every seed, all steps computed. prompts=FILE has one prompt a line,
    for image to video as `image.png | prompt`. An interrupted calibration goes on where it
    stopped when the same command runs again.
    """
    config = resolve(args, "calibrate")
    from wanjax.calibrate import run  # imports JAX

    run(config)


def plan(args: Sequence[str]) -> None:
    """
    show which steps are computed and which are skipped, without loading a model

    usage: wanjax plan [PRESET|FILE.yml] [json=True] [key=value ...]

      wanjax plan wan2.2-t2v-a14b use_magcache=True
      wanjax plan wan2.2-t2v-a14b use_magcache=True magcache_thresh=0.06 magcache_K=4
      wanjax plan wan2.1-t2v-1.3b use_magcache=True target_speedup=1.8    # best plan at that cost
      wanjax plan wan2.2-i2v-a14b use_magcache=True json=True
      wanjax plan wan2.2-t2v-a14b use_cfg_cache=True use_kv_cache=True
      wanjax plan wan2.2-t2v-a14b use_magcache=True plot=plan.png
      wanjax plan wan2.2-t2v-a14b use_magcache=True plot=both.png \\
          variants="K2:magcache_K=2,K4:magcache_K=4;magcache_thresh=0.06"

    `plot` draws the curve, the steps and the accumulated error against the threshold. With
    `variants` there is a plan for each: its keys over the rest of the command line. In the
    strip, # is a computed step, . a skipped one, + one computed in part, ? one that is decided
    on during the run, and | stands before the low-noise expert's first step.
    """
    configs = resolve_variants(args, "plan")
    plans = {name: plan_for(config) for name, config in configs.items()}
    first, *_ = configs.values()
    if first.plot is not None:
        from wanjax.planning.plot import PlannedRun, draw_plans  # imports matplotlib

        runs = {
            name or str(config.preset or config.model): PlannedRun(
                plans[name], caching_method(config)
            )
            for name, config in configs.items()
        }
        draw_plans(Path(first.plot).expanduser(), runs)
    if first.json:
        facts = {name: made.to_dict() for name, made in plans.items()}
        print(json_text(facts if len(facts) > 1 or "" not in facts else facts[""]))
        return
    for name, made in plans.items():
        print(f"{name}\n" * bool(name) + plan_text(configs[name], made))


def compare(args: Sequence[str]) -> None:
    """
    measure what caching costs: variants from the same noise, side by side in one HTML file

    usage: wanjax compare [PRESET|FILE.yml] [variants=NAME,...] [prompts=FILE] [seeds=0,1,...]
           wanjax compare videos=FOLDER,FOLDER[,...]

      wanjax compare prompt="a red ball moving right on a dark background"
      wanjax compare tiny-t2v seeds=0,1 reference_steps=200 output=report
      wanjax compare wan2.2-t2v-a14b prompts=prompts.txt \\
          variants="dense,magcache,fast:use_magcache=True;magcache_thresh=0.12,fewer-steps"
      wanjax compare videos=runs/dense,runs/mine    # mp4 files with equal names, made by anything

    The reference is `dense`, which always runs; with `reference_steps` there is a second one of
    so many steps. `fewer-steps` takes as many dense steps as cost what the first cached variant
    does. Another variant has a name, a colon and its keys with semicolons between. Without
    variants: dense,magcache,fewer-steps.

    Writes report.html, metrics.json, table.md and the videos to the folder `output`. Finished
    runs stay there: interrupted, the same command goes on from them.
    """
    from wanjax.evaluate.comparing import run  # imports JAX

    run(args)


def presets(args: Sequence[str]) -> None:
    """
    list the models that can be named, with their sampling values

    usage: wanjax presets
    """
    _no_arguments("presets", args)
    rows = [("preset", "size", "frames", "steps", "shift", "guidance", "model")]
    for name in preset_names():
        config = load_preset(name)
        size = f"{config.width}x{config.height}"
        guidance = " / ".join(f"{scale:g}" for scale in _guidance(config))
        numbers = (str(config.num_frames), str(config.num_inference_steps))
        shift = f"{config.flow_shift:g}"
        rows.append((name, size, *numbers, shift, guidance, str(config.model)))
    print(_table(rows))


def show(args: Sequence[str]) -> None:
    """
    print every key with its value, what is allowed, and a line of help

    usage: wanjax show [PRESET|FILE.yml] [key=value ...]

      wanjax show wan2.2-t2v-a14b
    """
    config = resolve(args, "show")
    for name, field in KEYS.items():
        if not field.metadata["commands"]:
            value = json.dumps(getattr(config, name), ensure_ascii=False)
            print(f"{name}: {value}\n    {field.metadata['help']} ({describe(Config, field)})")


def plan_text(config: Config, plan: Plan) -> str:
    """The plan for people to read."""
    facts = plan.to_dict()
    settings = ", ".join(f"{name} {value}" for name, value in plan.settings.items())
    not_computed = {"skipped": plan.skipped_steps}
    if plan.partial_steps:
        not_computed["in part"] = plan.partial_steps
    if plan.open_steps:  # which leaves nothing to say of the skipped ones
        not_computed = {"undecided": plan.open_steps}
    lines = [
        f"model      {config.preset or config.model}",
        f"steps      {facts['steps']} ({config.sampler}, flow_shift {config.flow_shift:g})",
        f"guidance   {' / '.join(f'{scale:g}' for scale in _guidance(config))}",
        f"cache      {plan.method}{f' ({settings})' if settings else ''}",
        f"computed   {len(plan.steps) - sum(map(len, not_computed.values()))}",
        *(f"{name:11}{len(found)}{_indices(found)}" for name, found in not_computed.items()),
        f"speedup    {_speedup(plan)}",
        f"plan       {plan.strip()}",
    ]
    if config.use_kv_cache:
        lines.append(f"kv cache   {_memory(plan.kv_cache_bytes)}")
    if plan.boundary_step is not None:
        lines.insert(2, f"boundary   {_boundary(config, plan)}")
    lines += [f"warning    {warning}" for warning in plan.warnings]
    return "\n".join(lines)


def _boundary(config: Config, plan: Plan) -> str:
    where = f"boundary_ratio {config.boundary_ratio:g}"
    if plan.boundary_step == len(plan.steps):
        return f"no step of the low-noise expert ({where})"
    return f"low-noise expert from step {plan.boundary_step} on ({where})"


def _indices(steps: Sequence[int]) -> str:
    return f": {' '.join(map(str, steps))}" if steps else ""


def _speedup(plan: Plan) -> str:
    if plan.open_steps:
        return "as the run decides, which steps to reuse following from the data"
    return f"{plan.ideal_speedup:.2f}x at most (counting transformer blocks alone)"


def _memory(held: int | None) -> str:
    if held is None:
        return "of unknown size: the model is not at hand"
    return f"{held / 1e6:,.1f} MB, for one video"


def _guidance(config: Config) -> list[float]:
    scales = (config.guidance_scale_high, config.guidance_scale_low)
    return [scale for scale in scales if scale is not None]


def _no_arguments(command: str, args: Sequence[str]) -> None:
    if args:
        raise UsageError(f"`wanjax {command}` takes no arguments; got {args[0]}")


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


COMMANDS: Mapping[str, Callable[[Sequence[str]], None]] = {
    "generate": generate,
    "calibrate": calibrate,
    "plan": plan,
    "compare": compare,
    "presets": presets,
    "show": show,
}
