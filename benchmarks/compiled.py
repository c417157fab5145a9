"""Which machine for which model: every row of the table compiled, for machines that are not here.

    python benchmarks/compiled.py                 # all rows, one after the other; hours on 2 cores
    python benchmarks/compiled.py h100 v6e:2x4    # the rows of some targets
    python benchmarks/compiled.py --table         # only writes the table again, from the files

Each row is what `wanjax compile ... json=True` prints, in a file of `benchmarks/compiled/` with
the command, the date, the versions and how long the whole command took. `table.md` there is the
table of docs/machines.md.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "compiled"
GIB = 2**30
T2V, I2V = "wan2.2-t2v-a14b", "wan2.2-i2v-a14b"
PACKAGES = ("wanjax", "jax", "jaxlib", "flax", "libtpu", "jax-cuda13-plugin")


@dataclass(frozen=True)
class Row:
    """A run of 81 frames with MagCache."""

    target: str
    preset: str = T2V
    height: int = 720
    width: int = 1280
    mesh: str = "auto"

    @property
    def arguments(self) -> list[str]:
        mesh = [] if self.mesh == "auto" else [f"mesh={self.mesh}"]
        size = [f"height={self.height}", f"width={self.width}"]
        return [self.preset, f"target={self.target}", *size, "use_magcache=True", *mesh]

    @property
    def file(self) -> Path:
        parts = (self.target, self.preset, f"{self.height}x{self.width}", self.mesh)
        return HERE / ("-".join(p.replace(":", "_").replace(",", "_") for p in parts) + ".json")


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
)


def main(arguments: Sequence[str]) -> None:
    for row in ROWS:
        if "--table" not in arguments and (not arguments or row.target in arguments):
            compile_row(row)
    lines = list(table())
    (HERE / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def compile_row(row: Row) -> None:
    command = ["wanjax", "compile", *row.arguments, "json=True"]
    print(" ".join(command), file=sys.stderr, flush=True)
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=sys.stderr, text=True
    )
    seconds = time.perf_counter() - began
    if not done.stdout:  # a mistake or a failure, which stands above
        return
    about = {
        "command": " ".join(command),
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(seconds, 1),
        "host": f"{platform.machine()}, python {platform.python_version()}",
        "packages": dict(versions()),
    }
    HERE.mkdir(exist_ok=True)
    found = about | json.loads(done.stdout)
    row.file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def versions() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def table() -> Iterator[str]:
    """In Markdown, of the rows that have been compiled."""
    yield (
        "| target | model | size | mesh | peak of a device | estimate | step: temporary | "
        "step: exchanged | skipped step | VAE | waits on the host | fits |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|"
    for row in ROWS:
        if row.file.exists():
            yield _line(row, json.loads(row.file.read_text(encoding="utf-8")))


def _line(row: Row, found: dict[str, Any]) -> str:
    step, skipped = (found["programs"][name] for name in ("computed_step", "skipped_step"))
    mesh = ",".join(f"{a}:{n}" for a, n in found["mesh"].items() if n > 1) or "one device"
    limit = found["memory_limit_bytes"]
    waits = {
        name
        for stage in found["stages"].values()
        for name, place in stage["components"].items()
        if place == "pinned_host"
    }
    cells = (
        f"`{row.target}`",
        row.preset,
        f"{row.height}x{row.width}",
        mesh,
        f"{gib(found['peak_bytes'])} of {gib(limit)} GiB ({_widest(found)})",
        f"{gib(found['estimate']['peak_bytes'])} GiB",
        f"{gib(step['temporary_bytes'])} GiB",
        f"{gib(_moved(step))} GiB",
        f"{_moved(skipped) / 2**20:.0f} MiB",
        f"{gib(found['stages']['decode']['peak_bytes'])} GiB",
        ", ".join(sorted(waits)) or "nothing",
        "yes" if found["fits"] else "no",
    )
    return "| " + " | ".join(cells) + " |"


def _widest(found: dict[str, Any]) -> str:
    return max(found["stages"], key=lambda name: found["stages"][name]["peak_bytes"])


def _moved(program: dict[str, Any]) -> int:
    return sum(kind["bytes"] for kind in program["collectives"].values())


def gib(size: int) -> str:
    return f"{size / GIB:.1f}"


if __name__ == "__main__":
    main(sys.argv[1:])
