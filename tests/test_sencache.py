"""SenCache: decisions against a second implementation, sensitivities, what it refuses."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from fake_model import run_fake

from wanjax.caching import SenCache, Sensitivities, dense_plan
from wanjax.caching.sensitivities import average_sensitivities
from wanjax.errors import SensitivityError, UsageError
from wanjax.planning.schedule import make_schedule
from wanjax.sampling.programs import Programs


def schedules(steps=40):
    return (
        make_schedule(steps, 12.0, 4.0, 3.0, 0.875),
        make_schedule(steps, 5.0, 3.5, 3.5, 0.9),
        make_schedule(steps, 5.0, 5.0),
    )


def decide_all(plan, samples):
    """The steps as the method decides on a stored trajectory, and how often it read a drift."""
    decisions, reads, reference, steps = plan.decisions, [], None, []
    for step in plan.steps:
        if step.index in (0, plan.boundary_step):
            state = decisions.start()

        def drift(i=step.index, start=reference):
            reads.append(i)
            sight = SimpleNamespace(sample=samples[i], samples=[start])
            return decisions.probe(sight)

        step, state = decisions.decide(state, step, drift)
        steps.append(step)
        if not step.skipped:
            reference = samples[step.index]
    return plan.executed(steps, 1), reads


def replay_published(schedule, samples, epsilon=0.1, max_reuse=3):
    """maxdiffusion's SenCache as its loop has it; the indices of reused steps."""
    n, reused = schedule.num_steps, []
    reference, sum_x, sum_t, count = None, 0.0, 0.0, 0
    for i in range(n):
        t = schedule.timesteps[i] / 1000
        boundary = i > 0 and schedule.experts[i] != schedule.experts[i - 1]
        if i >= max(1, int(n * 0.3)) and i < int(n * (1 - 0.1)) and not boundary:
            sum_x += np.sqrt(np.mean((samples[i] - reference[0]) ** 2))
            sum_t += abs(t - reference[1])
            if sum_x + sum_t <= epsilon and count < max_reuse:
                reused.append(i)
                count += 1
                continue
        reference, sum_x, sum_t, count = (samples[i], t), 0.0, 0.0, 0
    return reused


def replay_calibrated(schedule, samples, sensitivities, epsilon, max_reuse):
    """The paper's rule: distances from the reference, weighted by what was measured there."""
    n, reused, reference = schedule.num_steps, [], None
    for i in range(n):
        open_ = int(n * 0.3) <= i < int(n * 0.9) and i not in (0, schedule.boundary_step)
        if open_ and i - reference <= max_reuse:
            near = np.argmin(
                [abs(t - schedule.timesteps[reference]) for t in sensitivities.timesteps]
            )
            dx = np.sqrt(np.mean((samples[i] - samples[reference]) ** 2))
            dt = (schedule.timesteps[reference] - schedule.timesteps[i]) / 1000
            change = sensitivities.alpha_x[near] * dx + sensitivities.alpha_t[near] * dt
            if change <= epsilon:
                reused.append(i)
                continue
        reference = i
    return reused


def trajectory(schedule, seed, size=1.2):
    """Samples moving along a slowly turning velocity of root mean square `size`."""
    rng = np.random.default_rng(seed)
    sigmas = np.array(schedule.sigmas)
    velocity, samples = rng.normal(size=50), [rng.normal(size=50)]
    for step in np.diff(sigmas):
        velocity = 0.95 * velocity + 0.3 * rng.normal(size=50)
        samples.append(samples[-1] + step * size * velocity / np.sqrt(np.mean(velocity**2)))
    return np.stack(samples)


@pytest.mark.parametrize("seed", range(5))
def test_published_rule_against_a_second_implementation(seed):
    for schedule in (*schedules(), *schedules(17)):
        for size in (0.3, 1.0, 1.4):
            samples = trajectory(schedule, seed, size)
            executed, reads = decide_all(SenCache().plan(schedule), samples)
            assert list(executed.skipped_steps) == replay_published(schedule, samples)
            assert len(reads) == len(set(reads))  # one a step at most


def test_published_counts():
    """Straight lines of the speeds that real velocities have: 14 to 16 skips, 12 or 13."""
    counts = []
    for schedule in schedules()[:2]:
        for speed in (1.0, 1.4):
            samples = -np.array(schedule.sigmas)[:, None] * speed
            counts.append(len(decide_all(SenCache().plan(schedule), samples)[0].skipped_steps))
    assert counts == [16, 14, 13, 12]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("max_reuse", [1, 3, 9])
def test_calibrated_rule_against_a_second_implementation(seed, max_reuse):
    rng = np.random.default_rng(seed)
    for schedule in schedules():
        measured = Sensitivities(
            np.array(schedule.timesteps[::3], float), *rng.uniform(0.2, 2, (2, 14))
        )
        samples = trajectory(schedule, seed)
        for epsilon in (0.03, 0.1, 0.4):
            method = SenCache(epsilon, max_reuse, sensitivities=measured)
            executed, _ = decide_all(method.plan(schedule), samples)
            expected = replay_calibrated(schedule, samples, measured, epsilon, max_reuse)
            assert list(executed.skipped_steps) == expected


def test_a_run_decides_from_its_own_samples():
    """In the loop: decisions as replayed on the run's samples, and outputs really reused."""
    schedule = make_schedule(20, 5.0, 4.0, 3.0, 0.9, "euler")
    programs = Programs()
    for seed, gain in ((0, 0.3), (1, 0.1)):
        plan = SenCache(epsilon=0.3).plan(schedule)
        samples, executed = run_fake(plan, gain=gain, seed=seed, sampler="euler", programs=programs)
        reused = replay_published(schedule, samples, epsilon=0.3)
        assert reused
        assert list(executed.skipped_steps) == reused
        sigmas = np.array(schedule.sigmas)[:, None, None, None, None]
        velocities = np.diff(samples, axis=0) / np.diff(sigmas, axis=0)
        for i in reused:
            np.testing.assert_allclose(velocities[i], velocities[i - 1], atol=1e-4)
    assert len(programs) == 3  # computed step, reused step, distance


def test_plan_before_and_after_the_run():
    plan = SenCache(start=0.5).plan(make_schedule(10, 5.0, 4.0, 3.0, 0.9))
    assert plan.boundary_step == 4
    assert plan.open_steps == (5, 6, 7, 8)
    assert plan.strip() == "####|#????#"
    facts = plan.to_dict()
    assert (facts["decided"], facts["computed"], facts["skipped"]) == ("during the run", 10, 0)
    assert "4 to be decided during the run" in plan.summary()
    executed, _ = decide_all(plan, np.zeros((11, 3)))
    facts = executed.to_dict()
    assert (facts["method"], facts["decided"]) == ("sen_cache", "during the run")
    assert facts["settings"]["start"] == 0.5
    assert executed.ideal_speedup == 10 / (10 - len(executed.skipped_steps)) > 1
    assert executed.open_steps == ()
    assert executed.decisions is None  # the executed plan can be run again as it is


def test_what_every_plan_computes():
    """Even where nothing moves and every share is open."""
    for schedule in schedules(9):
        plan = SenCache(max_reuse=100, start=0.0, end=1.0).plan(schedule)
        executed, _ = decide_all(plan, np.zeros((10, 3)))
        always = {0, 8, *(phase.start for phase in schedule.phases)}
        timed = SenCache(9.0, 100, 0.0, 1.0, [0.0, 0.0]).plan(schedule)
        assert set(decide_all(timed, np.zeros((10, 3)))[0].skipped_steps) == {*range(9)} - always
        assert not always & set(executed.skipped_steps)


def test_without_guidance():
    plan = SenCache().plan(make_schedule(40, 5.0, 1.0))
    executed, _ = decide_all(plan, np.zeros((41, 3)))
    assert executed.steps[executed.skipped_steps[0]].names == ("reuse_output",)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"epsilon": 0}, "sen_cache_epsilon=0: must be above 0"),
        ({"max_reuse": 0}, "sen_cache_max_reuse=0: must be at least 1"),
        ({"start": -0.1}, "sen_cache_start=-0.1: must be at least 0, at most 1"),
        ({"end": 1.1}, "sen_cache_end=1.1: must be at least 0, at most 1"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_settings_out_of_range(settings, text):
    with pytest.raises(UsageError, match=text):
        SenCache(**settings)


@pytest.mark.parametrize("settings", [{"start": 0.9}, {"end": 0.2}])
def test_refused_with_the_reason(settings):
    with pytest.raises(UsageError, match="use_sen_cache: no step of 40 may be reused"):
        SenCache(**settings).plan(schedules()[0])
    with pytest.raises(UsageError, match="use_sen_cache: no step of 2"):
        SenCache().plan(make_schedule(2, 5.0, 5.0))


# calibration ---------------------------------------------------------------------------


def test_measured_changes_of_a_known_model():
    """v = a x + b t + c: each sensitivity follows from its own coefficient."""
    a, b = 0.3, 0.4
    plan = dense_plan(make_schedule(8, 5.0, 4.0, 4.0, 0.9))
    boundary, changes = plan.boundary_step, []
    samples, _ = run_fake(
        plan, gain=a, drive=b, contexts=(0.2, 0.5), measures=("output",),
        on_step=lambda report: changes.append(np.array(report.changes["output"])),
    )  # fmt: skip
    changes = np.stack(changes)
    times = np.array(plan.schedule.timesteps)
    context = 0.5 + 4 * (0.2 - 0.5)
    assert changes.shape == (8, 1, 3)
    for i in set(range(1, 8)) - {boundary}:
        size = rms(a * samples[i - 1] + b * times[i - 1] / 1000 + context)
        moved, passed = rms(samples[i] - samples[i - 1]), (times[i - 1] - times[i]) / 1000
        expected = (a * moved / size, moved, b * passed / size)
        np.testing.assert_allclose(changes[i, 0], expected, rtol=2e-3)
    found = Sensitivities(**average_sensitivities([changes.mean(axis=1)], plan.schedule))
    outputs = a * samples[:8] + b * times.reshape(-1, 1, 1, 1, 1) / 1000 + context
    sizes = np.sqrt(np.square(outputs).mean(axis=(1, 2, 3, 4)))
    steps = [i for i in range(8) if i not in (boundary - 1, 7)]  # those take the one before
    np.testing.assert_allclose(found.alpha_x[steps], a / sizes[steps], rtol=2e-3)
    np.testing.assert_allclose(found.alpha_t[steps], b / sizes[steps], rtol=2e-3)
    assert found.alpha_x[7] == found.alpha_x[6]


def rms(x):
    return np.sqrt(np.mean(np.square(x)))


def test_an_expert_of_one_step_has_no_sensitivity():
    schedule = make_schedule(8, 5.0, 4.0, 4.0, 0.999)
    assert schedule.boundary_step == 1
    with pytest.raises(UsageError, match="one step alone"):
        average_sensitivities([np.ones((8, 3))], schedule)


def test_file(tmp_path):
    path = tmp_path / "s.json"
    made = Sensitivities(
        *np.array([[999, 500], [1, 2], [0.5, 0.25]]), {"model": "small", "height": 64}
    )
    made.save(path)
    read = Sensitivities.load(path)
    for field in dataclasses.fields(made):
        np.testing.assert_array_equal(getattr(read, field.name), getattr(made, field.name))
    assert read.at(700.0) == (2.0, 0.25)
    assert read.at(800.0) == (1.0, 0.5)
    run = {"model": "small", "height": 32}
    plan = SenCache(sensitivities=str(path)).plan(schedules()[2], run)
    assert plan.warnings == (
        "the sensitivities were measured otherwise: height 32 (sensitivities: 64)",
    )
    assert plan.settings["sensitivities"] == str(path)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"format": "mine"}, "format='mine': must be 'wanjax-sensitivities'"),
        ({"format": "wanjax-curve"}, "ratios is missing"),
        ({"version": 9}, "version=9 is not known"),
        ({"alpha_x": [1]}, "alpha_x must have a number for each"),
        ({"alpha_t": None}, "alpha_t=None: must be a list"),
        ({"alpha_t": [1, -1]}, r"alpha_t\[1\]=-1: must be at least 0"),
        ({"alpha_t": [[1], [1]]}, r"alpha_t\[0\]=\[1\]: must be a number"),
        ({"timesteps": []}, r"timesteps=\[\]: must have a length of at least 1"),
        ({"timesteps": [500, 999]}, "timesteps must fall"),
        ({"timesteps": [1001, 999]}, r"timesteps\[0\]=1001: must be at most 1000"),
        ({"height": -64}, "about: height=-64: must be at least 1"),
        ({"colour": "red"}, "about: unknown field colour"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_mistakes_in_a_file(changes, text, tmp_path):
    path = tmp_path / "s.json"
    Sensitivities(*np.array([[999, 500], [1, 2], [0.5, 0.25]])).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(SensitivityError, match=text) as caught:
        SenCache(sensitivities=path).plan(schedules()[0])
    assert str(path) in str(caught.value)


def test_no_such_file_or_a_wrong_list():
    with pytest.raises(SensitivityError, match=r"no\.json: no such file"):
        Sensitivities.load("no.json")
    with pytest.raises(UsageError, match=r"a list is \[alpha_x, alpha_t\]"):
        SenCache(sensitivities=[1, 2, 3]).plan(schedules()[0])
