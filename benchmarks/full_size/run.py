"""The whole table of full-size figures, on whatever accelerator is here, by one command.

    python benchmarks/full_size/run.py                   # every row; hours on one GPU
    python benchmarks/full_size/run.py a14b-720p attention
    python benchmarks/full_size/run.py bundled attention --tokens 1024   # small: minutes on a CPU
    python benchmarks/full_size/run.py --table           # only writes the table again

Each row is a process of its own, and a file of `results/` beside this one: what `wanjax benchmark`
writes, and dense steps of PyTorch diffusers on the same card with the same shapes and random
weights, where torch is installed. A row that fails says so in its file, and the others go on.
`attention` holds the device's own kernel to chunked float32 at the tokens of a 720x1280 video of 81
frames. `table.md` has all of it with device, date and versions; nothing is in it that was not run.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TOKENS = 75_600  # of 720x1280, 81 frames
PER_STEP = "s a step"


@dataclass(frozen=True)
class Row:
    """A run of a preset; `published`: the best seconds of a dense step that others report."""

    preset: str
    height: int
    width: int
    num_frames: int = 81
    published: str = ""

    @property
    def arguments(self) -> list[str]:
        size = {"height": self.height, "width": self.width, "num_frames": self.num_frames}
        return [self.preset, *(f"{name}={value}" for name, value in size.items())]


ROWS = {
    "a14b-720p": Row("wan2.2-t2v-a14b", 720, 1280, published="19.4 (SGLang, one Hopper card)"),
    "a14b-480p": Row("wan2.2-t2v-a14b", 480, 832),
    "a14b-i2v-720p": Row("wan2.2-i2v-a14b", 720, 1280),
    "14b-480p": Row("wan2.1-t2v-14b", 480, 832, published="5.18 (LightX2V, H100)"),
    "1.3b-480p": Row("wan2.1-t2v-1.3b", 480, 832),
    "bundled": Row("tiny-t2v", 64, 64, 17),
}
ATTENTION = "attention"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", help=f"of {', '.join(ROWS)}, {ATTENTION}; none: all")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10, help="of each run")
    parser.add_argument("--theirs", type=int, help="of diffusers, each way; none: as many")
    parser.add_argument("--apart", action="store_true", help="its branches apart alone")
    parser.add_argument("--keep", action="store_true", help="ours as they were, diffusers' anew")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of the attention check")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--table", action="store_true", help="only write the table")
    args = parser.parse_args()
    if unknown := set(args.rows) - {*ROWS, ATTENTION}:
        parser.error(f"no such row: {', '.join(unknown)}; rows: {', '.join(ROWS)}, {ATTENTION}")
    args.results.mkdir(parents=True, exist_ok=True)
    wanted = args.rows or [name for name in (*ROWS, ATTENTION) if name != "bundled"]
    for name in [] if args.table else wanted:
        tell(f"{name} ...")
        made = attention(args) if name == ATTENTION else row(name, args)
        write(args.results / f"{name}.json", made)
    table = args.results / "table.md"
    table.write_text(markdown(args.results), encoding="utf-8")
    print(table.read_text(encoding="utf-8"))


def row(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One row of both, ours first; a card holds one model at a time."""
    output = args.results / f"{name}-wanjax.json"
    ours = ["-m", "wanjax", "benchmark", *ROWS[name].arguments, f"output={output}"]
    ours += [f"repeats={args.repeats}", f"num_inference_steps={args.steps}", "overwrite=True"]
    found: dict[str, Any] = {"command": ["python", *ours]}
    if args.keep:
        found = json.loads((args.results / f"{name}.json").read_text(encoding="utf-8"))
        return found | {"diffusers": diffusers(name, found["wanjax"], args)}
    failure = run_process(ours)
    if failure is not None:
        return found | {"wanjax": {"failed": failure}}
    found["wanjax"] = json.loads(output.read_text(encoding="utf-8"))
    output.unlink()
    output.with_suffix(".md").unlink()
    return found | {"diffusers": diffusers(name, found["wanjax"], args)}


def diffusers(name: str, ours: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Its dense steps, of the shapes of ours."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("diffusers") is None:
        return {"failed": "torch and diffusers are not installed"}
    device = "cuda" if ours["device"]["platform"] == "gpu" else "cpu"
    steps = args.steps if args.theirs is None else args.theirs
    case = shapes(name) | {"steps": steps, "device": device, "dtype": ours["dtype"]}
    case |= {"warm_up": 1, "ways": ("apart",) if args.apart else ("apart", "together")}
    if device == "cuda" and not cuda_is_here():
        return {"failed": "this torch has no CUDA"}
    script, made = str(HERE.parent / "diffusers_step.py"), args.results / f".{name}.json"
    failure = run_process([script, json.dumps(case)], made)
    if failure is not None:
        return {"failed": failure}
    timed: dict[str, Any] = json.loads(made.read_text(encoding="utf-8").splitlines()[-1])
    made.unlink()
    return timed


def shapes(name: str) -> dict[str, Any]:
    """A row's transformer, latents and prompt, without JAX."""
    from wanjax.checkpoints.configs import model_configs
    from wanjax.config.resolve import resolve
    from wanjax.parallel.mesh import MeshShape
    from wanjax.planning.footprint import Footprint
    from wanjax.planning.memory import ANY_DEVICE
    from wanjax.planning.run import prepare

    run = prepare(resolve(ROWS[name].arguments, "benchmark"), None)
    configs = model_configs(str(run.config.model))
    footprint = Footprint(run.config, run.plan, configs, ANY_DEVICE, MeshShape())
    return {
        "transformer": dict(footprint.transformer),
        "latents": list(footprint.latents),
        "text_tokens": run.config.max_sequence_length,
    }


def cuda_is_here() -> bool:
    return run_process(["-c", "import torch; assert torch.cuda.is_available()"]) is None


def attention(args: argparse.Namespace) -> dict[str, Any]:
    """The device's kernel against chunked float32, in a process of its own."""
    made = args.results / ".attention.json"
    failure = run_process([str(HERE / "attention.py"), str(args.tokens)], made)
    if failure is not None:
        return {"failed": failure}
    found: dict[str, Any] = json.loads(made.read_text(encoding="utf-8").splitlines()[-1])
    made.unlink()
    return found


def run_process(args: Sequence[str], output: Path | None = None) -> str | None:
    """The last line of a process's complaint, or None where it did well; output goes to a file."""
    done = subprocess.run([sys.executable, *args], capture_output=True, text=True)
    if output is not None:
        output.write_text(done.stdout, encoding="utf-8")
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    tell(f"  failed: {lines[-1]}")
    return lines[-1]


def write(path: Path, content: dict[str, Any]) -> None:
    created = {"created": datetime.now(UTC).isoformat(timespec="seconds")}
    path.write_text(json.dumps(created | content, indent=1) + "\n", encoding="utf-8")


def markdown(results: Path) -> str:
    """The table of all rows that were run."""
    found = {
        name: json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
        for name in (*ROWS, ATTENTION)
        if (results / f"{name}.json").exists()
    }
    titles = ("row", "device", f"wanjax, {PER_STEP}", "of matrix rate", f"diffusers, {PER_STEP}",
              "published", "a skipped step", "realised of ideal", "text s", "decode s",
              "peak GiB")  # fmt: skip
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    lines += [f"| {' | '.join(cells(n, r))} |" for n, r in found.items() if n != ATTENTION]
    if ATTENTION in found:
        lines += ["", attention_line(found[ATTENTION])]
    versions = {version_line(r) for n, r in found.items() if "packages" in r.get("wanjax", r)}
    return "\n".join([*lines, "", *sorted(versions), ""])


def cells(name: str, result: dict[str, Any]) -> tuple[str, ...]:
    ours, theirs = result["wanjax"], result.get("diffusers", {})
    if "failed" in ours:
        return (name, "", f"failed: {ours['failed']}", *[""] * 8)
    stages, speedup = ours["stages"], ours["speedup"]
    theirs_cell = theirs.get("failed", "")
    if "seconds" in theirs:
        ways = theirs["seconds"].values()
        theirs_cell = f"{min(sorted(times)[len(times) // 2] for times in ways):.4g}"
    return (
        f"{name}: {ours['width']}x{ours['height']}, {ours['num_frames']} frames",
        f"{ours['device']['count']} x {ours['device']['kind']}, {ours['dtype']}",
        f"{stages['computed_step']['seconds']:.4g}",
        f"{stages['computed_step']['matrix_rate_share']:.0%}",
        theirs_cell,
        ROWS[name].published,
        f"{ours['skipped_step_share']:.2%}" if "skipped_step_share" in ours else "",
        f"{speedup['realised']:.3f} of {speedup['ideal']:.3f} ({speedup['realised_share']:.1%})",
        f"{stages['text']['seconds']:.4g}",
        f"{stages['decode']['seconds']:.4g}",
        f"{ours['peak_memory_bytes'] / 2**30:.1f}",
    )


def attention_line(found: dict[str, Any]) -> str:
    if "failed" in found:
        return f"Attention: failed: {found['failed']}"
    return (
        f"Attention of {found['tokens']} tokens, {found['heads']} heads of {found['dim']}, "
        f"{found['dtype']}, kernel {found['kernel']}, on {found['device']['kind']}: "
        f"{found['seconds']:.4g} s ({found['flops_per_second'] / 1e12:.3g} TFLOP/s); largest error "
        f"against chunked float32 {found['error']:.2e} of the largest value"
    )


def version_line(result: dict[str, Any]) -> str:
    ours = result.get("wanjax", result)
    names = ("wanjax", "jax", "jaxlib", "flax")
    theirs = result.get("diffusers", {})
    versions = [f"{name} {ours['packages'][name]}" for name in names]
    versions += [f"{name} {theirs[name]}" for name in ("torch", "diffusers") if name in theirs]
    return f"* {result['created'][:10]}: {', '.join(versions)}"


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
