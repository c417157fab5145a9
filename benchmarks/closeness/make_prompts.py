"""Prompts that no calibration saw, for comparing caches on the bundled models.

    python benchmarks/closeness/make_prompts.py

Writes `tiny-t2v.txt` and, with a first frame each, `tiny-i2v.txt` beside this file. The pictures
are drawn by the recipe's renderer, which needs `recipes/tiny` on the path (done here).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "recipes/tiny"))

from render import render_scenes  # noqa: E402

from wanjax.caching import Curve  # noqa: E402
from wanjax.tiny.world import caption, sample_scene  # noqa: E402

COUNT, SEED = 8, 2026


def main() -> None:
    seen = {prompt for form in ("t2v", "i2v") for prompt in Curve.load(f"tiny-{form}").prompts}
    rng = np.random.default_rng(SEED)
    scenes, texts = [], []
    while len(texts) < COUNT:
        scene = sample_scene(rng, held_out=True)
        text = caption(scene, rng)
        combination = (scene.color, scene.shape)
        if text not in seen and combination not in {(s.color, s.shape) for s in scenes}:
            scenes.append(scene)
            texts.append(text)
    (HERE / "tiny-t2v.txt").write_text("".join(f"{text}\n" for text in texts))
    lines = []
    for i, frame in enumerate(render_scenes(scenes)[:, 0]):
        Image.fromarray(frame).save(HERE / f"{i}.png")
        lines.append(f"{i}.png | {texts[i]}\n")
    (HERE / "tiny-i2v.txt").write_text("".join(lines))


if __name__ == "__main__":
    main()
