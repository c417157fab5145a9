"""A comparison as CSV files: a row for each video, and one for each variant."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wanjax.evaluate.comparison import AGAINST, ALONE, Comparison
from wanjax.files import atomic_path

Row = Mapping[str, Any]


def save_csv(comparison: Comparison, folder: Path) -> list[Path]:
    """Write `videos.csv` and `variants.csv`; returns their paths."""
    videos, variants = folder / "videos.csv", folder / "variants.csv"
    _write(videos, list(video_rows(comparison)))
    _write(variants, list(variant_rows(comparison)))
    return [videos, variants]


def video_rows(comparison: Comparison) -> Iterator[Row]:
    """Every video of every variant against every reference, the variants of a clip together."""
    for position, clip in enumerate(comparison.clips):
        for variant, reference in _pairs(comparison):
            record = comparison.runs[variant][clip["name"]]
            plan = record.get("plan", {})
            yield {
                "video": clip["name"],
                "prompt": clip["prompt"],
                "seed": clip["seed"],
                "variant": variant,
                "kind": comparison.kind(variant),
                "reference": reference,
                **{
                    metric: values[position]
                    for metric in AGAINST
                    if (values := comparison.values(variant, metric, reference))
                },
                "worst_frame_psnr": min(map(float, record["against"][reference]["psnr"])),
                **{metric: record[metric] for metric in ALONE if metric in record},
                "steps": plan.get("steps"),
                "steps_computed": plan.get("computed"),
                "plan": plan.get("strip"),
                "denoise_seconds": record.get("seconds", {}).get("denoise"),
            }


def variant_rows(comparison: Comparison) -> Iterator[Row]:
    """Every variant against every reference, with its pairing to the row of equal cost."""
    for variant, reference in _pairs(comparison):
        row: dict[str, Any] = {
            "variant": variant,
            "kind": comparison.kind(variant),
            "changes": comparison.changes.get(variant, ""),
            "reference": reference,
            "videos": len(comparison.clips),
            "cost": comparison.cost(variant),
        }
        for metric in (*AGAINST, *ALONE):
            stat = comparison.stat(variant, metric, reference if metric in AGAINST else None)
            if stat is not None:
                row |= {f"{metric}_{name}": value for name, value in stat._asdict().items()}
        rival = comparison.rows.get(variant)
        row["equal_cost"] = rival
        for metric in AGAINST if rival else ():
            found = comparison.paired(variant, str(rival), metric, reference)
            if found is not None:
                low, high = found.interval or (None, None)
                values = {"difference": found.difference, "low": low, "high": high}
                values |= {"closer": found.closer, "sign_p": found.sign_p}
                row |= {f"{metric}_paired_{name}": value for name, value in values.items()}
        time, memory = comparison.time(variant) or {}, comparison.memory(variant) or {}
        row |= {f"{stage}_seconds": value for stage, value in time.get("seconds", {}).items()}
        row |= {name: time.get(name) for name in ("speedup", "ideal_speedup")}
        yield row | memory


def _pairs(comparison: Comparison) -> Iterator[tuple[str, str]]:
    for variant in comparison.variants:
        for reference in comparison.references:
            if reference != variant:
                yield variant, reference


def _write(path: Path, rows: Sequence[Row]) -> None:
    """The columns of all rows, in the order in which they are met."""
    columns = dict.fromkeys(name for row in rows for name in row)
    with atomic_path(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(rows)
