"""How well is the outputs' matrix carried to other steps and shifts?

    python benchmarks/closeness/carrying.py tiny-t2v

For each setting the matrix is measured afresh, with the same prompts and seeds, and carried over
from the preset's own steps. Prints the error of the distances between neighbouring outputs
(median of the relative error), and of the plan of three times the speed: its expected error, by
the fresh matrix, if it was found from the carried one, over that of the plan which the fresh one
finds.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np

import wanjax
from wanjax.caching import Curve, Forecast
from wanjax.caching.methods.forecast_planner import Planner
from wanjax.caching.methods.magcache_rules import forced_steps
from wanjax.caching.resample import carried_inner_products, carried_moves
from wanjax.caching.schedule import Schedule
from wanjax.evaluate.calibrate import measure_run
from wanjax.media.prompts import default_prompts
from wanjax.pipeline.pipeline import WanPipeline
from wanjax.planning.schedule import schedule_for

PROMPTS, SEED = 4, 0
CHANGES = (
    {"num_inference_steps": 20},
    {"num_inference_steps": 30},
    {"num_inference_steps": 50},
    {"flow_shift": 0.6},
    {"flow_shift": 1.5},
)  # shifts as factors


def main(preset: str) -> None:
    pipe = wanjax.WanPipeline.from_pretrained(preset)
    usual, shipped = pipe.config, Curve.load(preset)
    own = replace(shipped, inner_products=measured(pipe, preset))
    print("| steps | flow_shift | boundary step | distances | plan's error |")
    print("|---|---|---|---|---|")
    for change in CHANGES:
        values = {k: round(usual.flow_shift * v, 1) if k == "flow_shift" else v
                  for k, v in change.items()}  # fmt: skip
        config = replace(usual, **values)
        schedule = schedule_for(config)
        fresh = measured(pipe.with_config(config), preset)
        carried = carried_inner_products(own, schedule)
        inside = np.ones(schedule.num_steps, bool)
        inside[[phase.start for phase in schedule.phases]] = False
        true, told = (neighbours(gram)[inside[1:]] for gram in (fresh, carried))
        distances = 100 * np.median(np.abs(told / true - 1))
        moves = carried_moves(shipped, schedule)
        worse = plan_error(carried, fresh, moves, schedule) / plan_error(
            fresh, fresh, moves, schedule
        )
        shift, boundary = f"{config.flow_shift:g}", schedule.boundary_step
        row = f"| {schedule.num_steps} | {shift} | {boundary} | {distances:.1f} % |"
        print(f"{row} {worse:.2f} |", flush=True)


def measured(pipe: WanPipeline, preset: str) -> np.ndarray:
    calibration = Forecast.calibration
    assert calibration is not None
    prompts = default_prompts(preset)[:PROMPTS]
    runs = [measure_run(pipe, p, SEED, {"velocity": calibration})["velocity"] for p in prompts]
    return np.mean(runs, axis=0)


def neighbours(gram: np.ndarray) -> np.ndarray:
    """The distances between outputs of neighbouring steps."""
    size = gram.diagonal()
    return np.sqrt(np.maximum(size[1:] + size[:-1] - 2 * gram.diagonal(1), 1e-12))


def plan_error(
    planned: np.ndarray, judged: np.ndarray, moves: np.ndarray, schedule: Schedule
) -> float:
    """The error by one matrix of the plan that another finds."""
    steps = schedule.num_steps
    fixed = (schedule.phases, np.ones(steps, int), forced_steps(schedule, 0.0))
    found = Planner(planned, moves, *fixed).least(round(steps * 27 / 40))
    return float(np.sqrt(Planner(judged, moves, *fixed).cost(found.computed.tolist())))


if __name__ == "__main__":
    main(sys.argv[1])
