"""The first hour's commands in a new environment: seconds of each, and what appears.

python benchmarks/first_hour.py [REQUIREMENT] [installer=pip|uv]

Makes a virtual environment in a temporary folder, with a home of its own so that no cache of
programs or packages helps, installs REQUIREMENT (this checkout, unless you say another) and runs
the commands one after the other in an empty folder. Prints the table of docs/first_hour.md. A
command that fails ends it.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
BALL = 'wanjax generate "a red ball moving right on a dark background"'
COMMANDS = (
    f"{BALL} output=ball.mp4",
    f"{BALL} output=again.mp4",
    "wanjax plan wan2.2-t2v-a14b use_magcache=True",
    'wanjax generate image=example:red-ball "the red ball moves left" output=left.mp4',
    'wanjax generate "a blue square growing" use_forecast=True target_speedup=3 output=blue.mp4',
    "wanjax generate ball.json seed=8 output=other.mp4",
    "wanjax generate prompts=mine.txt seeds=0,1 output=many.mp4",
    "wanjax compare tiny-t2v seeds=0 output=report",
)
INSTALLERS = {
    "pip": ("python", "-m", "pip", "install", "--quiet"),
    "uv": ("uv", "pip", "install", "--quiet"),
}
PROMPTS = ("a green triangle moving up", "a yellow cross shrinking")


def main(*args: str) -> None:
    given = dict(arg.split("=", 1) for arg in args if arg.startswith("installer="))
    installer = given.get("installer", "pip")
    (requirement,) = [arg for arg in args if not arg.startswith("installer=")] or [str(CHECKOUT)]
    print("| command | seconds | what appears |\n|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as place:
        work, environment = Path(place, "work"), fresh(Path(place))
        work.mkdir()
        Path(work, "mine.txt").write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
        install = shlex.join([*INSTALLERS[installer], requirement])
        for command in (install, *COMMANDS):
            before, began = set(files(work)), time.perf_counter()
            done = subprocess.run(
                shlex.split(command), cwd=work, env=environment, capture_output=True, text=True
            )
            seconds = time.perf_counter() - began
            if done.returncode:
                sys.exit(f"{command}: exit code {done.returncode}\n{done.stderr}")
            made = sorted(set(files(work)) - before)
            made += ["text"] if done.stdout.strip() and not made else []
            short = "uv pip install ." if installer == "uv" else "pip install ."
            shown = short if command is install else command
            print(f"| `{shown}` | {seconds:.1f} | {', '.join(made)} |", flush=True)


def fresh(place: Path) -> dict[str, str]:
    """The variables of a shell that has entered a new environment, with a home of its own."""
    venv.create(place / "env", with_pip=True)
    home = place / "home"
    home.mkdir()
    path = f"{place / 'env' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    gone = {"PYTHONPATH", "XDG_CACHE_HOME", "PYTHONHOME"}
    kept = {name: value for name, value in os.environ.items() if name not in gone}
    return kept | {"PATH": path, "HOME": str(home), "VIRTUAL_ENV": str(place / "env")}


def files(work: Path) -> Iterator[str]:
    """What lies in the folder, the contents of its own folders left out."""
    return (path.name + "/" * path.is_dir() for path in work.iterdir())


if __name__ == "__main__":
    main(*sys.argv[1:])
