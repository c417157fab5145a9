"""Forecasting: weights, corrections, plans of least cost, and the loop that carries them out."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from fake_model import run_fake

import wanjax
from wanjax.caching import Curve, dense_plan, make_plan
from wanjax.caching.actions import COMPUTE, PASS, Keeps
from wanjax.caching.estimates import fitted, forecasts, lagrange, passed_on
from wanjax.caching.methods import forecast as forecast_module
from wanjax.caching.methods.forecast_planner import Planner
from wanjax.caching.resample import carried_inner_products
from wanjax.cli.main import main
from wanjax.config.resolve import resolve
from wanjax.errors import CurveError, UsageError
from wanjax.planning.run import prepare
from wanjax.planning.schedule import make_schedule
from wanjax.sampling.programs import Programs
from wanjax.schedulers.unipc import unipc_on


def smooth_outputs(steps, seed=0, count=200):
    """Outputs that change smoothly along the steps, with a little noise."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, steps)[:, None]
    speed, shift = rng.normal(size=(2, count))
    return np.cos(3 * speed * t + shift) + 0.01 * rng.normal(size=(steps, count))


def gram(outputs):
    return outputs @ outputs.T / outputs.shape[1]


# Weights ---------------------------------------------------------------------------------


def test_lagranges_weights_are_exact_on_polynomials():
    nodes = [7, 4, 2]
    for power in range(3):
        values = np.array(nodes, float) ** power
        np.testing.assert_allclose(lagrange(nodes, 9) @ values, 9.0**power)
    np.testing.assert_allclose(lagrange([5, 3], 6), [1.5, -0.5])


def test_fitted_weights_have_the_least_expected_error():
    outputs = smooth_outputs(12, count=4000)
    inner = gram(outputs)

    def error(nodes, weights, i):
        return np.mean((outputs[i] - weights @ outputs[nodes]) ** 2)

    for nodes, i in (([6, 5], 8), ([6, 4, 3], 7), ([9, 5], 7)):
        weights = fitted(inner, nodes, i)
        assert weights.sum() == pytest.approx(1)
        least = error(nodes, weights, i)
        assert least <= error(nodes, lagrange(nodes, i), i)
        for _ in range(20):  # no other weights near by, but for the pull to Lagrange's
            step = np.random.default_rng(0).normal(size=len(nodes)) * 0.05
            assert error(nodes, weights + step - step.mean(), i) > 0.99 * least


@pytest.mark.parametrize("sampler", ["unipc", "euler"])
def test_what_a_change_of_an_output_passes_on(sampler):
    """Against the sampler itself, run twice."""
    schedule = make_schedule(10, 5.0, 1.0, sampler=sampler)
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=10)

    def state_before(k, outputs):
        x, corrected, before, before_that = 1.0, 0.0, 0.0, 0.0
        for i in range(k):
            denoised = x - schedule.sigmas[i] * outputs[i]
            state = (x, corrected, denoised, before, before_that)
            corrected = np.dot(schedule.corrector[i], state)
            x = np.dot(schedule.predictor[i], (corrected, denoised, before))
            before, before_that = denoised, before
        return np.array([x, corrected, before, before_that])

    for i, k in ((2, 3), (2, 6), (5, 9)):
        changed = outputs.copy()
        changed[i] += 1.0
        expected = state_before(k, changed) - state_before(k, outputs)
        np.testing.assert_allclose(passed_on(schedule, i, k), expected, atol=1e-12)


# The planner -----------------------------------------------------------------------------


def cost_of(computed, inner, schedule, order, correct):
    """The cost by its definition: each run's errors added up, then squared."""
    moves, total = -np.diff(schedule.sigmas), 0.0
    for phase in schedule.phases:
        history, run = [], []
        for i in [*phase, phase.stop]:
            if i < phase.stop and not computed[i]:
                run.append(i)
                continue
            if run:
                a = np.zeros(len(inner))
                for r in run:
                    nodes = [i, history[0]] if correct and i < phase.stop else history
                    a[r] += moves[r]
                    a[nodes] -= moves[r] * fitted(inner, nodes, r)
                total += a @ inner @ a
            history, run = [i, *history[:order]], []
    return total


@pytest.mark.parametrize("correct", [True, False], ids=["corrected", "plain"])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("boundary", [None, 0.8])
def test_no_other_plan_that_skips_as_much_costs_less(order, correct, boundary):
    schedule = make_schedule(9, 3.0, 4.0, 4.0, boundary)
    inner = gram(smooth_outputs(9, seed=order))
    ones, free = np.ones(9, int), np.zeros(9, bool)
    planner = Planner(inner, -np.diff(schedule.sigmas), schedule.phases, ones, free, order, correct)
    always = {0, 8, *(phase.start for phase in schedule.phases)}
    for skips in range(1, planner.most + 1):
        found = planner.plan(skips)
        costs = [
            cost_of([i not in way for i in range(9)], inner, schedule, order, correct)
            for way in itertools.combinations(sorted(set(range(9)) - always), skips)
        ]
        assert np.sum(~found.computed) == skips
        assert found.cost == pytest.approx(min(costs), rel=1e-6, abs=1e-15)
        again = cost_of(found.computed, inner, schedule, order, correct)
        assert again == pytest.approx(found.cost, rel=1e-6, abs=1e-15)
        assert planner.cost(found.computed.tolist()) == pytest.approx(found.cost, abs=1e-15)
    assert planner.plan(planner.most + 1 if planner.most < 9 else 9) is None


# The loop --------------------------------------------------------------------------------


def test_a_forecast_of_a_linear_output_is_exact():
    """v = c + d t has no curvature in t; with a sampler of even steps the forecast finds it."""
    schedule = make_schedule(12, 1.0, 1.0, sampler="euler")
    computed = [i in (0, 1, 2, 6, 11) for i in range(12)]
    made = forecasts(schedule, computed, order=1, correct=True)
    plan = make_plan(schedule, made.actions, "mine", corrections=made.corrections)
    settings = {"gain": 0.0, "drive": 1.0, "contexts": (0.2,), "sampler": "euler"}
    exact, _ = run_fake(dense_plan(schedule), **settings)
    cached, _ = run_fake(plan, **settings)
    np.testing.assert_allclose(cached, exact, atol=1e-5)
    repeated = forecasts(schedule, computed, order=0, correct=False)
    coarse, _ = run_fake(make_plan(schedule, repeated.actions), **settings)
    assert np.abs(coarse[-1] - exact[-1]).max() > 1e-2


@pytest.mark.parametrize("sampler", ["unipc", "euler"])
def test_a_correction_is_as_if_the_run_had_been_interpolated(sampler):
    """For outputs that no sample changes: the state is that of a run with the interpolation."""
    schedule = make_schedule(10, 5.0, 1.0, sampler=sampler)
    computed = [i in (0, 1, 2, 6, 9) for i in range(10)]
    made = forecasts(schedule, computed, order=1, correct=True, response=0.0)
    plan = make_plan(schedule, made.actions, corrections=made.corrections)
    samples, _ = run_fake(plan, gain=0.0, drive=2.0, contexts=(0.3,), sampler=sampler)
    # the same by hand: outputs as they are once step 6 is known
    outputs = 2.0 * np.array(schedule.timesteps) / 1000 + 0.3
    for i in (3, 4, 5):
        outputs[i] = lagrange([6, 2], i) @ outputs[[6, 2]]
    x = samples[0].astype(np.float64)
    corrected = before = before_that = np.zeros_like(x)
    for i in range(7):
        denoised = x - schedule.sigmas[i] * outputs[i]
        state = (x, corrected, denoised, before, before_that)
        corrected = sum(w * s for w, s in zip(schedule.corrector[i], state, strict=True))
        parts = (corrected, denoised, before)
        x = sum(w * s for w, s in zip(schedule.predictor[i], parts, strict=True))
        before, before_that = denoised, before
    np.testing.assert_allclose(samples[7], x, atol=1e-4)


def test_the_output_follows_the_correction_of_its_sample():
    schedule = make_schedule(10, 5.0, 1.0)
    computed = [i in (0, 1, 2, 6, 9) for i in range(10)]
    still, moved = (
        forecasts(schedule, computed, order=1, correct=True, response=response).corrections
        for response in (0.0, 0.5)
    )
    outputs = np.random.default_rng(0).normal(size=3)  # of step 6, then of 2 and 1
    for k in (6, 9):
        of_sample, of_output = (np.array(moved[k])[[0, 4]] @ outputs).tolist()
        assert of_output == pytest.approx(0.5 * of_sample / schedule.sigmas[k])
        # and the interpolation is through the output that results
        followed = np.array([outputs[0] + of_output, *outputs[1:]])
        np.testing.assert_allclose(
            np.array(still[k])[:4] @ followed, np.array(moved[k])[:4] @ outputs
        )
        np.testing.assert_array_equal(still[k][4], 0.0)


class CountingPrograms(Programs):
    """Counts the calls of each program by its function's name."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def get(self, function, static, args):
        program = super().get(function, static, args)

        def call(*given):
            self.calls[function.__name__] += 1
            return program(*given)

        return call


def test_skipped_steps_in_a_row_are_one_call():
    schedule = make_schedule(14, 5.0, 4.0, 3.0, 0.9)
    boundary = schedule.boundary_step
    computed = [i in (0, 1, 3, boundary, boundary + 4, 13) for i in range(14)]
    made = forecasts(schedule, computed, order=1, correct=True)
    plan = make_plan(schedule, made.actions, corrections=made.corrections)
    together = [[step.index for step in steps] for steps in plan.runs if steps[0].skipped]
    assert [i for run in together for i in run] == list(plan.skipped_steps)
    assert [boundary - 1 in run and boundary not in run for run in together].count(True) == 1
    assert len(together) == 4
    programs, reports = CountingPrograms(), []
    samples, _ = run_fake(plan, programs=programs, on_step=reports.append)
    assert [report.step.index for report in reports] == list(range(14))
    # the samples between were asked for here: one more call each
    assert programs.calls == {"run_step": 6, "run_skipped": 8}
    # and are those of a run which goes step by step
    one_by_one = replace(plan, decisions=Never())
    expected, _ = run_fake(one_by_one)
    np.testing.assert_allclose(samples, expected, atol=1e-6)


class Never:
    """Decides on nothing, so that each step is a call of its own."""

    keeps = Keeps()

    def probe(self, sight):
        return sight.sample

    def options(self, step):
        return ()

    def start(self):
        return None

    def decide(self, state, step, read):
        return step, state


def test_a_respaced_run_is_one_of_the_sampler_on_these_levels():
    schedule = make_schedule(10, 5.0, 1.0)
    taken = [i in (0, 1, 4, 6, 9) for i in range(10)]
    plan = make_plan(schedule, [(COMPUTE if t else PASS,) for t in taken], "respaced")
    assert plan.strip() == "##..#.#..#"
    assert plan.ideal_speedup == 2
    programs = Programs()
    samples, _ = run_fake(plan, programs=programs, contexts=(0.3,))
    assert len(programs) == 1
    sigmas = np.append(np.array(schedule.sigmas[:-1])[taken], 0.0)
    table = unipc_on(sigmas, np.array(schedule.timesteps)[taken])
    x = samples[0].astype(np.float64)
    corrected = before = before_that = np.zeros_like(x)
    for i, sigma in enumerate(sigmas[:-1]):
        denoised = x - sigma * (0.3 * x + 0.4 * table.timesteps[i] / 1000 + 0.3)
        state = (x, corrected, denoised, before, before_that)
        corrected = sum(w * s for w, s in zip(table.corrector[i], state, strict=True))
        parts = (corrected, denoised, before)
        x = sum(w * s for w, s in zip(table.predictor[i], parts, strict=True))
        before, before_that = denoised, before
    np.testing.assert_allclose(samples[-1], x, atol=1e-5)


def test_two_programs_and_a_cache_of_latents():
    schedule = make_schedule(20, 5.0, 4.0, 3.0, 0.9)
    inner = gram(smooth_outputs(20))
    curve = Curve(
        np.ones((20, 2)), sigmas=np.array(schedule.sigmas), inner_products=inner,
        boundary_ratio=0.9, boundary_step=schedule.boundary_step,
    )  # fmt: skip
    programs = Programs()
    for order in (1, 2):
        plan = wanjax.Forecast(skip_steps=10, order=order, mag_ratios_base=curve).plan(schedule)
        assert plan.keeps._replace(outputs=0) == (0,) * 5  # guided outputs, and nothing else
        assert plan.keeps.outputs == order + 1
        before = len(programs)
        samples, executed = run_fake(plan, programs=programs)
        assert len(programs) - before == 2
        assert np.isfinite(samples).all()
        assert len(executed.skipped_steps) == 10


# The method ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny-t2v", "tiny-i2v"])
def test_plans_of_the_bundled_models(name):
    for speedup in (1.8, 3.0, 4.0):
        run = prepare(resolve([name, "use_forecast=True", f"target_speedup={speedup}"], "plan"))
        assert run.plan.ideal_speedup >= speedup
        assert run.plan.ideal_speedup < speedup + 0.35
        assert 0 not in run.plan.skipped_steps
        assert run.plan.boundary_step not in run.plan.skipped_steps
        assert 39 not in run.plan.skipped_steps
        assert run.plan.prediction.error > 0
    default = prepare(resolve([name, "use_forecast=True"], "plan"))
    assert default.plan.ideal_speedup >= 3


@pytest.mark.slow
def test_the_predicted_error_grows_with_what_is_skipped():
    errors = [
        prepare(resolve(["tiny-t2v", "use_forecast=True", f"skip_steps={n}"], "plan"))
        .plan.prediction.error
        for n in (4, 10, 18, 27, 32)
    ]  # fmt: skip
    assert errors == sorted(errors)


def test_the_matrix_is_carried_in_noise_level():
    curve = Curve.load("tiny-t2v")
    own = prepare(resolve(["tiny-t2v"], "plan")).schedule
    np.testing.assert_array_equal(carried_inner_products(curve, own), curve.inner_products)
    fewer = prepare(resolve(["tiny-t2v", "num_inference_steps=20"], "plan")).schedule
    carried = carried_inner_products(curve, fewer)
    # every second step lies beside a calibrated one: about the same size
    sizes = np.sqrt(carried.diagonal()), np.sqrt(curve.inner_products.diagonal())[::2]
    np.testing.assert_allclose(*sizes, rtol=0.05)
    with pytest.raises(CurveError, match="noise levels"):
        prepare(resolve(["tiny-t2v", "use_forecast=True", "flow_shift=1"], "plan"))


@pytest.mark.parametrize("name", ["tiny-t2v", "tiny-i2v"])
def test_respaced_takes_the_steps_that_forecast_computes(name):
    keys = ("skip_steps=27", "forecast_order=1")
    forecast = prepare(resolve([name, "use_forecast=True", *keys], "plan"))
    respaced = prepare(resolve([name, "use_respaced=True", *keys], "plan"))
    assert respaced.plan.strip() == forecast.plan.strip()
    assert respaced.plan.method == "respaced"
    assert respaced.plan.prediction is None
    assert not any(respaced.plan.keeps)
    passed = list(respaced.plan.skipped_steps)
    assert not respaced.table.predictor[passed].any()
    assert not np.array_equal(respaced.table.predictor, forecast.table.predictor)


def test_what_a_plan_is_expected_to_cost(capsys):
    assert main(["plan", "tiny-t2v", "use_forecast=True", "json=True"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["predicted_error"] > 0
    assert told["expected_psnr"] == pytest.approx(45, abs=2)  # measured at 3.08x
    assert main(["plan", "tiny-t2v", "use_forecast=True"]) == 0
    text = capsys.readouterr().out
    assert f"error      {told['predicted_error']:.3g} from dense in the final latents" in text
    assert f"about {told['expected_psnr']:.0f} dB of PSNR" in text
    assert main(["plan", "wan2.2-t2v-a14b", "use_magcache=True", "json=True"]) == 0
    unknown = json.loads(capsys.readouterr().out)  # nobody measured its outputs
    assert (unknown["predicted_error"], unknown["expected_psnr"]) == (None, None)


def test_the_psnr_that_an_error_comes_to():
    curve = Curve(np.ones((2, 2)), psnr_line=(3.0, 0.5))
    assert curve.prediction(1e-4) == pytest.approx((0.01, 3 + 0.5 * 40))
    assert Curve(np.ones((2, 2))).prediction(1e-4).psnr is None


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"target_speedup": 99}, "target_speedup=99: at most 13"),
        ({"skip_steps": 38}, "skip_steps=38: at most 37"),
        ({"skip_steps": 3, "target_speedup": 2}, "exclude one another"),
        ({"order": 3}, "forecast_order=3: must be 1 or 2 or auto"),
        ({"mag_ratios_base": "wan2.2-t2v-a14b"}, "no inner products"),
        ({"mag_ratios_base": None}, "has no calibration; measure one"),
    ],
)
def test_refused_with_the_reason(settings, text, unchecked_types):
    config = resolve(["tiny-t2v"], "plan")
    with pytest.raises(UsageError, match=text):
        wanjax.Forecast(**({"mag_ratios_base": "tiny-t2v"} | settings)).plan(
            prepare(config).schedule
        )


@pytest.mark.parametrize("order", [1, 2])
def test_two_hundred_steps_are_planned_in_seconds(order):
    schedule = make_schedule(200, 12.0, 4.0, 3.0, 0.875)
    inner, moves = gram(smooth_outputs(200, seed=order)), -np.diff(schedule.sigmas)
    ones, free = np.ones(200, int), np.zeros(200, bool)
    began = time.process_time()
    planner = Planner(inner, moves, schedule.phases, ones, free, order)
    found = planner.least(133)
    assert time.process_time() - began < 5  # a fifth of a second, and slow machines
    assert np.sum(~found.computed) == 133
    # no plan that has two neighbours the other way round costs less
    for i in np.flatnonzero(found.computed[1:-1] != found.computed[2:]) + 1:
        other = found.computed.copy()
        other[[i, i + 1]] = other[[i + 1, i]]
        if other[[phase.start for phase in schedule.phases]].all() and other[-1]:
            assert planner.cost(other.tolist()) >= found.cost * (1 - 1e-9)


@pytest.mark.parametrize(
    ("settings", "steps", "fix"),
    [
        ({"order": 2}, 401, "at most 400; take forecast_order=1, or fewer steps"),
        ({"correct": False, "order": 2}, 101, "at most 100; take forecast_correct=True"),
        ({"correct": False}, 201, "at most 200; take forecast_correct=True"),
    ],
)
def test_what_takes_too_long_to_plan_is_refused_at_once(settings, steps, fix):
    method = wanjax.Forecast(mag_ratios_base="tiny-t2v", **settings)
    with pytest.raises(UsageError, match=fix):
        method._orders(steps)
    assert wanjax.Forecast(mag_ratios_base="tiny-t2v")._orders(401) == [1]


def test_a_plan_is_searched_once():
    """A pipeline that is called again plans again: the same plan, without the search."""
    config = resolve(["tiny-t2v", "use_forecast=True", "target_speedup=3.3"], "plan")
    first = prepare(config).plan
    searched = forecast_module._solved.cache_info().misses
    assert prepare(config).plan == first
    assert forecast_module._solved.cache_info().misses == searched
    assert prepare(replace(config, target_speedup=3.4)).plan != first
