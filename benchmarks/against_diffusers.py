"""A dense step of one small model in wanjax and in PyTorch diffusers, on the same processor.

    pip install -e ".[parity]"
    python benchmarks/against_diffusers.py                      # both models, 5 rounds; minutes
    python benchmarks/against_diffusers.py --models bundled --rounds 1 --steps 3

The models: 8 layers of width 1,024 over 1,170 tokens, and the architecture of the bundled one over
80. Same shapes, float32, random weights, both guidance branches, UniPC. The two take turns, each
in a process of its own; a round's figure is the median of its steps, the ratio is taken within a
round. diffusers runs the branches one after the other in its own pipeline ("apart"); both in one
batch ("together") is beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BUNDLED = "tiny-t2v"
SMALL = {"num_attention_heads": 8, "attention_head_dim": 128, "ffn_dim": 4096, "num_layers": 8}
# changes of the bundled transformer, and the size of the video
MODELS: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "small": (SMALL, {"height": 240, "width": 416, "num_frames": 9}),
    "bundled": ({}, {"height": 64, "width": 64, "num_frames": 17}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--output", type=Path, default=HERE / "against_diffusers.json")
    parser.add_argument("--ours", help=argparse.SUPPRESS)  # the child's case
    args = parser.parse_args()
    if args.ours:
        print(json.dumps(ours(json.loads(args.ours))))
        return
    results = {name: compare(name, args.rounds, args.steps) for name in args.models}
    content = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "benchmarks/against_diffusers.py", *sys.argv[1:]]),
        "models": results,
    }
    args.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    titles = ("model", "wanjax, s a step", "diffusers' pipeline", "in one batch")
    print(f"| {' | '.join(titles)} |", "|---" * len(titles) + "|", sep="\n")
    for name, found in results.items():
        ways = " | ".join(map(cell, found["diffusers"].values()))
        print(f"| {name}: {found['tokens']} tokens | {found['wanjax']:.4f} | {ways} |")


def cell(found: dict[str, Any]) -> str:
    low, high = min(found["times as long"]), max(found["times as long"])
    ratio = statistics.median(found["times as long"])
    return f"{found['seconds']:.4f} s, {ratio:.2f} times as long ({low:.2f} to {high:.2f})"


def compare(name: str, rounds: int, steps: int) -> dict[str, Any]:
    """Rounds of both in turn."""
    ours_seconds: list[float] = []
    rounds_of: dict[str, list[float]] = {"apart": [], "together": []}
    for number in range(rounds):
        case = {"model": name, "steps": steps}
        mine = child([str(Path(__file__)), "--ours", json.dumps(case)])
        theirs = child([str(HERE / "diffusers_step.py"), json.dumps(mine.pop("case"))])
        ways = {way: statistics.median(times) for way, times in theirs["seconds"].items()}
        ours_seconds.append(statistics.median(mine["seconds"]))
        for way, seconds in ways.items():
            rounds_of[way].append(seconds)
        print(f"{name}, round {number + 1}: {ours_seconds[-1]:.4f} s, {ways}", file=sys.stderr)
    return {
        "tokens": mine["tokens"],
        "wanjax": statistics.median(ours_seconds),
        "diffusers": {
            way: {
                "seconds": statistics.median(seconds),
                "times as long": [b / a for a, b in zip(ours_seconds, seconds, strict=True)],
            }
            for way, seconds in rounds_of.items()
        },
        "versions": mine["packages"] | {k: theirs[k] for k in ("torch", "diffusers")},
        "threads of torch": theirs["threads"],
    }


def child(args: list[str]) -> dict[str, Any]:
    made = subprocess.run([sys.executable, *args], capture_output=True, text=True)
    if made.returncode:
        raise RuntimeError(f"{' '.join(args)} failed:\n{made.stderr}")
    found: dict[str, Any] = json.loads(made.stdout.splitlines()[-1])
    return found


def ours(case: dict[str, Any]) -> dict[str, Any]:
    """Steps of the pipeline's own loop, and the case as diffusers takes it."""
    import numpy as np

    from wanjax.checkpoints.configs import model_configs
    from wanjax.checkpoints.published_models import ModelConfigs
    from wanjax.checkpoints.random import RandomFolder
    from wanjax.config.resolve import resolve
    from wanjax.pipeline.inputs import Frames, Prompts
    from wanjax.pipeline.pipeline import WanPipeline
    from wanjax.pipeline.record import environment
    from wanjax.planning.run import prepare

    changes, size = MODELS[case["model"]]
    values = size | {"num_inference_steps": case["steps"] + 2, "activations_dtype": "float32"}
    config = resolve([BUNDLED], "show", values | {"weights_dtype": "float32"})
    configs = model_configs(str(config.model))
    components = dict(configs.components)
    for name in ("transformer", "transformer_2"):
        components[name] = dict(components[name]) | changes
    configs = ModelConfigs(configs.index, components)
    pipe = WanPipeline.without_weights(config, RandomFolder.of(BUNDLED, configs))
    transformer, run = components["transformer"], prepare(config, None)
    length = config.max_sequence_length
    embeds = np.random.default_rng(0).normal(size=(1, length, transformer["text_dim"]))
    prompts = Prompts(None, None, *[embeds.astype(np.float32)] * 2)
    seconds: list[float] = []
    for _ in range(2):  # the first warms up
        seconds.clear()
        pipe.execute(
            run,
            prompts,
            Frames([], []),
            seed=0,
            decode=False,
            callback=lambda report: seconds.append(report.seconds),
        )
    latents = pipe.latents_shape(config)
    grid = zip(latents[1:], transformer["patch_size"], strict=True)
    theirs = {
        "transformer": transformer,
        "latents": latents,
        "text_tokens": length,
        "steps": case["steps"],
        "device": "cpu",
        "dtype": "float32",
    }
    return {
        "seconds": seconds[2:],
        "tokens": int(np.prod([size // part for size, part in grid])),
        "case": theirs,
    } | environment()


if __name__ == "__main__":
    main()
