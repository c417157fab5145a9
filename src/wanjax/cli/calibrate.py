"""
measure what a model's caches go by: curve, inner products of outputs, sensitivities

usage: wanjax calibrate [PRESET|FILE.yml] [prompts=FILE] [seeds=0,1] [key=value ...]

  wanjax calibrate output=my-curve.json              # the bundled model, its own prompts
  wanjax calibrate wan2.2-t2v-a14b prompts=mine.txt seeds=0,1,2 output=a14b.json
  wanjax generate wan2.2-t2v-a14b prompt="..." use_magcache=True mag_ratios_base=a14b.json
  wanjax calibrate use_magcache=True output=my-curve.json       # the curve alone: half the time

Every prompt runs with every seed, all steps computed; one file has what every method needs.
prompts=FILE has one prompt a line,
for image to video as `image.png | prompt`. An interrupted calibration goes on where it
stopped when the same command runs again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from wanjax.caching import METHODS
from wanjax.cli.together import FromFirst, together
from wanjax.config.keys import Config, active_methods
from wanjax.config.resolve import resolve
from wanjax.media.names import free
from wanjax.media.prompts import default_prompts, load_prompts


def run(args: Sequence[str]) -> int:
    return together(resolve(args, "calibrate"), _calibrate)


def _calibrate(config: Config, from_first: FromFirst) -> None:
    methods = active_methods(config) or None
    from wanjax.evaluate.calibrate import calibrate  # imports JAX
    from wanjax.parallel.hosts import is_first
    from wanjax.pipeline.pipeline import WanPipeline

    prompts = load_prompts(config.prompts) if config.prompts else default_prompts(config.preset)
    assert config.output is not None
    name = config.output
    output = Path(from_first(lambda: name if config.overwrite else free(name))).expanduser()
    progress = output.with_suffix(".progress.json")
    pipe = WanPipeline.from_config(config)
    curve = calibrate(pipe, prompts, config.seeds, methods=methods, progress=progress)
    if not is_first():
        return
    curve.save(output)
    progress.unlink(missing_ok=True)
    usable = [m for m in METHODS.values() if m.calibration and (methods is None or m in methods)]
    uses = [f"use_{m.name}=True {m.calibration.key}={output}" for m in usable if m.calibration]
    print(f"wrote {output}; use it with {', or '.join(uses)}", file=sys.stderr)
