"""How long a video takes, from its plan and what was measured."""

from __future__ import annotations

from dataclasses import astuple
from types import SimpleNamespace

import pytest

from wanjax.checkpoints.configs import model_configs
from wanjax.config.resolve import resolve
from wanjax.planning.run import prepare
from wanjax.serve.eta import (
    COMPILING,
    SAVE,
    SWITCHING,
    Course,
    Part,
    Speeds,
    parts_of,
    programs_of,
    shape_of,
)
from wanjax.serve.queue import Queue
from wanjax.serve.ready import Ready

SHAPE, STEP, SKIP = "tiny|64x64x17", Part("step blocks", 10, 1000), Part("step output", 5, 0)
DECODE = Part("decode", 1, 500)


def planned(*args):
    config = resolve(["tiny-t2v", *args], "plan")
    run = prepare(config)
    return run, {p.name: p for p in parts_of(run, model_configs(config.model))}


def measured() -> Speeds:
    speeds = Speeds()
    for part, seconds in ((STEP, 0.2), (SKIP, 0.01), (DECODE, 0.5)):
        speeds.add(SHAPE, part, seconds)
    return speeds


def test_the_parts_of_a_plan():
    run, parts = planned("use_magcache=True", "magcache_estimate=repeat")
    computed, skipped = parts["step blocks+blocks"], parts["step residual+residual"]
    assert computed.count + skipped.count == 40
    assert skipped.count == len(run.plan.skipped_steps)
    assert 0 < skipped.work < computed.work / 10
    assert parts["text"].work > 0
    assert parts[SAVE].work == 64 * 64 * 17


def test_skipped_steps_in_a_row_run_as_one():
    run, parts = planned("use_forecast=True", "target_speedup=3")
    rows = [steps for steps in run.plan.runs if steps[0].estimated]
    assert parts["step output+output"].count == len(rows) < len(run.plan.skipped_steps)


def test_programs_have_one_name_where_they_are_the_same():
    runs = [planned(*args)[0] for args in ((), ("seed=3",), ("use_magcache=True",), ("width=48",))]
    dense, seeded, cached, small = (programs_of(shape_of("tiny", run.config), run) for run in runs)
    assert dense == seeded
    assert len({dense, cached, small}) == 3


def test_an_estimate_is_what_the_parts_have_taken():
    assert measured().estimate(SHAPE, [STEP, SKIP, DECODE]) == pytest.approx(2 + 0.05 + 0.5)
    assert Speeds().estimate(SHAPE, [STEP]) is None


def test_a_first_run_which_takes_longer_counts_until_there_is_another():
    speeds = Speeds()
    speeds.add(SHAPE, DECODE, 3.0, unusual=True)
    assert (speeds.usual(SHAPE, DECODE), speeds.seconds(SHAPE, DECODE)) == (None, 3.0)
    speeds.add("tiny|128x64x17", Part("decode", 1, 1000), 1.0)  # the same work in half the time
    assert speeds.seconds(SHAPE, DECODE) == pytest.approx(0.5)
    speeds.add(SHAPE, DECODE, 0.6)
    assert speeds.usual(SHAPE, DECODE) == speeds.seconds(SHAPE, DECODE) == pytest.approx(0.6)


def test_another_shape_is_estimated_by_its_work():
    twice = [Part("step blocks", 10, 2000), SKIP, Part("decode", 1, 1000)]
    assert measured().estimate("tiny|128x64x17", twice) == pytest.approx(4 + 0.05 + 1)
    assert measured().seconds("tiny|other", Part("step new", 1, 500)) > 0
    assert measured().seconds("another|64x64x17", STEP) is None


def test_speeds_are_kept():
    again = Speeds(measured().rows())
    assert again.estimate(SHAPE, [STEP, DECODE]) == measured().estimate(SHAPE, [STEP, DECODE])


def test_the_newest_measurements_count_most():
    speeds = measured()
    for _ in range(10):
        speeds.add(SHAPE, STEP, 0.4)
    assert speeds.seconds(SHAPE, STEP) == pytest.approx(0.4, rel=0.05)


def test_what_is_left_falls_as_parts_end():
    parts = {part.name: part for part in (STEP, SKIP, DECODE)}
    course, left = Course(SHAPE, measured(), parts), []
    for _ in range(10):
        course.done("step blocks", 0.2)
        left.append(course.remaining())
    assert left[0] == pytest.approx(9 * 0.2 + 0.05 + 0.5)
    assert left == sorted(left, reverse=True)
    course.done("decode", 0.5)
    assert course.share == pytest.approx(1 - 0.05 / 2.55)


def run_of(speeds: Speeds, steps: list[float]) -> Course:
    """A run of which so many steps are done."""
    course = Course(SHAPE, speeds, {part.name: part for part in (STEP, SKIP, DECODE)})
    for seconds in steps:
        course.done("step blocks", seconds)
    return course


def jittery() -> Speeds:
    """Of ten runs that took as long as one another, with steps that did not."""
    speeds = measured()
    for _ in range(10):
        run_of(speeds, [0.2, *[0.15, 0.25] * 5]).learn({}, cold=False)
    return speeds


def test_two_steps_tell_of_a_busier_machine():
    course = run_of(measured(), [0.4, 0.3])
    assert course.remaining() == pytest.approx(1.5 * (8 * 0.2 + 0.05 + 0.5), rel=0.05)


def test_two_steps_say_little_where_steps_differ_and_runs_do_not():
    course = run_of(jittery(), [0.25, 0.25])
    assert course.remaining() == pytest.approx(8 * 0.2 + 0.05 + 0.5, rel=0.05)


def test_steps_that_never_took_so_long_tell_of_a_busier_machine():
    course = run_of(jittery(), [0.6, 0.5])
    assert course.remaining() == pytest.approx(2.5 * (8 * 0.2 + 0.05 + 0.5), rel=0.1)


@pytest.mark.parametrize("steps", [[0.2, 0.9], [0.2, 0.2, 0.9, 0.2]])
def test_a_single_step_that_stalled_tells_nothing(steps):
    course = run_of(jittery(), steps)
    assert course.remaining() == pytest.approx((10 - len(steps)) * 0.2 + 0.05 + 0.5, rel=0.1)


def test_a_first_run_is_estimated_from_its_own_steps():
    course = Course(SHAPE, Speeds(), {part.name: part for part in (STEP, DECODE)})
    assert course.remaining() is None
    course.done("step blocks", 0.2)
    assert course.remaining() == pytest.approx(9 * 0.2 + 0.1)


def test_a_step_that_skips_the_model_tells_nothing_of_the_pace():
    """It takes next to nothing: ten times as long is no machine ten times as slow."""
    course = run_of(jittery(), [0.2])
    course.done("step output", 0.1)
    assert course.remaining() == pytest.approx(9 * 0.2 + 4 * 0.01 + 0.5, rel=0.01)


def test_a_shapes_first_step_is_no_measure_of_the_others():
    course = Course("tiny|64x64x9", measured(), {part.name: part for part in (STEP, DECODE)})
    course.done(STEP.name, 3.0)
    assert course.remaining() == pytest.approx(9 * 0.2 + 0.5)


def test_one_video_that_was_slow_changes_nothing():
    speeds = measured()
    for seconds in (0.5, 0.5, 5.0, 0.5):
        speeds.add(SHAPE, DECODE, seconds)
    assert speeds.seconds(SHAPE, DECODE) == 0.5


def test_what_is_learnt_of_a_run_whose_programs_ran_for_the_first_time():
    """Of each kind the steps but the first, which takes longer; of the stages a first idea."""
    speeds = Speeds()
    run_of(speeds, [2.0, 0.2, 0.2]).learn({"decode": 3.0}, cold=True)
    assert speeds.usual(SHAPE, STEP) == pytest.approx(0.2)
    assert (speeds.usual(SHAPE, DECODE), speeds.seconds(SHAPE, DECODE)) == (None, 3.0)


def beside(speeds: Speeds, steps: list[float], alone: list[float] | None = None) -> Course:
    """A run whose first steps ran beside the compiling of other programs."""
    course = run_of(speeds, [])
    for seconds in steps:
        course.done(STEP.name, seconds, beside=True)
    for seconds in alone or []:
        course.done(STEP.name, seconds)
    return course


def test_a_run_beside_the_compiling_of_other_programs_teaches_a_first_idea():
    """Regression: six videos that were slowed so told too long times for a dozen after them."""
    speeds, usual = Speeds(), measured()
    for known in (speeds, usual):
        beside(known, [0.3] * 3).learn({"decode": 3.0}, cold=False, beside=True)
    assert (speeds.usual(SHAPE, STEP), speeds.usual(SHAPE, DECODE)) == (None, None)
    assert (speeds.seconds(SHAPE, STEP), speeds.seconds(SHAPE, DECODE)) == (0.3, 3.0)
    assert (usual.usual(SHAPE, STEP), usual.usual(SHAPE, DECODE)) == (0.2, 0.5)


def test_a_run_teaches_what_its_steps_took_once_nothing_compiled():
    speeds = Speeds()
    beside(speeds, [0.4] * 5, alone=[0.2] * 5).learn({"decode": 0.5}, cold=False)
    assert speeds.usual(SHAPE, STEP) == pytest.approx(0.2)
    assert speeds.usual(SHAPE, DECODE) == 0.5


def test_steps_beside_compiling_are_slow_until_that_ends():
    """Regression: 43 seconds were told for a video of 22."""
    usual = 8 * 0.2 + 0.05 + 0.5
    course = beside(measured(), [0.4, 0.4])
    assert course.remaining(100.0) == pytest.approx(2 * usual, rel=0.02)
    assert course.remaining(1.0) == pytest.approx(1.0 + (2 * usual - 1.0) / 2, rel=0.02)
    assert course.remaining() == pytest.approx(usual)
    after = beside(measured(), [0.4, 0.4], alone=[0.2])
    assert after.remaining() == pytest.approx(usual - 0.2)


def test_what_another_models_weights_take_to_arrive_is_apart():
    speeds = measured()
    course = Course(SHAPE, speeds, {part.name: part for part in (SWITCHING, DECODE)}, leaving=0.3)
    course.learn({"decode": 2.5}, cold=False)
    assert speeds.seconds(SHAPE, SWITCHING) == pytest.approx(2.3)
    assert speeds.seconds("tiny|128x64x17", SWITCHING) == pytest.approx(2.3)
    assert speeds.usual(SHAPE, DECODE) == 0.5


def queued(ready, *programs):
    """The places of a queue of one server that is free, whose jobs need these programs."""
    jobs = [
        SimpleNamespace(
            id=f"{name}{number}", client="ann", model="tiny", programs=name, number=number,
            attempts=0, facts={"shape": SHAPE, "parts": [astuple(STEP), astuple(DECODE)]},
        )
        for number, name in enumerate(programs)
    ]  # fmt: skip
    table = SimpleNamespace(queued=lambda: jobs, speeds=lambda: [])
    queue = Queue(table, "server", 10, ["tiny"], ready, lambda: [0.0])
    for part, seconds in ((STEP, 0.2), (DECODE, 0.5), (COMPILING, 6.0), (SWITCHING, 1.5)):
        queue.speeds.add(SHAPE, part, seconds)
    return [queue.place(job.id).eta for job in jobs]


def test_who_waits_is_told_of_programs_that_compile_first():
    """Beside the jobs before, once for all that need them."""
    ready = Ready("tiny")
    ready.run("a")
    own = 2 + 0.5
    assert queued(ready, "a", "a") == pytest.approx([own, 2 * own], abs=0.1)
    told = [own, 2 * own, 6 + own, 6 + 2 * own]
    assert queued(ready, "a", "a", "b", "b") == pytest.approx(told, abs=0.1)
    ready.begin(["b"])
    assert queued(ready, "a", "b") == pytest.approx([own, 2 * own], abs=0.1)


def test_who_waits_is_told_of_weights_that_arrive_first():
    ready = Ready("other")
    ready.run("a")
    assert queued(ready, "a", "a") == pytest.approx([4.0, 6.5], abs=0.1)
