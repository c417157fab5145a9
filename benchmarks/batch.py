"""What many videos in one command cost beyond denoising and decoding them.

python benchmarks/batch.py [PRESET] [key=value ...]

Runs `wanjax generate PRESET prompts=FILE seeds=0,1` on the 8 prompts of
benchmarks/closeness/PRESET.txt in a process of its own: with programs compiled anew, and once
more with those that the first run left on disk. Prints the seconds from the command to its end,
the sum of what the records say of denoising and decoding, and the ratio of the two.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

PROMPTS = Path(__file__).parent / "closeness"


def main(args: Sequence[str]) -> None:
    preset, *keys = args or ["tiny-t2v"]
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"XDG_CACHE_HOME": f"{folder}/cache"}
        for name in ("compiled anew", "compiled before"):
            wall, stages, count = batch(preset, keys, Path(folder) / name, environment)
            parts = stages["denoise"] + stages["decode"]
            told = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in stages.items())
            print(f"{preset}, {name}: {count} videos in {wall:.1f} s, {wall / parts:.2f} times the")
            print(f"  denoising and decoding ({told}); load {os.getloadavg()[0]:.1f}", flush=True)


def batch(
    preset: str, keys: Sequence[str], folder: Path, environment: dict[str, str]
) -> tuple[float, Counter[str], int]:
    """Seconds in all, seconds by stage, videos."""
    prompts, output = PROMPTS / f"{preset}.txt", f"output={folder}/video.mp4"
    command = [sys.executable, "-m", "wanjax", "generate", preset, f"prompts={prompts}"]
    command += ["seeds=0,1", output, "quiet=True", *keys]
    began = time.perf_counter()
    subprocess.run(command, env=environment, check=True)
    wall = time.perf_counter() - began
    stages: Counter[str] = Counter()
    records = sorted(folder.glob("*.json"))
    for record in records:
        stages.update(json.loads(record.read_text())["seconds"])
    return wall, stages, len(records)


if __name__ == "__main__":
    main(sys.argv[1:])
