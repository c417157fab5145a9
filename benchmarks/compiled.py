"""Which machine for which model: every row of the table compiled, for machines that are not here.

    python benchmarks/compiled.py                 # all rows, one after the other; hours on 2 cores
    python benchmarks/compiled.py h100 v6e:2x4    # the rows of some targets, or of a file's name
    python benchmarks/compiled.py --steps v6e:2x4 # without decoding, which takes longest
    python benchmarks/compiled.py --table         # only writes the page again, from the files

Each row is what `wanjax compile ... json=True` prints, in a file of `benchmarks/compiled/` with
the command, the date, the versions and how long the whole command took, also in seconds of
processor time. They make the table of docs/machines.md.
"""

from __future__ import annotations

import json
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "compiled"
PAGE = Path(__file__).parents[1] / "docs" / "machines.md"
TABLE = re.compile(r"^\| target \|.*?\n(?=\n)", re.DOTALL | re.MULTILINE)
GIB = 2**30
T2V, I2V = "wan2.2-t2v-a14b", "wan2.2-i2v-a14b"
SMALL, SINGLE, TI2V = "wan2.1-t2v-1.3b", "wan2.1-t2v-14b", "wan2.2-ti2v-5b"
PACKAGES = ("wanjax", "jax", "jaxlib", "flax", "libtpu", "jax-cuda13-plugin")


@dataclass(frozen=True)
class Row:
    """A run of the preset's frames with MagCache."""

    target: str
    preset: str = T2V
    height: int = 720
    width: int = 1280
    mesh: str = "auto"
    more: str = ""  # another key

    @property
    def arguments(self) -> list[str]:
        mesh = [] if self.mesh == "auto" else [f"mesh={self.mesh}"]
        size = [f"height={self.height}", f"width={self.width}"]
        more = [self.more] if self.more else []
        return [self.preset, f"target={self.target}", *size, "use_magcache=True", *mesh, *more]

    @property
    def file(self) -> Path:
        parts = [self.target, self.preset, f"{self.height}x{self.width}", self.mesh, self.more]
        names = (re.sub("[:,=]", "_", part) for part in parts if part)
        return HERE / ("-".join(names) + ".json")

    def read(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.file.read_text(encoding="utf-8"))
        return found


ROWS = (
    Row("h100"),
    Row("h100", I2V),
    Row("a100"),
    Row("h200"),
    Row("b200"),
    Row("h100:8", mesh="context:8"),
    Row("v5e:2x4", height=480, width=832),
    Row("v5e:2x4"),
    Row("v6e:2x4"),
    Row("v6e:2x4", mesh="fsdp:8"),
    Row("v5p:2x2x1"),
    Row("tpu7x:2x2x1"),
    Row("tpu7x:2x2x1", I2V),
    Row("v6e:4x4"),
    Row("tpu7x:2x2x2"),
    Row("h100", SINGLE),
    Row("v6e:2x4", SINGLE),
    Row("h100", SMALL, 480, 832),
    Row("v5e:2x2", SMALL, 480, 832),
    Row("a10g", TI2V, 704),
    Row("rtx4090", TI2V, 704),
    Row("rtx4090", TI2V, 704, more="task=i2v"),
    Row("v6e:1x1", TI2V, 704),
    Row("h100", height=480, width=832),
    Row("h100", height=480, width=832, more="quantize=fp8"),
    Row("rtx5090", height=480, width=832, more="quantize=fp8"),
    Row("v6e:1x1", height=480, width=832, more="quantize=int8"),
)


def main(arguments: Sequence[str]) -> None:
    if arguments[:1] == ["--print-steps"]:
        return print_steps(arguments[1:])
    names = [argument for argument in arguments if not argument.startswith("--")]
    for row in ROWS:
        wanted = not names or row.target in names or row.file.stem in names
        if wanted and "--table" not in arguments:
            compile_row(row, steps_alone="--steps" in arguments)
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(TABLE.sub(lambda _: table(), page), encoding="utf-8")


def compile_row(row: Row, steps_alone: bool) -> None:
    print(" ".join(command(row)), file=sys.stderr, flush=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    found = compiled(row, steps_alone)
    seconds = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    if found is None:  # a mistake or a failure, which stands above
        return
    about = {
        "command": " ".join(command(row)),
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(seconds, 1),
        "processor_seconds": round(_processor(used) - _processor(before), 1),
        "host": f"{platform.machine()}, python {platform.python_version()}",
        "packages": dict(versions()),
    }
    HERE.mkdir(exist_ok=True)
    row.file.write_text(json.dumps(about | found, indent=1) + "\n", encoding="utf-8")


def command(row: Row) -> list[str]:
    return ["wanjax", "compile", *row.arguments, "json=True"]


def compiled(row: Row, steps_alone: bool) -> dict[str, Any] | None:
    """What another process prints, or None where it printed nothing."""
    code = [__file__, "--print-steps", *row.arguments] if steps_alone else ["-m", *command(row)]
    done = subprocess.run(
        [sys.executable, *code], stdout=subprocess.PIPE, stderr=sys.stderr, text=True
    )
    found: dict[str, Any] | None = json.loads(done.stdout) if done.stdout else None
    return found


def print_steps(arguments: Sequence[str]) -> None:
    """What `wanjax compile` does and prints, but decoding."""
    from wanjax.config.resolve import resolve
    from wanjax.parallel.targets import parse_target, set_environment

    config = resolve(arguments, "compile")
    set_environment()  # before anything imports JAX
    from wanjax.checkpoints.configs import model_configs
    from wanjax.cli.compile import to_dict
    from wanjax.pipeline.compiling import compile_run
    from wanjax.pipeline.machine import machine
    from wanjax.planning.run import prepare

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    run, configs = prepare(config), model_configs(str(config.model))
    target, mesh = machine(config, run.plan, parse_target(str(config.target)))
    print(json.dumps(to_dict(compile_run(run, target, configs, mesh, tell, decode=False))))


def versions() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def _processor(used: resource.struct_rusage) -> float:
    return used.ru_utime + used.ru_stime


def table() -> str:
    """In Markdown, of the rows that have been compiled."""
    titles = (
        "target",
        "model",
        "size",
        "mesh",
        "peak, GiB a device",
        "estimate",
        "computed step: temporary, GiB",
        "exchanged, GiB",
        "skipped step: exchanged, MiB",
        "decode: peak, GiB",
        "waits on the host",
    )
    lines = [titles, ("---",) * len(titles)]
    lines += [_cells(row, row.read()) for row in ROWS if row.file.exists()]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _cells(row: Row, found: dict[str, Any]) -> tuple[str, ...]:
    step, skipped = (found["programs"][name] for name in ("computed_step", "skipped_step"))
    mesh = ",".join(f"{a}:{n}" for a, n in found["mesh"].items() if n > 1)
    waits = {
        name
        for stage in found["stages"].values()
        for name, place in stage["components"].items()
        if place == "pinned_host"
    }
    peak, limit = gib(found["peak_bytes"]), gib(found["memory_limit_bytes"])
    return (
        f"`{row.target}`",
        f"{row.preset} {row.more}".strip(),
        f"{row.height}x{row.width}",
        mesh or "one device",
        f"{peak} of {limit} ({_widest(found)})" if found["fits"] else f"**{peak}** of {limit}",
        gib(found["estimate"]["peak_bytes"]),
        gib(step["temporary_bytes"]),
        gib(moved(step)),
        f"{moved(skipped) / 2**20:.0f}",
        gib(found["stages"]["decode"]["peak_bytes"]) if "decode" in found["stages"] else "not made",
        ", ".join(sorted(waits)) or "nothing",
    )


def _widest(found: dict[str, Any]) -> str:
    return max(found["stages"], key=lambda name: found["stages"][name]["peak_bytes"])


def moved(program: dict[str, Any]) -> int:
    """Bytes that a device gets in all exchanges of a call."""
    return sum(kind["bytes"] for kind in program["collectives"].values())


def gib(size: int) -> str:
    return f"{size / GIB:.1f}"


if __name__ == "__main__":
    main(sys.argv[1:])
