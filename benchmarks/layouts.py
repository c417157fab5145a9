"""How fast each layout's files are read, and how fast they are written from one another.

    python benchmarks/layouts.py                     # 0.96 GB in bfloat16
    python benchmarks/layouts.py --repeats 3 --keep /tmp/layouts

Writes a transformer of random numbers as `benchmarks/loading.py` does, converts it (`wanjax
convert`) to each layout, and those back to diffusers' in bfloat16. Each is then loaded in a process
of its own, one after the other, as often as `--repeats` says. Prints JSON: seconds of
`load_parameters` and the bytes of the parameters over them, by layout; bytes written over the
seconds, by conversion.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from loading import write

from wanjax.checkpoints.convert import convert, open_sources
from wanjax.checkpoints.folder import Folder
from wanjax.checkpoints.layouts.diffusers.transformer import RULES
from wanjax.checkpoints.layouts.recognise import part_files
from wanjax.checkpoints.load import load_parameters
from wanjax.checkpoints.locate import ModelIndex
from wanjax.models.configs import TransformerConfig
from wanjax.models.layers import Undrawn
from wanjax.models.transformer import WanTransformer

SIZE = {"num_attention_heads": 16, "ffn_dim": 5200, "num_layers": 8}
WRITTEN = {  # layout and numbers that are converted to
    "the authors', bfloat16": ("original", "bfloat16"),
    "ComfyUI's, float8 with scales": ("comfyui", "float8"),
    "GGUF, Q8_0": ("gguf", "q8_0"),
    "GGUF, Q4_0": ("gguf", "q4_0"),
}


def main() -> None:
    args = _arguments()
    if args.load:
        print(json.dumps(load(args.load)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        places, rates = make(args.keep or Path(temporary))
        seconds: dict[str, list[float]] = {name: [] for name in places}
        found: dict[str, Any] = {}
        for _ in range(args.repeats):
            for name, place in places.items():
                command = [sys.executable, __file__, "--load", str(place)]
                found = json.loads(subprocess.check_output(command))
                seconds[name].append(found["seconds"])
        size = found["parameter_bytes"] / 1e9
        load_rates = {name: round(size / min(each), 2) for name, each in seconds.items()}
        about = {"parameters_gb": round(size, 2), "load_average": os.getloadavg()[0]}
        report = {"seconds": seconds, "load_gb_per_s": load_rates, "convert_gb_per_s": rates}
        print(json.dumps(about | report, indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="a folder for the files, kept")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def abstract() -> WanTransformer:
    return WanTransformer(TransformerConfig.from_dict(SIZE), rngs=Undrawn())


def make(root: Path) -> tuple[dict[str, Path], dict[str, float]]:
    """Where each layout's files are, and the rates at which they were written."""
    first = root / "diffusers/transformer"
    write(abstract(), first, "bfloat16")
    places, rates = {"diffusers', bfloat16": first}, {}
    for name, (layout, dtype) in WRITTEN.items():
        place = root / name.replace(" ", "-")
        rates[name] = written(first, place, layout, dtype)
        places[name] = place
    for name, place in [*places.items()][1:]:
        back = root / f"{place.name}-back"
        rates[f"{name}, to diffusers'"] = written(place, back, "diffusers", "bfloat16")
        places[f"that converted to diffusers', of {name}"] = back / "transformer"
    return places, rates


def written(source: Path, place: Path, layout: str, dtype: str) -> float:
    index = ModelIndex.from_dict({"_class_name": "WanPipeline", "transformer": ["wanjax", "W"]})
    parts, configs = (
        {"transformer": source},
        {"transformer": asdict(TransformerConfig.from_dict(SIZE))},
    )
    folder = Folder(Path("none"), index, parts=parts, configs=configs)
    made = convert(open_sources(folder, ["transformer"]), place, layout, dtype)
    return round(made.bytes / made.seconds / 1e9, 2)


def load(place: Path) -> dict[str, Any]:
    jnp.zeros(1).block_until_ready()  # starts JAX
    began = time.perf_counter()
    model = load_parameters(abstract(), RULES, part_files("transformer", place), dtype=jnp.bfloat16)
    arrays = jax.block_until_ready(jax.tree.leaves(nnx.state(model)))
    seconds = time.perf_counter() - began
    return {"seconds": round(seconds, 2), "parameter_bytes": sum(x.nbytes for x in arrays)}


if __name__ == "__main__":
    main()
