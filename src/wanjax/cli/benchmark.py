"""
time a model's stages on this machine at full size, with random weights if it is not here

usage: wanjax benchmark [PRESET|FILE.yml] [output=FILE.json] [repeats=3] [key=value ...]

  wanjax benchmark                                    # the bundled model
  wanjax benchmark wan2.2-t2v-a14b height=720 width=1280 mesh=context:8
  wanjax benchmark wan2.1-t2v-1.3b use_easycache=True repeats=5

Text, condition, a computed and a skipped step, and decode of one video: the median of `repeats`
after a warm-up, the operations by formula, and the share of what the device reaches in a plain
product of matrices. A dense and a cached run of 10 steps (num_inference_steps) give realised
against ideal speedup. A published model's weights are random numbers made on the devices;
model=FOLDER takes a checkpoint's. What does not fit is refused before anything is made.

Writes a .json file and a table beside it (.md), by default in the folder benchmarks.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wanjax.cli.text import print_table
from wanjax.cli.together import FromFirst, together
from wanjax.config.keys import Config, with_steps
from wanjax.config.resolve import arguments, resolve
from wanjax.files import atomic_path, without_home, write_json
from wanjax.media.names import free

STEPS = 10  # of the runs that are timed, where no other number is asked for

_TITLES = ("stage", "seconds", "fastest", "slowest", "TFLOP", "TFLOP/s", "of matrix rate")


def run(args: Sequence[str]) -> int:
    config = resolve(args, "benchmark")
    if not any(arg.startswith("num_inference_steps=") for arg in arguments(args)):
        config = with_steps(config, STEPS)
    asked = shlex.join(["wanjax", "benchmark", *args])

    def command(config: Config, from_first: FromFirst) -> None:
        _benchmark(config, asked)

    return together(config, command)


def _benchmark(config: Config, asked: str) -> None:
    from wanjax.evaluate.benchmark import benchmark  # imports JAX
    from wanjax.parallel.hosts import is_first

    found = without_home({"command": asked} | benchmark(config, _tell).to_dict())
    if not is_first():
        return
    print_table(_TITLES, rows(found))  # first: the disk may have no room for it
    print("\n".join(summary(found)), flush=True)
    assert config.output is not None
    output = Path(config.output if config.overwrite else free(config.output)).expanduser()
    write_json(output, found)
    with atomic_path(output.with_suffix(".md")) as partial:
        partial.write_text(markdown(found), encoding="utf-8")
    _tell(f"wrote {output} and {output.with_suffix('.md')}")


def rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """The table's rows, of what the file has."""
    return [(name, *_figures(stage)) for name, stage in found["stages"].items()]


def _figures(stage: dict[str, Any]) -> tuple[str, ...]:
    seconds = tuple(f"{stage[name]:.4g}" for name in ("seconds", "fastest", "slowest"))
    if not stage["flops"]:
        return (*seconds, "0", "", "")
    rate, share = stage["flops_per_second"] / 1e12, stage["matrix_rate_share"]
    return (*seconds, f"{stage['flops'] / 1e12:.4g}", f"{rate:.3g}", f"{share:.0%}")


def summary(found: dict[str, Any]) -> list[str]:
    """What the table does not say, line by line."""
    speedup, matrix = found["speedup"], found["matrix_rate"]
    lines = [
        f"speedup: realised {speedup['realised']:.3f} of ideal {speedup['ideal']:.3f} "
        f"({speedup['realised_share']:.1%}), {speedup['method']}, plan {speedup['plan']}",
        f"matrix rate: {matrix['rate'] / 1e12:.3g} TFLOP/s a device "
        f"({matrix['dtype']}, {matrix['size']}x{matrix['size']})",
        f"compiling {found['compile_seconds']:.1f} s; "
        f"peak memory {found['peak_memory_bytes'] / 2**30:.2f} GiB",
    ]
    if "skipped_step_share" in found:
        lines.insert(1, f"a skipped step takes {found['skipped_step_share']:.2%} of a computed one")
    return lines


def markdown(found: dict[str, Any]) -> str:
    """The table with all that it depends on."""
    device, packages = found["device"], found["packages"]
    mesh = ", ".join(f"{axis} {size}" for axis, size in found["mesh"].items()) or "one device"
    about = [
        f"{found['model']}, {found['weights']} weights: {found['width']}x{found['height']}, "
        f"{found['num_frames']} frames, {found['dtype']}, {mesh} of {device['count']} x "
        f"{device['kind']}; {found['created']}, "
        + ", ".join(f"{name} {packages[name]}" for name in ("wanjax", "jax", "flax")),
        "",
        f"    {found['command']}",
        "",
        f"| {' | '.join(_TITLES)} |",
        "|---" * len(_TITLES) + "|",
        *(f"| {' | '.join(row)} |" for row in rows(found)),
        "",
    ]
    return "\n".join([*about, *(f"* {line}" for line in summary(found)), ""])


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
