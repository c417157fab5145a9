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

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from wanjax.caching import MagCache
from wanjax.config.keys import active_methods
from wanjax.config.resolve import resolve
from wanjax.media.prompts import default_prompts, load_prompts


def run(args: Sequence[str]) -> None:
    config = resolve(args, "calibrate")
    method = next(iter(active_methods(config)), MagCache)
    assert method.calibration is not None  # checked with the configuration
    from wanjax.evaluate.calibrate import calibrate  # imports JAX
    from wanjax.pipeline.pipeline import WanPipeline

    prompts = load_prompts(config.prompts) if config.prompts else default_prompts(config.preset)
    assert config.output is not None
    output = Path(config.output).expanduser()
    progress = output.with_suffix(".progress.json")
    pipe = WanPipeline.from_config(config)
    calibrate(pipe, prompts, config.seeds, method=method, progress=progress).save(output)
    progress.unlink(missing_ok=True)
    keys = f"use_{method.name}=True {method.calibration.key}={output}"
    print(f"wrote {output}; use it with {keys}", file=sys.stderr)
