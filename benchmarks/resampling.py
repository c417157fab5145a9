"""Which way of carrying a curve to other steps and shifts predicts a fresh calibration better?

    python benchmarks/resampling.py tiny-t2v

For each setting: calibrate afresh, predict the same ratios from the shipped curve, and print
the mean absolute error of the ratios in percent, the first step of each phase left out.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

import wanjax
from wanjax.caching import Curve, CurveError, check_fit, ratios_for
from wanjax.evaluate.calibrate import calibrate
from wanjax.media.prompts import default_prompts
from wanjax.planning.schedule import schedule_for

STEPS = (10, 20, 30, 50)
SHIFT_FACTORS = (0.6, 1.5)
RULES = ("noise_level", "nearest")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("preset", choices=("tiny-t2v", "tiny-i2v"))
    parser.add_argument("--prompts", type=int, default=4)
    args = parser.parse_args()
    pipe = wanjax.WanPipeline.from_pretrained(args.preset)
    shipped = Curve.load(args.preset)
    usual = pipe.config
    settings = [{"num_inference_steps": n} for n in STEPS]
    settings += [{"flow_shift": round(usual.flow_shift * f, 1)} for f in SHIFT_FACTORS]
    print("| steps | flow_shift | boundary step | " + " | ".join(RULES) + " |")
    print("|---|---|---|" + "---|" * len(RULES))
    for changed in settings:
        config = replace(usual, **changed)
        schedule = schedule_for(config)
        fresh = calibrate(pipe.with_config(config), default_prompts(args.preset)[: args.prompts])
        errors = " | ".join(error(shipped, fresh, schedule, rule) for rule in RULES)
        shift, boundary = f"{config.flow_shift:g}", schedule.boundary_step
        print(f"| {schedule.num_steps} | {shift} | {boundary} | {errors} |", flush=True)


def error(shipped: Curve, fresh: Curve, schedule, rule: str) -> str:
    """Mean absolute error of the predicted ratios, or that the rule refuses."""
    try:
        check_fit(shipped, schedule, rule)
    except CurveError:
        refused = " (refused)"
    else:
        refused = ""
    inside = np.ones(schedule.num_steps, bool)
    inside[[phase.start for phase in schedule.phases]] = False
    difference = np.abs(ratios_for(shipped, schedule, rule) - fresh.ratios)[inside]
    return f"{100 * difference.mean():.2f} %{refused}"


if __name__ == "__main__":
    main()
