"""How fast a checkpoint of several gigabytes loads, and how much memory that takes.

    python benchmarks/loading.py                      # 4.6 GB in bfloat16: six blocks of 14B
    python benchmarks/loading.py --layers 1 --kept-as float32 --keep /tmp/checkpoint

Writes a transformer of random numbers, as wide as Wan 14B, in shards to a temporary folder
(or `--keep`, which is used again when it is there), and loads it in a process of its own, as a
pipeline does. What was written lies in the page cache then. Prints JSON:

- `gb_per_s`: bytes of the files over the seconds of `load_parameters`, the first call included;
- `extra_bytes`: the highest resident memory while it loads, less what was resident before, less
  the parameters, which on a CPU are the host's memory too. `over_largest` is that over the
  largest parameter (a matrix of all layers, stacked).

Resident memory is Linux's (`VmHWM` of /proc/self/status): pages of a mapped file count.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from wanjax.checkpoints.layouts.diffusers.transformer import RULES
from wanjax.checkpoints.load import load_parameters
from wanjax.checkpoints.mapping import entries
from wanjax.checkpoints.tensor_files import TensorFiles
from wanjax.models.configs import TransformerConfig
from wanjax.models.layers import Undrawn
from wanjax.models.transformer import WanTransformer

SHARD_BYTES = 10**9


def main() -> None:
    args = _arguments()
    if args.load:
        print(json.dumps(measure(args.load, args)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        if not any(folder.glob("*.safetensors")):
            write(abstract(args), folder, args.stored_as)
        for _ in range(args.repeats):
            found = run_apart([*sys.argv[1:], "--load", str(folder)])
            print(json.dumps(found | {"load_average": os.getloadavg()[0]}), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=6, help="blocks; 0.7 GB each in bfloat16")
    parser.add_argument("--heads", type=int, default=40, help="of 128; 40 in Wan 14B")
    parser.add_argument("--ffn", type=int, default=13824, help="feed-forward width")
    parser.add_argument("--stored-as", default="bfloat16", help="numbers in the files")
    parser.add_argument("--kept-as", default="bfloat16", help="numbers of the parameters")
    parser.add_argument(
        "--by-device", action="store_true", help="transposed by programs, as for GPUs and TPUs"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="the checkpoint's folder, kept")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def abstract(args: argparse.Namespace) -> WanTransformer:
    values = {"num_attention_heads": args.heads, "ffn_dim": args.ffn, "num_layers": args.layers}
    return WanTransformer(TransformerConfig.from_dict(values), rngs=Undrawn())


def write(model: nnx.Module, folder: Path, dtype: str) -> None:
    """Random tensors under the checkpoint's names, in files of a gigabyte."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, shard in enumerate(_shards(model, jnp.dtype(dtype))):
        save_file(shard, folder / f"diffusion_pytorch_model-{number + 1:05}.safetensors")


def _shards(model: nnx.Module, dtype: np.dtype) -> Iterator[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    shard: dict[str, np.ndarray] = {}
    for entry in entries(nnx.state(model), RULES):
        for key in entry.keys:
            shard[key] = random.random(entry.shape, np.float32).astype(dtype)
            if sum(x.nbytes for x in shard.values()) > SHARD_BYTES:
                yield shard
                shard = {}
    yield shard


def run_apart(arguments: list[str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    jnp.zeros(1).block_until_ready()  # starts JAX
    before = _resident("VmRSS")
    began, worked = time.perf_counter(), time.process_time()
    model = load_parameters(
        abstract(args),
        RULES,
        TensorFiles(folder),
        dtype=args.kept_as,
        host_memory=False if args.by_device else None,
    )
    arrays = jax.block_until_ready(jax.tree.leaves(nnx.state(model)))
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    largest, kept = max(x.nbytes for x in arrays), sum(x.nbytes for x in arrays)
    extra = _resident("VmHWM") - before - kept
    return {
        "stored_as": args.stored_as,
        "kept_as": args.kept_as,
        "file_bytes": stored,
        "seconds": round(seconds, 2),
        "gb_per_s": round(stored / seconds / 1e9, 2),
        "cpu_seconds": round(worked, 2),
        "parameter_bytes": kept,
        "largest_bytes": largest,
        "extra_bytes": extra,
        "over_largest": round(extra / largest, 2),
    }


def _resident(name: str) -> int:
    """VmRSS: resident memory now; VmHWM: at its highest so far."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
