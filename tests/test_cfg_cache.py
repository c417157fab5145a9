"""CFG cache: the published plans, what it predicts, and what it refuses."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from fake_model import run_fake

from wanjax.caching import CFGCache, dense_plan
from wanjax.errors import UsageError
from wanjax.planning.schedule import make_schedule
from wanjax.sampling.predict import predict_unconditional
from wanjax.sampling.programs import Programs


def one_expert(steps, guidance=5.0):
    return make_schedule(steps, 5.0, guidance)


def two_experts(steps, shift=12.0, boundary=0.875, high=4.0, low=3.0):
    return make_schedule(steps, shift, high, low, boundary)


def predicted(plan):
    return [step.index for step in plan.steps if "predict" in step.names]


@pytest.mark.parametrize(
    ("schedule", "height", "count", "speedup"),
    [
        (one_expert(50), 720, 23, 1.30),
        (one_expert(50), 480, 25, 1.33),
        (two_experts(40, 5.0, 0.9), 720, 16, 1.25),
        (two_experts(40), 720, 7, 1.10),
        (two_experts(50, 3.0), 720, 23, 1.30),
    ],
    ids=["2.1 720p", "2.1 480p", "2.2 i2v", "2.2 t2v", "2.2 t2v shift 3"],
)
def test_published_counts(schedule, height, count, speedup):
    """Predicted steps and ceilings of maxdiffusion's rule, counted by running it."""
    plan = CFGCache().plan(schedule, {"height": height})
    assert len(predicted(plan)) == count
    assert plan.ideal_speedup == pytest.approx(speedup, abs=0.005)


def replay(schedule, height):
    """maxdiffusion's rule once more, step by step."""
    n, boundary = schedule.num_steps, schedule.boundary_step
    start = int(n / 3)
    end = int(n * 0.9) if height >= 720 else n - (2 if boundary is None else 1)
    seen_low, found = False, {}
    for s in range(n):
        low = boundary is None or s >= boundary
        if low and seen_low and start <= s < end and (s - start) % 5 != 0:
            first_half = s < n // 2 if boundary is None else False
            found[s] = (1.2, 1.0) if first_half else (1.0, 1.2)
        seen_low = seen_low or low
    return found


@pytest.mark.parametrize("height", [480, 720])
def test_rule_against_a_second_implementation(height):
    for steps, shift in itertools.product((10, 20, 33, 40, 50), (3.0, 5.0, 12.0)):
        for schedule in (make_schedule(steps, shift, 5.0), two_experts(steps, shift)):
            expected = replay(schedule, height)
            if expected:
                plan = CFGCache().plan(schedule, {"height": height})
                weights = {i: plan.steps[i].actions[1].weights for i in predicted(plan)}
                assert weights == expected, (steps, shift)


def test_what_every_plan_computes():
    settings = {"start": 0, "end": 1000, "interval": 1000}
    for schedule in (one_expert(12), two_experts(12, 5.0)):
        plan = CFGCache(**settings).plan(schedule)
        first = schedule.boundary_step or 0
        assert predicted(plan) == list(range(first + 1, 11))
        assert plan.skipped_steps == ()
        assert plan.partial_steps == tuple(predicted(plan))


def test_guidance_in_the_low_noise_phase_alone():
    plan = CFGCache().plan(two_experts(40, high=1.0), {"height": 720})
    assert plan.steps[0].names == ("compute",)
    assert len(predicted(plan)) == 7


@pytest.mark.parametrize(
    ("schedule", "settings", "text"),
    [
        (one_expert(50, guidance=1.0), {}, "guidance_scale=1 guidance is off"),
        (two_experts(40, low=1.0), {}, "guidance_scale_low=1 guidance is off"),
        (two_experts(2), {}, "low-noise expert, which has no step"),
        (one_expert(3), {}, "no step of 3 is left to predict"),
        (one_expert(40), {"start": 30, "end": 20}, "cfg_cache_start is 30, cfg_cache_end 20"),
    ],
    ids=["no guidance", "none in the low phase", "no low phase", "few steps", "empty range"],
)
def test_refused_with_the_reason(schedule, settings, text):
    with pytest.raises(UsageError, match=f"use_cfg_cache: .*{text}"):
        CFGCache(**settings).plan(schedule)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"interval": 1}, "cfg_cache_interval=1: must be at least 2"),
        ({"start": -1}, "cfg_cache_start=-1: must be at least 0"),
        ({"end": 2.5}, "cfg_cache_end=2.5: must be a whole number"),
        ({"weight": -0.5}, "cfg_cache_weight=-0.5: must be at least 0"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_settings_out_of_range(settings, text):
    with pytest.raises(UsageError, match=text):
        CFGCache(**settings)


@pytest.mark.parametrize("size", [(2, 3), (4, 6), (9, 7), (16, 26)])
def test_formula_against_a_direct_one(size):
    """The bands as FasterCache's JAX form has them, over a complete complex transform."""
    rng = np.random.default_rng(0)
    (h, w), (low, high) = size, (1.3, 0.6)
    c, c0, u0 = rng.normal(size=(3, 1, 2, 2, h, w))
    mask = np.zeros((h, w), bool)
    for row, column in itertools.product(range(h), range(w)):
        mirrored = min(column, w - column)  # the half that the real transform keeps
        rows = row < h // 4 or row >= h - h // 4 + 1
        mask[row, column] = rows and mirrored < (w // 2 + 1) // 4
    spectrum = np.fft.fft2(c) + np.fft.fft2(u0 - c0) * np.where(mask, low, high)
    expected = np.fft.ifft2(spectrum).real
    found = predict_unconditional(jnp.array(c), jnp.array([c0, u0]), jnp.array([low, high]))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_constant_difference_is_predicted_exactly():
    """Over steps in a row: others pair the outputs of two steps and drift from the second on."""
    plan = CFGCache(weight=1.0).plan(one_expert(20))
    assert predicted(plan) == [7, 8, 9, 10, 12, 13, 14, 15, 17]
    pattern = np.random.default_rng(1).normal(size=(2, 2, 4, 6))
    runs = [run_fake(p, contexts=(0.2, pattern))[0] for p in (plan, dense_plan(plan.schedule))]
    np.testing.assert_allclose(*runs, atol=2e-5)


def test_weights_reach_the_prediction():
    """A constant is of the lowest frequency: boosting the high ones leaves it as it is."""
    schedule = two_experts(20, 5.0)
    exact, boosted = (
        run_fake(plan, contexts=(0.0, 0.5))[0][-1]
        for plan in (dense_plan(schedule), CFGCache(weight=3.0).plan(schedule))
    )
    np.testing.assert_allclose(boosted, exact, atol=2e-5)
    first_half = CFGCache(weight=3.0, end=10).plan(one_expert(20))
    assert all(first_half.steps[i].actions[1].weights == (3.0, 1.0) for i in predicted(first_half))
    found, expected = (run_fake(p)[0][-1] for p in (first_half, dense_plan(one_expert(20))))
    assert np.abs(found - expected).max() > 0.1


def test_two_programs():
    programs = Programs()
    for steps in (20, 30):
        run_fake(CFGCache().plan(two_experts(steps, 5.0)), programs=programs)
    assert len(programs) == 2
