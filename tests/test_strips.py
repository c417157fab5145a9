"""Plans written as strips, and drawn."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest

import wanjax
from wanjax.caching import METHODS, Curve, MagCache, Plan
from wanjax.caching.actions import COMPUTE, REUSE, REUSE_OUTPUT
from wanjax.caching.drawing import Line, lines_svg
from wanjax.config.resolve import resolve
from wanjax.errors import PlanError
from wanjax.planning.run import prepare

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("strip", ["#", "###.#.##", "##.#|#.+##", "#+.#"])
def test_a_strip_gives_the_plan_that_prints_it(strip):
    assert Plan.from_strip(strip).strip() == strip


@pytest.mark.parametrize("method", ["magcache", "cfg_cache", "forecast", None])
def test_every_decided_plan_comes_back_from_its_strip(method):
    planned = prepare(resolve(["tiny-t2v"], "plan"), method).plan
    again = Plan.from_strip(planned.strip(), planned.schedule)
    assert again.strip() == planned.strip()
    assert again.skipped_steps == planned.skipped_steps
    assert again.schedule == planned.schedule


def test_marks_are_actions():
    plan = Plan.from_strip("# .+#")
    both = (COMPUTE, COMPUTE)
    assert [step.actions for step in plan.steps] == [both, (REUSE,) * 2, (COMPUTE, REUSE), both]
    other = Plan.from_strip("#.", skipped=REUSE_OUTPUT)
    assert other.steps[1].actions == (REUSE_OUTPUT, REUSE_OUTPUT)


def test_a_strip_takes_the_steps_of_its_run():
    config = resolve(["tiny-t2v", "num_inference_steps=8"], "plan")
    plan = prepare(config, Plan.from_strip("###.#.|##")).plan
    assert plan.schedule == wanjax.schedule("tiny-t2v", num_inference_steps=8)
    assert plan.strip() == prepare(config, Plan.from_strip("###.#.##")).plan.strip() == "###.#.|##"
    unguided = resolve(["tiny-t2v", "num_inference_steps=8", "guidance_scale=1"], "plan")
    steps = prepare(unguided, Plan.from_strip("###.#.##")).plan.steps
    assert {len(step.actions) for step in steps} == {1}


@pytest.mark.parametrize(
    ("strip", "error"),
    [
        ("##x#", "x is none of # "),
        ("##?#", "decided during a run: give its method"),
        ("", "one mark a step"),
        ("|##", "one mark a step"),
        ("#|#|#", "one mark a step"),
        (".#", "step 0 would reuse"),
        ("##.#", "has 4 steps, the run 8: set num_inference_steps=4"),
        ("##|######", "changes experts at step 2, the run at 6"),
        ("######.#", "step 6 would reuse"),  # of the other expert's making
    ],
)
def test_what_is_no_plan_for_a_run_is_refused(strip, error):
    schedule = wanjax.schedule("tiny-t2v", num_inference_steps=8)
    with pytest.raises(PlanError, match=error):
        Plan.from_strip(strip, schedule)


def test_corrected_forecasts_do_not_move_to_other_steps():
    plan = prepare(resolve(["tiny-t2v"], "plan"), "forecast").plan
    with pytest.raises(PlanError, match="forecast is for its own steps"):
        plan.on(wanjax.schedule("tiny-t2v", guidance_scale=2.0))


def drawn(svg: str) -> ET.Element:
    return ET.fromstring(svg)


@pytest.mark.parametrize("method", [*METHODS, None])
def test_a_plan_draws_a_box_a_step(method):
    plan = prepare(resolve(["tiny-t2v"], "plan"), method).plan
    picture = drawn(plan._repr_svg_())
    boxes = picture.findall(f"{SVG}rect")[1:]  # the first is the page
    assert len(boxes) == 40
    white = [i for i, box in enumerate(boxes) if box.get("fill") == "#fff"]
    assert white == [] if plan.open_steps else white == list(plan.skipped_steps)
    assert f"40 steps, {plan.summary()}" in "".join(picture.itertext())


def test_a_curve_draws_both_branches_and_the_boundary():
    picture = drawn(Curve.load("wan2.2-t2v-a14b")._repr_svg_())
    text = "".join(picture.itertext())
    assert "conditional" in text and "boundary_step=26" in text  # noqa: PT018
    lines = [p.get("d") for p in picture.findall(f"{SVG}path") if p.get("fill") == "none"]
    # an expert's first ratio is 1 by definition and stands for nothing: the line breaks there
    assert [line.count("M") for line in lines if "L" in line] == [2, 2]


def test_lines_of_equal_values_and_of_one_step_can_be_drawn():
    for values in (np.ones(5), np.ones(1), np.array([np.nan, 3.0])):
        drawn(lines_svg([Line("one", values)], "a & b"))
    drawn(Curve.from_list([1.0] * 8)._repr_svg_())


def test_reprs_take_a_line():
    """Regression: a notebook printed 39,000 characters."""
    schedule = wanjax.schedule("tiny-t2v")
    plan = MagCache(mag_ratios_base="tiny-t2v").plan(schedule)
    assert repr(plan).startswith("Plan(magcache: #####..#..#")
    assert repr(plan).endswith("22 computed, 18 skipped, ideal 1.82x)")
    assert repr(schedule).startswith("Schedule(40 steps, flow_shift=12, boundary_ratio=0.875")
    assert repr(Curve.load("tiny-t2v")).startswith("Curve(tiny-t2v: 40 steps, flow_shift=12")
    assert repr(Curve.from_list([1.0] * 8)).startswith("Curve(a list: 4 steps, ratios 1.000 to 1")
    config = resolve(["tiny-t2v", "seed=3"], "plan")
    assert repr(config).startswith("Config(preset='tiny-t2v', ")
    assert "seed=3" in repr(config)
    for value in (plan, schedule, Curve.load("tiny-t2v")):
        assert "\n" not in repr(value)
        assert len(repr(value)) < 200
