"""What does a plan's predicted error come to in frames? Fits and stores it with the calibration.

python benchmarks/closeness/relation.py PRESET FOLDER

Takes the forecasts of `measure.py` in FOLDER, as they are by default: mean PSNR over all videos
against the predicted error of the latents, a line in decibels by least squares. Written into the
preset's calibration file. Prints how far the other predicted plans lie from it, too, and each of
the forecasts from the line through all but itself: what to expect of a speed that was not measured.
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from tables import load

from wanjax.caching import Curve

CURVES = Path(__file__).parents[2] / "src/wanjax/caching/curves"


def main(preset: str, folder: Path) -> None:
    runs = load(folder)
    known = {name: run for name, run in runs.items() if run.get("predicted_error")}
    decibels = {name: -20 * np.log10(run["predicted_error"]) for name, run in known.items()}
    psnr = {name: np.mean(run["psnr"]) for name, run in known.items()}
    usual = [name for name in known if re.fullmatch(r"forecast-\d+", name)]
    slope, intercept = np.polyfit([decibels[n] for n in usual], [psnr[n] for n in usual], 1)
    print(f"{preset}: PSNR = {intercept:.1f} + {slope:.2f} * (-20 log10 error)")
    for name in sorted(known, key=lambda name: (name not in usual, name)):
        off = psnr[name] - (intercept + slope * decibels[name])
        print(f"  {name:24} {psnr[name]:.1f} dB, {off:+.1f} from the line")
    for left_out in usual:
        rest = [name for name in usual if name != left_out]
        slope_, intercept_ = np.polyfit([decibels[n] for n in rest], [psnr[n] for n in rest], 1)
        off = psnr[left_out] - (intercept_ + slope_ * decibels[left_out])
        print(f"  {left_out:24} {off:+.1f} from the line through the others")
    curve = Curve.load(preset)
    line = (round(float(intercept), 2), round(float(slope), 3))
    replace(curve, psnr_line=line).save(CURVES / f"{preset}.json")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
