"""What does a plan's predicted error come to in frames? Fits and stores it with the calibration.

python benchmarks/closeness/relation.py PRESET FOLDER

Takes the forecasts of `measure.py` in FOLDER: mean PSNR over all videos against the predicted error
of the latents, a line in decibels by least squares. Written into the preset's calibration file.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from wanjax.caching import Curve

CURVES = Path(__file__).parents[2] / "src/wanjax/caching/curves"


def main(preset: str, folder: Path) -> None:
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    known = [run for run in runs if run.get("predicted_error")]
    decibels = np.array([-20 * np.log10(run["predicted_error"]) for run in known])
    psnr = np.array([np.mean(run["psnr"]) for run in known])
    slope, intercept = np.polyfit(decibels, psnr, 1)
    off = psnr - (intercept + slope * decibels)
    print(f"{preset}: PSNR = {intercept:.1f} + {slope:.2f} * (-20 log10 error), {len(known)} plans")
    print(f"off by {np.abs(off).mean():.1f} dB on average, {np.abs(off).max():.1f} at most")
    curve = Curve.load(preset)
    line = (round(float(intercept), 2), round(float(slope), 3))
    replace(curve, psnr_line=line).save(CURVES / f"{preset}.json")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
