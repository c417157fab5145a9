"""Comparisons with numbers of one's choice: nothing is generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wanjax.evaluate import Comparison

STEPS = 8
NEAR = {"psnr": 30.0, "ssim": 0.98, "temporal_ssim": 0.95, "added_flicker": 1.0}


def comparison(
    near: Mapping[str, Mapping[str, Sequence[float]]], folder: Path = Path(), **fields: Any
) -> Comparison:
    """Variants beside `dense`: for each the values of its metrics, one a clip.

    A metric that is left out is the same for all. Names with `magcache` in them skip half of
    the steps; `fewer-steps` has as many as those compute.
    """
    count = max(len(values) for metrics in near.values() for values in metrics.values())
    clips = [{"name": f"{i}", "prompt": f"prompt {i}", "seed": 0} for i in range(count)]
    runs: dict[str, dict[str, Any]] = {"dense": {}}
    for clip in clips:
        runs["dense"][clip["name"]] = _record("#" * STEPS, "dense", {})
    for name, metrics in near.items():
        skips = "magcache" in name
        strip = "#." * (STEPS // 2) if skips else "#" * (STEPS // (1 + ("fewer" in name)))
        values = {m: metrics.get(m, [default] * count) for m, default in NEAR.items()}
        runs[name] = {}
        for i, clip in enumerate(clips):
            own = {m: [values[m][i]] * 2 for m in ("psnr", "ssim", "temporal_ssim")}
            own["added_flicker"] = values["added_flicker"][i]
            runs[name][clip["name"]] = _record(
                strip, "magcache" if skips else "dense", {"dense": own}
            )
    about = {"title": "made up", "command": "wanjax compare", "settings": {}, "environment": {}}
    return Comparison(
        about=about,
        references=("dense",),
        changes={},
        clips=clips,
        runs=runs,
        videos={},
        folder=folder,
        fps=8,
        **({"rows": {n: "fewer-steps" for n in near if "magcache" in n}} | fields),
    )


def _record(strip: str, method: str, against: Mapping[str, Any]) -> dict[str, Any]:
    computed = strip.count("#")
    plan = {"strip": strip, "steps": len(strip), "computed": computed, "method": method}
    plan["ideal_speedup"] = len(strip) / computed
    return {"flicker": 3.0, "plan": plan, "against": against}
