"""Closeness, task score and flicker of many variants: 8 prompts by 8 seeds, 16 videos at a time.

python benchmarks/closeness/measure.py PRESET FOLDER [variants=NAME:key=value;...,...]

As `wanjax compare PRESET prompts=benchmarks/closeness/PRESET.txt seeds=2,3,4,5,6,7,8,9
reference_steps=100 variants=...`, without its report and its times. A method that decides
during the run decides for each video. Every variant is kept in FOLDER, so that the same command
goes on; without `variants` the standing ones run, which `figure.py` draws.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from wanjax.caching import Plan
from wanjax.config.keys import Config
from wanjax.evaluate.measuring import to_uint8
from wanjax.evaluate.metrics import flicker, mean_psnr, psnr
from wanjax.files import write_json
from wanjax.media.prompts import load_prompts
from wanjax.pipeline.pipeline import WanPipeline
from wanjax.planning.run import prepare
from wanjax.planning.variants import resolve_variants
from wanjax.tiny.score import score_video

HERE = Path(__file__).parent
SEEDS, BATCH = range(2, 10), 16
REFERENCE_STEPS = 100
SKIPS = {"tiny-t2v": (18, 22, 27, 30, 32), "tiny-i2v": (17, 22, 27, 30, 32)}
# Thresholds from the slowest published setting to one of five times the speed.
MAGCACHE = ((0.04, 2, 0.2), (0.06, 2, 0.2), (0.12, 2, 0.2), (0.24, 6, 0.2), (0.48, 8, 0.1))


def standing(preset: str) -> Iterator[str]:
    """The variants of the figures and tables."""
    first, *_ = SKIPS[preset]
    for skip in SKIPS[preset]:
        yield f"forecast-{skip}:use_forecast=True;skip_steps={skip}"
    for estimate in ("repeat", "linear"):
        on = f"use_magcache=True;magcache_estimate={estimate}"
        for thresh, k, retention in MAGCACHE:
            keys = f"magcache_thresh={thresh};magcache_K={k};retention_ratio={retention}"
            yield f"magcache-{estimate}-{thresh}:{on};{keys}"
    for skip in SKIPS[preset]:
        yield f"respaced-{skip}:use_respaced=True;skip_steps={skip}"
        yield f"fewer-steps-{skip}:num_inference_steps={40 - skip}"
    for estimate in ("repeat", "linear"):
        on = f"use_magcache=True;magcache_estimate={estimate}"
        yield f"budget-{estimate}-{first}:{on};skip_steps={first}"
    yield "magcache-quadratic:use_magcache=True;magcache_estimate=quadratic"
    for name, keys in (
        ("plain", "forecast_correct=False"),
        ("lagrange", "forecast_weights=lagrange"),
        ("order-2", "forecast_order=2"),
    ):
        yield f"forecast-27-{name}:use_forecast=True;skip_steps=27;{keys}"
    for thresh in (0.03, 0.06, 0.1, 0.2, 0.3):
        yield f"easycache-{thresh}:use_easycache=True;easycache_thresh={thresh}"
    for epsilon in (0.05, 0.1, 0.2, 0.4, 0.8):
        keys = f"use_sen_cache=True;sen_cache_epsilon={epsilon};sen_cache_max_reuse=6"
        keys += ";sen_cache_start=0.1;sen_cache_end=1"
        yield f"sen_cache-{epsilon}:{keys}"
    for interval in (5, 2, 12, 3, 8):
        yield f"cfg_cache-{interval}:use_cfg_cache=True;cfg_cache_interval={interval}"


class Bench:
    """All videos of a preset, and the two references' frames."""

    def __init__(self, preset: str, folder: Path):
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        prompts = load_prompts(HERE / f"{preset}.txt")
        self.texts = [p.text for p in prompts for _ in SEEDS]
        self.images = [str(p.image) for p in prompts for _ in SEEDS if p.image is not None]
        self.seeds = [seed for _ in prompts for seed in SEEDS]
        (self.dense,) = resolve_variants([preset, "variants=dense"], "plan").values()
        self.pipe = WanPipeline.from_config(self.dense)

    @cached_property
    def references(self) -> dict[str, np.ndarray]:
        converged = replace(self.dense, num_inference_steps=REFERENCE_STEPS)
        configs = {"dense": self.dense, "converged": converged}
        return {name: self.frames(name, config) for name, config in configs.items()}

    def made(self, name: str, config: Config) -> dict[str, Any]:
        """Latents of all videos, and what their plans come to."""
        path = self.folder / f"{name}.npz"
        if not path.exists():
            latents, plans = self.run(config)
            dense = sum(len(step.actions) for step in prepare(self.dense).plan.steps)
            cost = [sum(step.computed for step in plan.steps) for plan in plans]
            prediction = plans[0].prediction
            error = np.nan if prediction is None else prediction.error
            facts = {"speedup": dense / np.mean(cost), "error": error, "strip": plans[0].strip()}
            np.savez(path, latents=latents, **facts)
        with np.load(path) as file:
            return {key: file[key] for key in file.files}

    def run(self, config: Config) -> tuple[np.ndarray, list[Plan]]:
        """Latents of all videos, and the plans as executed."""
        pipe = self.pipe.with_config(config)
        batch = 1 if prepare(config).plan.decisions is not None else BATCH
        videos = []
        for first in range(0, len(self.texts), batch):
            part = slice(first, first + batch)
            images = self.images[part] or None
            videos.append(
                pipe(self.texts[part], image=images, seed=self.seeds[part], output_type="latent")
            )
        return np.concatenate([v.latents for v in videos]), [v.plan for v in videos]

    def frames(self, name: str, config: Config) -> np.ndarray:
        latents = self.made(name, config)["latents"]
        parts = range(0, len(latents), BATCH)
        return np.concatenate([self.pipe.decode(latents[i : i + BATCH], "float32") for i in parts])

    def measure(self, name: str, config: Config) -> dict[str, Any]:
        path = self.folder / f"{name}.json"
        if not path.exists():
            write_json(path, self.measured(name, config))
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def measured(self, name: str, config: Config) -> dict[str, Any]:
        made, frames = self.made(name, config), self.frames(name, config)
        dense, converged = (
            list(zip(frames, self.references[r], strict=True)) for r in ("dense", "converged")
        )
        told = zip(frames, self.texts, strict=True)
        error = float(made["error"])
        return {
            "strip": str(made["strip"]),
            "speedup": float(made["speedup"]),
            "predicted_error": None if np.isnan(error) else error,
            "psnr": [mean_psnr(psnr(a, b)) for a, b in dense],
            "psnr_converged": [mean_psnr(psnr(a, b)) for a, b in converged],
            "first_frame": [mean_psnr(psnr(a[:1], b[:1])) for a, b in dense],
            "added_flicker": [flicker(a - b) for a, b in dense],
            "flicker": [flicker(a) for a in frames],
            "score": [np.mean(list(score_video(to_uint8(a), text).values())) for a, text in told],
        }


def main(args: Sequence[str]) -> None:
    preset, folder, *rest = args
    written = rest[0] if rest else f"variants={','.join(standing(preset))}"
    configs = resolve_variants([preset, written], "plan")
    for config in configs.values():
        prepare(config)  # a mistake shows before anything runs
    bench = Bench(preset, Path(folder))
    configs = {"dense": bench.dense, **configs}
    for name, config in configs.items():
        found = bench.measure(name, config)
        mean, worst = np.mean(found["psnr"]), np.min(found["psnr"])
        print(f"{name:28} {found['speedup']:.2f}x {mean:.2f} dB ({worst:.1f})", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
