"""Numbers in words and tables: how many digits each metric deserves."""

from __future__ import annotations

import math

DIGITS = {
    "psnr": 1,
    "ssim": 4,
    "temporal_ssim": 4,
    "lpips": 4,
    "added_flicker": 2,
    "flicker": 2,
    "score": 3,
}


def number(value: float | None, digits: int) -> str:
    return "" if value is None else "∞" if math.isinf(value) else f"{value:.{digits}f}"


def signed(value: float, digits: int) -> str:
    """With its sign, but no sign of a zero."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text
