"""Make the bundled models from nothing: `python recipes/tiny/make.py` in the project's root.

    python recipes/tiny/make.py --minutes 4 --log make.log     # on a GPU: 4 minutes of training

What does not depend on one another runs at once. Every part can be run alone (`--only`) and goes
on where it was interrupted: what `work/tiny` says is done is not done again. See README.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image
from render import render

from wanjax.files import write_json
from wanjax.tiny.world import caption, place_scene, sample_scene

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parents[1] / "src/wanjax"
EXAMPLES = 8  # prompts to calibrate with
EXAMPLE_SEED = 20_000
SHIFT = {"t2v": 12.0, "i2v": 5.0}
BOUNDARY = {"t2v": 0.875, "i2v": 0.9}
PARTS = ("clips", "text", "vae", "data", "experts", "decoder", "examples", "curves", "scores")
# For what is measured: a GPU's own products of float32 have 10 bits.
EXACT = (("JAX_DEFAULT_MATMUL_PRECISION", "highest"),)
# A step on a CPU takes its memory anew; in pages that are large and stay it is a fifth faster.
HUGE_PAGES = ":".join(
    f"glibc.malloc.{name}"
    for name in ("hugetlb=1", f"mmap_threshold={2**34}", f"trim_threshold={2**34}")
)
# Of the minutes of training, one program after the other.
SHARES = {
    "text": 0.05,
    "vae": 0.2,
    "t2v transformer_2": 0.27,
    "t2v transformer": 0.1,
    "i2v transformer_2": 0.17,
    "i2v transformer": 0.07,
    "decoder": 0.14,
}


@dataclass(frozen=True)
class Task:
    """A program with its arguments; `environment` beside everyone's."""

    name: str
    command: tuple[str | Path, ...]
    environment: tuple[tuple[str, str], ...] = ()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument("--out", type=Path, default=PACKAGE, help="like src/wanjax, the default")
    parser.add_argument("--work", type=Path, default=Path("work/tiny"), help="data, checkpoints")
    parser.add_argument("--clips", type=int, default=24_000, help="to learn from, 0.2 MB each")
    parser.add_argument("--scale", type=float, default=1.0, help="times all numbers of steps")
    parser.add_argument("--batch-scale", type=float, default=1.0, help="times all batches")
    parser.add_argument("--minutes", type=float, help="of all training, compiling apart")
    parser.add_argument("--at-once", type=int, default=2, help="programs that run at a time")
    parser.add_argument("--log", type=Path, help="file for all that the parts print, with seconds")
    args = parser.parse_args()
    recipe = Recipe(args)
    for part in PARTS:
        if part in args.only:
            getattr(recipe, part)()
    recipe.told("make", "done")


class Recipe:
    """The parts in their order, each a method of its name."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.began = args, time.monotonic()
        self.work: Path = args.work
        self.tiny: Path = args.out / "tiny"
        self.t2v, self.i2v = self.tiny / "t2v", self.tiny / "i2v"
        self.log: IO[str] | None = None
        if args.log:
            args.log.parent.mkdir(parents=True, exist_ok=True)
            self.log = args.log.open("a", encoding="utf-8")

    def clips(self) -> None:
        file, clips = self.work / "clips.npy", self.args.clips
        self.at_once(self.program("clips", "render.py", file, "--clips", clips))

    def text(self) -> None:
        """The text encoder, and beside it the VAE, if both are to be made."""
        tasks = [self.training("text", "train_text.py", "--out", self.t2v)]
        self.at_once(*tasks, *([self._vae()] if "vae" in self.args.only else []))

    def vae(self) -> None:
        self.at_once(self._vae())

    def _vae(self) -> Task:
        return self.training("vae", "train_vae.py", "--out", self.t2v / "vae")

    def data(self) -> None:
        write_index(self.t2v, "t2v")
        clips = ("--clips", self.args.clips)
        self.at_once(
            self.program("data", "data.py", "--root", self.t2v, "--work", self.work, *clips)
        )

    def experts(self) -> None:
        """An expert starts from one that knows the shapes already."""
        write_index(self.i2v, "i2v")
        self.share("vae", "text_encoder", "tokenizer")
        self.at_once(self.expert("t2v", "transformer_2"))
        self.at_once(
            self.expert("t2v", "transformer", self.t2v / "transformer_2"),
            self.expert("i2v", "transformer_2", self.t2v / "transformer_2"),
        )
        self.at_once(self.expert("i2v", "transformer", self.i2v / "transformer_2"))

    def expert(self, form: str, name: str, start: Path | None = None) -> Task:
        root = {"t2v": self.t2v, "i2v": self.i2v}[form]
        arguments = [form, "--root", root, "--only", name, "--clips", self.args.clips]
        arguments += ["--start", start] if start else []
        return self.training(f"{form} {name}", "train_experts.py", *arguments)

    def share(self, *components: str) -> None:
        """Both models have the same ones."""
        for name in components:
            shutil.copytree(self.t2v / name, self.i2v / name, dirs_exist_ok=True)

    def decoder(self) -> None:
        """After the experts, from whose latents it learns, too."""
        arguments = ["--root", self.t2v, "--clips", self.args.clips]
        arguments += ["--experts", self.t2v, self.i2v]
        self.at_once(self.training("decoder", "train_decoder.py", *arguments))
        self.at_once(self.program("preview", "fit_preview.py", self.t2v))
        self.share("vae")

    def examples(self) -> None:
        write_examples(self.tiny)

    def curves(self) -> None:
        """Calibrated as the models run, with exact products."""
        tasks = []
        for form in ("t2v", "i2v"):
            output = self.curve(form)
            output.parent.mkdir(parents=True, exist_ok=True)
            settings = [f"tiny-{form}", "seeds=0,1", f"output={output}"]
            settings += ["overwrite=True"]
            if self.args.out != PACKAGE:
                prompts = self.tiny / f"tiny-{form}-prompts.txt"
                settings += [f"model={self.tiny / form}", f"prompts={prompts}"]
            command = (sys.executable, "-m", "wanjax", "calibrate", *settings)
            tasks.append(Task(f"curve {form}", command, EXACT))
        self.at_once(*tasks)

    def scores(self) -> None:
        tasks = []
        for form in ("t2v", "i2v"):
            arguments = [form, "--sheet", self.work / f"{form}.png"]
            if self.args.out != PACKAGE:
                arguments += ["--model", self.tiny / form, "--curve", self.curve(form)]
            task = self.program(f"scores {form}", "evaluate.py", *arguments)
            tasks.append(replace(task, environment=EXACT))
        self.at_once(*tasks)

    def curve(self, form: str) -> Path:
        path: Path = self.args.out / f"caching/curves/tiny-{form}.json"
        return path

    def training(self, name: str, script: str, *arguments: str | float | Path) -> Task:
        """A program with what all training programs take."""
        args = self.args
        steps = ["--scale", args.scale, "--batch-scale", args.batch_scale, "--work", self.work]
        limit = ["--limit", 60 * args.minutes * SHARES[name]] if args.minutes else []
        return self.program(name, script, *arguments, *steps, *limit)

    def program(self, name: str, script: str, *arguments: str | float | Path) -> Task:
        return Task(name, (sys.executable, HERE / script, *map(str, arguments)))

    def at_once(self, *tasks: Task) -> None:
        """Run those that are not yet done beside one another; stop with the first that fails."""
        left = [task for task in tasks if not self._mark(task).exists()]
        running: list[tuple[Task, subprocess.Popen[str], threading.Thread]] = []
        try:
            while left or running:
                while left and len(running) < self.args.at_once:
                    task = left.pop(0)
                    running.append((task, *self._start(task)))
                time.sleep(0.1)
                for task, process, lines in [r for r in running if r[1].poll() is not None]:
                    lines.join()
                    self._mark(task).parent.mkdir(parents=True, exist_ok=True)
                    if process.returncode:
                        raise SystemExit(f"{task.name} failed (exit code {process.returncode})")
                    self._mark(task).touch()
                    self.told(task.name, "done")
                    running.remove((task, process, lines))
        finally:
            for _, process, _ in running:
                process.terminate()

    def _mark(self, task: Task) -> Path:
        return self.work / "done" / task.name.replace(" ", "-")

    def _start(self, task: Task) -> tuple[subprocess.Popen[str], threading.Thread]:
        self.told(task.name, "begins")
        shared = {
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several processes share a GPU
            "JAX_COMPILATION_CACHE_DIR": str(self.work.resolve() / "compiled"),
            "PYTHONUNBUFFERED": "1",
            "TQDM_MININTERVAL": "10",  # a bar is a line of the log
            "GLIBC_TUNABLES": HUGE_PAGES,
        }
        process = subprocess.Popen(
            list(map(str, task.command)),
            env=shared | os.environ | dict(task.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        lines = threading.Thread(target=self._tell_all, args=(task.name, process), daemon=True)
        lines.start()
        return process, lines

    def _tell_all(self, name: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                self.told(name, line.rstrip())

    def told(self, name: str, text: str) -> None:
        """Print and log a line with the seconds since the start."""
        line = f"{time.monotonic() - self.began:7.1f} s  {name}: {text}"
        print(line, flush=True)
        if self.log:
            print(line, file=self.log, flush=True)


def write_index(root: Path, form: str) -> None:
    """What makes a folder of components a pipeline."""
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


def write_examples(tiny: Path) -> None:
    """Prompts, and first frames for image to video, that training did not see."""
    rng = np.random.default_rng(EXAMPLE_SEED)
    scenes = [sample_scene(rng, held_out=True) for _ in range(EXAMPLES)]
    texts = [caption(scene, rng, background_rate=1.0) for scene in scenes]
    tiny.mkdir(parents=True, exist_ok=True)
    (tiny / "tiny-t2v-prompts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    folder = tiny / "examples"
    folder.mkdir(exist_ok=True)
    lines = []
    for i, (scene, text) in enumerate(zip(scenes, texts, strict=True)):
        Image.fromarray(render(scene)[0]).save(folder / f"{i}.png", optimize=True)
        lines.append(f"examples/{i}.png | {text}")
    (tiny / "tiny-i2v-prompts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    ball = place_scene(rng, "red", "ball", "moving right", "dark")
    Image.fromarray(render(ball)[0]).save(folder / "red-ball.png", optimize=True)


if __name__ == "__main__":
    main()
