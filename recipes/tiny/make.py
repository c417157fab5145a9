"""Make the bundled models from nothing: `python recipes/tiny/make.py` in the project's root.

Every part can be run alone and goes on where it was interrupted; see README.md beside this.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from render import render

from wanjax.files import write_json
from wanjax.tiny.world import caption, place_scene, sample_scene

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1] / "src/wanjax"
TINY, CURVES = PACKAGE / "tiny", PACKAGE / "caching/curves"
T2V, I2V = TINY / "t2v", TINY / "i2v"
EXAMPLES = 8  # prompts to calibrate with
EXAMPLE_SEED = 20_000
SHIFT = {"t2v": 12.0, "i2v": 5.0}
BOUNDARY = {"t2v": 0.875, "i2v": 0.9}


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    run("train_text.py", "--out", T2V)
    run("train_vae.py", "--out", T2V / "vae")
    run("fit_preview.py", T2V)
    write_index("t2v")
    run("train_experts.py", "t2v", "--root", T2V)
    for shared in ("vae", "text_encoder", "tokenizer"):
        shutil.copytree(T2V / shared, I2V / shared, dirs_exist_ok=True)
    write_index("i2v")
    run("train_experts.py", "i2v", "--root", I2V, "--start", T2V / "transformer_2")
    write_examples()
    for form in ("t2v", "i2v"):
        output = CURVES / f"tiny-{form}.json"
        settings = [f"tiny-{form}", "seeds=0,1", f"output={output}"]
        subprocess.run([sys.executable, "-m", "wanjax", "calibrate", *settings], check=True)


def run(script: str, *arguments: str | Path) -> None:
    subprocess.run([sys.executable, HERE / script, *map(str, arguments)], check=True)


def write_index(form: str) -> None:
    """What makes a folder of components a pipeline."""
    root = TINY / form
    name = "WanPipeline" if form == "t2v" else "WanImageToVideoPipeline"
    index = {
        "_class_name": name,
        "_diffusers_version": "0.42.1",
        "boundary_ratio": BOUNDARY[form],
        "expand_timesteps": False,
        "image_encoder": [None, None],
        "image_processor": [None, None],
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "transformer_2": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
    if form == "t2v":
        index = {key: value for key, value in index.items() if not key.startswith("image_")}
    write_json(root / "model_index.json", index)
    scheduler = {
        "_class_name": "UniPCMultistepScheduler",
        "num_train_timesteps": 1000,
        "flow_shift": SHIFT[form],
        "use_flow_sigmas": True,
        "prediction_type": "flow_prediction",
        "predict_x0": True,
        "solver_order": 2,
        "solver_type": "bh2",
        "lower_order_final": True,
        "final_sigmas_type": "zero",
        "disable_corrector": [],
    }
    write_json(root / "scheduler/scheduler_config.json", scheduler)


def write_examples() -> None:
    """Prompts, and first frames for image to video, that training did not see."""
    rng = np.random.default_rng(EXAMPLE_SEED)
    scenes = [sample_scene(rng, held_out=True) for _ in range(EXAMPLES)]
    texts = [caption(scene, rng, background_rate=1.0) for scene in scenes]
    (TINY / "tiny-t2v-prompts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    folder = TINY / "examples"
    folder.mkdir(exist_ok=True)
    lines = []
    for i, (scene, text) in enumerate(zip(scenes, texts, strict=True)):
        Image.fromarray(render(scene)[0]).save(folder / f"{i}.png", optimize=True)
        lines.append(f"examples/{i}.png | {text}")
    (TINY / "tiny-i2v-prompts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    ball = place_scene(rng, "red", "ball", "moving right", "dark")
    Image.fromarray(render(ball)[0]).save(folder / "red-ball.png", optimize=True)


if __name__ == "__main__":
    main()
