"""
measure what caching costs: variants from the same noise, side by side in one HTML file

usage: wanjax compare [PRESET|FILE.yml] [variants=NAME,...] [prompts=FILE] [seeds=0,1,...]
       wanjax compare videos=FOLDER,FOLDER[,...]

  wanjax compare prompt="a red ball moving right on a dark background"
  wanjax compare tiny-t2v seeds=0,1 reference_steps=200 output=report
  wanjax compare wan2.2-t2v-a14b prompts=prompts.txt \
      variants="dense,magcache,fast:use_magcache=True;magcache_thresh=0.12,fewer-steps"
  wanjax compare tiny-t2v sweep=magcache_thresh:0.02..0.2 figure=frontier.png
  wanjax compare videos=runs/dense,runs/mine    # mp4 files with equal names, made by anything

The reference is `dense`, which always runs; with `reference_steps` there is a second one of
so many steps. `fewer-steps` gives each cached variant a row of its own: as many dense steps as
cost the same. Another variant has a name, a colon and its keys with semicolons between.
Without variants: dense,magcache,fewer-steps. `sweep` makes a variant of each value of a setting,
a line in the figure.

Writes report.html, metrics.json, table.md, videos.csv, variants.csv and the videos to the
folder `output`. Finished runs stay there: interrupted, the same command goes on from them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from wanjax.cli.together import FromFirst, together
from wanjax.config.keys import Config
from wanjax.config.resolve import arguments, resolve


def run(args: Sequence[str]) -> int:
    def command(config: Config, from_first: FromFirst) -> None:
        _compare(args)

    rest = [arg for arg in arguments(args) if not arg.startswith("variants=")]
    return together(resolve(rest, "compare"), command)


def _compare(args: Sequence[str]) -> None:
    from wanjax.evaluate.comparing import compare_arguments  # imports JAX
    from wanjax.evaluate.report import save
    from wanjax.evaluate.tables import markdown
    from wanjax.parallel.hosts import is_first

    try:
        comparison = compare_arguments(args, {})
    except KeyboardInterrupt:
        print("finished runs are kept; the same command goes on from there", file=sys.stderr)
        raise
    if not is_first():
        return
    written = save(comparison)
    print(markdown(comparison))
    print("wrote " + ", ".join(map(str, written)), file=sys.stderr)
