"""Comparing variants: metrics, runs from the same noise, the report.

    from wanjax.evaluate import compare, save

    comparison = compare("tiny-t2v", prompts=["a red ball moving right"], seeds=(0, 1))
    save(comparison)  # report.html, metrics.json and table.md in comparison.folder

Names are imported when first used: JAX only with `compare`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wanjax.evaluate.comparing import compare
    from wanjax.evaluate.comparison import Comparison, Stat
    from wanjax.evaluate.metrics import (
        closeness,
        flicker,
        mean_psnr,
        psnr,
        ssim,
        temporal_ssim,
    )
    from wanjax.evaluate.report import save
    from wanjax.evaluate.sentences import findings
    from wanjax.evaluate.tables import markdown

_HOME = {
    "Comparison": "wanjax.evaluate.comparison",
    "Stat": "wanjax.evaluate.comparison",
    "closeness": "wanjax.evaluate.metrics",
    "compare": "wanjax.evaluate.comparing",
    "findings": "wanjax.evaluate.sentences",
    "flicker": "wanjax.evaluate.metrics",
    "markdown": "wanjax.evaluate.tables",
    "mean_psnr": "wanjax.evaluate.metrics",
    "psnr": "wanjax.evaluate.metrics",
    "save": "wanjax.evaluate.report",
    "ssim": "wanjax.evaluate.metrics",
    "temporal_ssim": "wanjax.evaluate.metrics",
}

__all__ = [
    "Comparison",
    "Stat",
    "closeness",
    "compare",
    "findings",
    "flicker",
    "markdown",
    "mean_psnr",
    "psnr",
    "save",
    "ssim",
    "temporal_ssim",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'wanjax.evaluate' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
