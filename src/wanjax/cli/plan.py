"""
show which steps are computed and which are skipped, without loading a model

usage: wanjax plan [PRESET|FILE.yml] [json=True] [key=value ...]

  wanjax plan wan2.2-t2v-a14b use_magcache=True
  wanjax plan wan2.2-t2v-a14b use_magcache=True magcache_thresh=0.06 magcache_K=4
  wanjax plan wan2.1-t2v-1.3b use_magcache=True target_speedup=1.8    # best plan at that cost
  wanjax plan wan2.2-i2v-a14b use_magcache=True json=True
  wanjax plan wan2.2-t2v-a14b use_cfg_cache=True use_kv_cache=True
  wanjax plan wan2.2-t2v-a14b use_magcache=True plot=plan.png
  wanjax plan wan2.2-t2v-a14b use_magcache=True plot=both.png \
      variants="K2:magcache_K=2,K4:magcache_K=4;magcache_thresh=0.06"

`plot` draws the curve, the steps and the accumulated error against the threshold. With
`variants` there is a plan for each: its keys over the rest of the command line. In the
strip, # is a computed step, . a skipped one, + one computed in part, ? one that is decided
on during the run, and | stands before the low-noise expert's first step.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from wanjax.checkpoints.presence import presence
from wanjax.cli.text import plan_text
from wanjax.files import json_text
from wanjax.planning.run import prepare
from wanjax.planning.variants import resolve_variants


def run(args: Sequence[str]) -> None:
    prepared = functools.cache(prepare)  # a row of equal cost needs a variant's plan first
    configs = resolve_variants(args, "plan", prepared=prepared)
    runs = {name: prepared(config) for name, config in configs.items()}
    first, *_ = configs.values()
    if first.plot is not None:
        from wanjax.planning.plot import draw_plans  # imports matplotlib

        named = {name or run.name: run for name, run in runs.items()}
        draw_plans(Path(first.plot).expanduser(), named)
    if first.json:
        here = presence(str(first.model), first.parts, first.revision).state
        facts = {
            name: run.to_dict() | {"model_is": here, "notes": list(run.notes)}
            for name, run in runs.items()
        }
        print(json_text(facts if len(facts) > 1 or "" not in facts else facts[""]))
        return
    for name, run in runs.items():
        print(f"{name}\n" * bool(name) + plan_text(run))
