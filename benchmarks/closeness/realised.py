"""How much of a forecast's ideal speed is realised: denoising, dense and cached runs in turn.

python benchmarks/closeness/realised.py PRESET [RUNS] [KEY=VALUE ...]

RUNS (20) of each in one process, each from its own seed, after one that compiles. Prints the
medians of denoising (the stage as records have it, everything between the first step's start and
the last one's end included), of the paired speedups over the ideal, and where the time goes.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Sequence

import jax

from wanjax.config.resolve import resolve
from wanjax.media.prompts import default_prompts
from wanjax.pipeline.pipeline import WanPipeline
from wanjax.pipeline.video import Video

SPEEDUPS = (3, 4)
FORECASTS = {speedup: ("use_forecast=True", f"target_speedup={speedup}") for speedup in SPEEDUPS}


def main(preset: str, runs: int, keys: Sequence[str]) -> None:
    dense = resolve([preset, *keys], "plan")
    pipe = WanPipeline.from_config(dense)
    cached = {
        s: pipe.with_config(resolve([preset, *keys, *FORECASTS[s]], "plan")) for s in SPEEDUPS
    }
    prompt = default_prompts(preset)[0]
    made: dict[float, list[Video]] = {1: [], **{s: [] for s in SPEEDUPS}}
    for seed in range(runs + 1):
        for speedup, one in {1: pipe, **cached}.items():
            video = one(prompt.text, image=prompt.image, seed=seed, output_type="latent")
            made[speedup] += [video] if seed else []  # the first one compiles
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"{preset}: {runs} runs each, jax {jax.__version__}, {os.cpu_count()} cores, load {load}")
    whole = {s: [v.timings.stages["denoise"] for v in videos] for s, videos in made.items()}
    for speedup, videos in made.items():
        ideal = videos[0].plan.ideal_speedup
        pairs = zip(whole[1], whole[speedup], strict=True)
        real = statistics.median(a / b for a, b in pairs)
        least = min(whole[1]) / min(whole[speedup])
        print(
            f"  {ideal:.2f}x: {1000 * statistics.median(whole[speedup]):.1f} ms, realised "
            f"{real:.2f}x, {real / ideal:.1%} of the ideal (fastest runs {least / ideal:.1%}); "
            f"{where(videos)}"
        )


def where(videos: Sequence[Video]) -> str:
    """Milliseconds of a computed step, of all skipped steps, and outside of steps."""
    computed, skipped, outside = [], [], []
    for video in videos:
        both = list(zip(video.plan.steps, video.timings.steps, strict=True))
        computed.append(statistics.median(t for step, t in both if not step.skipped))
        skipped.append(sum(t for step, t in both if step.skipped))
        outside.append(video.timings.stages["denoise"] - sum(video.timings.steps))
    parts = {"a computed step": computed, "all skipped": skipped, "outside": outside}
    return ", ".join(f"{name} {1000 * statistics.median(t):.2f} ms" for name, t in parts.items())


if __name__ == "__main__":
    preset, *rest = sys.argv[1:]
    keys = [arg for arg in rest if "=" in arg]
    counts = [int(arg) for arg in rest if "=" not in arg]
    main(preset, counts[0] if counts else 20, keys)
