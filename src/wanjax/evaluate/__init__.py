"""Comparing variants: metrics, runs from the same noise, the report.

    from wanjax.evaluate import compare, save

    comparison = compare("tiny-t2v", prompts=["a red ball moving right"], seeds=(0, 1))
    save(comparison)  # report.html, metrics.json and table.md in comparison.folder

Names are imported when first used: JAX only with `compare`.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Comparison": "wanjax.evaluate.comparison",
    "Stat": "wanjax.evaluate.comparison",
    "closeness": "wanjax.evaluate.metrics",
    "compare": "wanjax.evaluate.comparing",
    "findings": "wanjax.evaluate.tables",
    "flicker": "wanjax.evaluate.metrics",
    "markdown": "wanjax.evaluate.tables",
    "mean_psnr": "wanjax.evaluate.metrics",
    "psnr": "wanjax.evaluate.metrics",
    "save": "wanjax.evaluate.report",
    "ssim": "wanjax.evaluate.metrics",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'wanjax.evaluate' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
