"""How many prompts does a calibration need? Plans of 4 and of 16 prompts, measured.

    python benchmarks/closeness/few_prompts.py PRESET FOLDER

Calibrates with 4 and with 16 prompts, one seed each, none of them among those that `measure.py`
takes, and measures the plans of both as `measure.py` does (in the same FOLDER, which has the
references).
"""

from __future__ import annotations

import sys
from pathlib import Path

import measure
import numpy as np
from PIL import Image

import wanjax
from wanjax.caching import Forecast
from wanjax.evaluate.calibrate import calibrate
from wanjax.media.prompts import Prompt, load_prompts
from wanjax.tiny.world import caption, sample_scene

sys.path.insert(0, str(measure.HERE.parents[1] / "recipes/tiny"))
from render import render_scenes

COUNTS, SEED = (4, 16), 77


def other_prompts(preset: str, folder: Path) -> list[Prompt]:
    """Prompts of the training's kind, with a first frame each where the model takes one."""
    taken = {prompt.text for prompt in load_prompts(measure.HERE / f"{preset}.txt")}
    rng = np.random.default_rng(SEED)
    scenes = [sample_scene(rng) for _ in range(max(COUNTS))]
    texts = [caption(scene, rng) for scene in scenes]
    assert not taken & set(texts)
    if preset == "tiny-t2v":
        return [Prompt(text) for text in texts]
    found = []
    for i, (frame, text) in enumerate(zip(render_scenes(scenes)[:, 0], texts, strict=True)):
        Image.fromarray(frame).save(folder / f"prompt-{i}.png")
        found.append(Prompt(text, str(folder / f"prompt-{i}.png")))
    return found


def main(preset: str, folder: Path) -> None:
    variants = []
    for count in COUNTS:
        file = folder / f"calibration-{count}.json"
        if not file.exists():
            pipe = wanjax.WanPipeline.from_pretrained(preset)
            prompts = other_prompts(preset, folder)[:count]
            progress = file.with_suffix(".progress")
            calibrate(pipe, prompts, methods=[Forecast], progress=progress).save(file)
        for skip in (measure.SKIPS[preset][0], 27, 30):
            keys = f"use_forecast=True;skip_steps={skip};mag_ratios_base={file}"
            variants.append(f"prompts-{count}-{skip}:{keys}")
    measure.main([preset, str(folder), f"variants={','.join(variants)}"])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
