"""MagCache: published plans, the rules' properties, settings, budgets."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

from wanjax.caching import Curve, MagCache, ratios_for, shipped_curves
from wanjax.caching.actions import Keeps
from wanjax.caching.methods.budget import SIGMA_POWER
from wanjax.caching.methods.magcache_rules import accumulated_errors, forced_steps
from wanjax.errors import UsageError
from wanjax.planning.schedule import make_schedule

T2V = [5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 23, 24, 28, 29, 31, 33]
I2V = [3, 4, 6, 7, 9, 10, 12, 13, 20, 21, 23, 24, 26, 27, 29, 31, 33]
OFFICIAL_T2V = [step for step in T2V if step != 28]


def calibration_schedule(name, steps=None, guidance=5.0):
    curve = Curve.load(name)
    return make_schedule(
        steps or curve.steps, curve.flow_shift, guidance, boundary_ratio=curve.boundary_ratio
    )


def plan(name, steps=None, guidance=5.0, image=False, **settings):
    method = MagCache(mag_ratios_base=name, **settings)
    return method.plan(calibration_schedule(name, steps, guidance), {"image": image})


def test_published_plans():
    """The plans that maxdiffusion's README counts as 18 and 17 of 40."""
    assert list(plan("wan2.2-t2v-a14b").skipped_steps) == T2V
    assert list(plan("wan2.2-i2v-a14b", thresh=0.06).skipped_steps) == I2V
    assert plan("wan2.2-t2v-a14b").ideal_speedup == pytest.approx(40 / 22)


@pytest.mark.parametrize(("steps", "skipped"), [(20, 10), (30, 14), (50, 23)])
def test_nearest_counts_at_other_lengths(steps, skipped):
    """maxdiffusion's counts for T2V-A14B, replayed with its own functions."""
    made = plan("wan2.2-t2v-a14b", steps, resample="nearest")
    assert len(made.skipped_steps) == skipped


@pytest.mark.parametrize(
    ("name", "thresh", "K", "retention", "skipped"),
    [
        ("wan2.1-t2v-1.3b", 0.12, 2, 0.2, 25),
        ("wan2.1-t2v-1.3b", 0.12, 4, 0.2, 29),
        ("wan2.1-t2v-14b", 0.24, 6, 0.2, 32),
        ("wan2.1-t2v-14b", 0.12, 4, 0.2, 29),
        ("wan2.1-t2v-14b", 0.06, 2, 0.2, 22),
        ("wan2.1-i2v-14b-480p", 0.24, 6, 0.2, 25),
        ("wan2.1-i2v-14b-480p", 0.12, 4, 0.2, 23),
        ("wan2.1-i2v-14b-720p", 0.24, 6, 0.2, 26),
        ("wan2.2-ti2v-5b-t2v", 0.06, 2, 0.2, 25),
        ("wan2.2-ti2v-5b-i2v", 0.06, 2, 0.2, 24),
        ("wan2.2-t2v-a14b", 0.06, 2, 0.4, 14),
    ],
)
def test_official_counts(name, thresh, K, retention, skipped):  # noqa: N803
    """Counts of the authors' presets; where theirs skips the last step, ours computes it."""
    made = plan(name, thresh=thresh, K=K, retention_ratio=retention, rule="official")
    refused = sum("every plan computes" in warning for warning in made.warnings)
    assert len(made.skipped_steps) + refused == skipped


def test_official_plans_of_two_experts():
    made = plan("wan2.2-t2v-a14b", rule="official")
    assert list(made.skipped_steps) == OFFICIAL_T2V
    # image to video: the high-noise expert is never cached, and the branches may differ
    made = plan("wan2.2-i2v-a14b", thresh=0.06, retention_ratio=0.1, rule="official", image=True)
    branches = zip(*(step.names for step in made.steps), strict=True)
    assert [branch.count("reuse") for branch in branches] == [10, 11]
    assert min(made.skipped_steps) > made.boundary_step


def replay(ratios, phases, thresh, K, retention):  # noqa: N803
    """The per-phase rule once more, in the words of design and paper."""
    skipped = []
    for phase in phases:
        forced = max(1, int(len(phase) * retention))
        rho, error, streak = [1.0, 1.0], [0.0, 0.0], 0
        for i in list(phase)[forced:]:
            rho = [a * b for a, b in zip(rho, ratios[i], strict=True)]
            error = [e + abs(1 - r) for e, r in zip(error, rho, strict=True)]
            if max(error) < thresh and streak < K and i != phases[-1][-1]:
                skipped.append(i)
                streak += 1
            else:
                rho, error, streak = [1.0, 1.0], [0.0, 0.0], 0
    return skipped


@pytest.mark.parametrize("name", shipped_curves())
@pytest.mark.parametrize("retention", [0, 0.1, 0.2, 0.5])
def test_rule_against_a_second_implementation(name, retention):
    schedule = calibration_schedule(name)
    ratios = Curve.load(name).ratios.tolist()
    for thresh, K in itertools.product((0, 0.01, 0.04, 0.12, 0.5, 9), (0, 1, 2, 6, 50)):  # noqa: N806
        made = plan(name, thresh=thresh, K=K, retention_ratio=retention)
        assert list(made.skipped_steps) == replay(ratios, schedule.phases, thresh, K, retention)


@pytest.mark.parametrize("rule", ["per_phase", "official"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 10, 33, 40, 77])
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_what_every_plan_computes(steps, guidance, rule):
    """Also a regression test: with 2 to 4 steps others skip before any residual exists."""
    for name in ("wan2.2-t2v-a14b", "wan2.1-t2v-14b"):
        made = plan(
            name, steps, guidance, thresh=9.0, K=3, retention_ratio=0, rule=rule,
            resample="nearest" if rule == "official" else "noise_level",
        )  # fmt: skip
        always = {0, steps - 1, *(phase.start for phase in made.schedule.phases)}
        assert not always & set(made.skipped_steps)
        streaks = [len(list(group)) for skip, group in groupby_skipped(made) if skip]
        assert max(streaks, default=0) <= 3


def groupby_skipped(made):
    return itertools.groupby(made.steps, key=lambda step: step.skipped)


@pytest.mark.parametrize("name", shipped_curves())
def test_a_higher_threshold_never_computes_more(name):
    for K in (1, 2, 4, 8):  # noqa: N806
        counts = [
            len(plan(name, thresh=thresh, K=K).skipped_steps)
            for thresh in (0, 0.01, 0.02, 0.04, 0.06, 0.12, 0.24, 0.5)
        ]
        assert counts == sorted(counts), K


@pytest.mark.parametrize("name", shipped_curves())
def test_a_higher_limit_in_a_row_never_computes_more(name):
    for thresh in (0.02, 0.04, 0.06, 0.12, 0.24):
        counts = [len(plan(name, thresh=thresh, K=K).skipped_steps) for K in (0, 1, 2, 3, 4, 6)]
        assert counts == sorted(counts), thresh


def test_settings_that_compute_everything():
    for settings in ({"thresh": 0.0}, {"K": 0}, {"retention_ratio": 1.0}):
        assert plan("wan2.2-t2v-a14b", **settings).skipped_steps == ()


def test_without_guidance_the_conditional_ratios_decide():
    ratios = np.full((10, 2), (1.0, 0.5))
    ratios[0] = 1
    method = MagCache(mag_ratios_base=Curve(ratios), K=9, retention_ratio=0)
    guided = method.plan(make_schedule(10, 5.0, 5.0))
    unguided = method.plan(make_schedule(10, 5.0, 1.0))
    assert guided.skipped_steps == ()
    assert unguided.skipped_steps == tuple(range(1, 9))
    assert unguided.steps[1].names == ("reuse",)


def test_guidance_in_one_phase_alone():
    schedule = make_schedule(40, 12.0, 1.0, 3.0, 0.875)
    made = MagCache(mag_ratios_base="wan2.2-t2v-a14b").plan(schedule)
    assert {len(step.actions) for step in made.steps[:26]} == {1}
    assert {len(step.actions) for step in made.steps[26:]} == {2}
    assert list(made.skipped_steps) == T2V


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"thresh": -1}, "magcache_thresh=-1: must be at least 0"),
        ({"K": -1}, "magcache_K=-1: must be at least 0"),
        ({"K": 1.5}, "magcache_K=1.5: must be a whole number"),
        ({"retention_ratio": 1.5}, "retention_ratio=1.5: must be at least 0, at most 1"),
        ({"rule": "both"}, "magcache_rule=both: must be per_phase or official"),
        ({"resample": "cubic"}, "magcache_resample=cubic: must be noise_level or nearest"),
        ({"skip_steps": 3, "target_speedup": 2}, "exclude one another"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_settings_out_of_range(settings, text):
    with pytest.raises(UsageError, match=text):
        MagCache(**settings)


def test_no_curve():
    with pytest.raises(UsageError, match="wanjax calibrate"):
        MagCache().plan(make_schedule(40, 5.0, 5.0))


def test_accumulated_errors_explain_the_plan():
    """Skipped steps lie below the threshold; computed ones reached it or K, or are forced."""
    made = plan("wan2.2-t2v-a14b")
    ratios = ratios_for(Curve.load("wan2.2-t2v-a14b"), made.schedule)
    skipped = np.array([step.skipped for step in made.steps])
    errors = accumulated_errors(ratios, made.schedule, skipped[:, None].repeat(2, 1)).max(axis=1)
    assert (errors[skipped] < 0.04).all()
    forced = forced_steps(made.schedule, 0.2)
    in_a_row = np.array([skipped[max(0, i - 2) : i].sum() for i in range(40)])
    assert (forced | skipped | (errors >= 0.04) | (in_a_row == 2)).all()


def total_error(ratios, angles, sigmas, skipped, K):  # noqa: N803
    """Of all skipped steps, with the residuals as points of a plane: one spiral per branch."""
    residuals = np.exp(np.cumsum(np.log(ratios) + 1j * angles, axis=0))
    total, computed = 0.0, 0
    for i in range(len(ratios)):
        if i not in skipped:
            computed = i
        if i - computed > K:
            return np.inf
        errors = np.abs(residuals[i] - residuals[computed]) / np.abs(residuals[computed])
        total += errors.mean() * (sigmas[i] - sigmas[i + 1]) ** SIGMA_POWER
    return total


@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize("K", [1, 2, 5])
def test_budget_is_optimal(K, turns):  # noqa: N803
    """No other way to skip as many of the allowed steps has less error."""
    rng = np.random.default_rng(0)
    ratios = np.concatenate([np.ones((1, 2)), rng.uniform(0.9, 1.05, (11, 2))])
    angles = rng.uniform(0, 0.2 if turns else 0, (12, 2))
    curve = Curve(ratios, cosine_distance=1 - np.cos(angles) if turns else None)
    schedule = make_schedule(12, 5.0, 5.0)
    allowed = np.flatnonzero(~forced_steps(schedule, 0.2))
    for count in range(0, 6):
        ways = itertools.combinations(allowed, count)
        least = min(total_error(ratios, angles, schedule.sigmas, way, K) for way in ways)
        method = MagCache(K=K, mag_ratios_base=curve, skip_steps=count)
        skipped = method.plan(schedule).skipped_steps
        assert len(skipped) == count
        assert total_error(ratios, angles, schedule.sigmas, skipped, K) == pytest.approx(least)


def test_budget_meets_its_target_at_least_cost():
    made = plan("wan2.2-t2v-a14b", target_speedup=1.8)
    assert made.ideal_speedup >= 1.8
    assert len(made.skipped_steps) == 18
    fewer = plan("wan2.2-t2v-a14b", skip_steps=17)
    assert fewer.ideal_speedup < 1.8
    assert plan("wan2.2-t2v-a14b", target_speedup=1.0).skipped_steps == ()


def test_budget_counts_branches_where_one_phase_has_no_guidance():
    schedule = make_schedule(40, 12.0, 1.0, 3.0, 0.875)
    method = MagCache(mag_ratios_base="wan2.2-t2v-a14b", target_speedup=1.5)
    assert method.plan(schedule).ideal_speedup >= 1.5


@pytest.mark.parametrize(
    "settings", [{"skip_steps": 23}, {"target_speedup": 2.3}, {"skip_steps": 1, "K": 0}]
)
def test_budget_beyond_reach_names_the_most(settings):
    with pytest.raises(UsageError, match=r"at most (22|2\.22|0) with magcache_K"):
        plan("wan2.2-t2v-a14b", **settings)


def made_up_curve(steps, seed=0):
    ratios = 1 - 0.02 * np.random.default_rng(seed).random(2 * steps) ** 3
    return [1.0, 1.0, *ratios[2:].round(5).tolist()]


@pytest.mark.parametrize("seed", range(8))
def test_looking_at_short_runs_first_changes_no_plan(seed, monkeypatch):
    schedule = make_schedule(40, 3.0 + seed, 4.0, (1.0, 3.0)[seed % 2], 0.875)
    settings = {"K": 30, "target_speedup": 1.5 + seed / 5, "retention_ratio": 0.05}
    method = MagCache(mag_ratios_base=made_up_curve(40, seed), **settings)
    found = []
    for short in (1, 8, 30):
        monkeypatch.setattr("wanjax.caching.methods.budget._SHORT", short)
        found.append(method.plan(schedule).skipped_steps)
    assert found[0] == found[1] == found[2]


@pytest.mark.slow
def test_a_thousand_steps_are_planned_within_two_seconds():
    """In a process of its own, where annotations are not checked, and by its own time."""
    curve = ",".join(map(str, made_up_curve(1000)))
    done = subprocess.run(
        [sys.executable, "-c", PLANS, curve], capture_output=True, text=True, check=True
    )
    seconds = json.loads(done.stderr)
    assert len(seconds) == 8
    assert max(seconds.values()) < 2, seconds


PLANS = """
import json, sys, time
from wanjax.cli.main import main

assert main(["plan", "tiny-t2v", "use_magcache"]) == 0  # imports what a plan needs
seconds = {}
for K in (1, 4, 50, 999):
    for how in ("target_speedup=1.5", "magcache_thresh=5"):
        keys = [f"mag_ratios_base=[{sys.argv[1]}]", f"magcache_K={K}", how]
        began = time.process_time()
        assert main(["plan", "tiny-t2v", "num_inference_steps=1000", "use_magcache", *keys]) == 0
        seconds[f"{K} {how}"] = time.process_time() - began
print(json.dumps(seconds), file=sys.stderr)
"""


# Forecasting on MagCache's plans ---------------------------------------------------------


@pytest.mark.parametrize("name", ["wan2.2-t2v-a14b", "tiny-t2v"])
def test_the_estimate_leaves_the_plan(name):
    """The same steps; a history of guided outputs in place of every token's residual."""
    repeat, linear, quadratic = (
        plan(name, estimate=estimate) for estimate in ("repeat", "linear", "quadratic")
    )
    assert repeat.strip() == linear.strip() == quadratic.strip()
    assert repeat.keeps == Keeps(residuals=1)
    assert linear.keeps == Keeps(outputs=2)
    assert quadratic.keeps == Keeps(outputs=3)
    # steps 3, 4 compute and 5, 6 are skipped: a line through 4 and 3
    assert linear.steps[5].actions[0].weights == pytest.approx((2, -1))
    assert linear.steps[6].actions[0].weights == pytest.approx((3, -2))
    assert linear.steps[7].correction
    assert not repeat.corrects
    known = name == "tiny-t2v"  # whose outputs were measured
    assert (linear.prediction is not None) == known
    assert repeat.prediction is None


def test_a_forecast_is_of_both_branches():
    settings = {"rule": "official", "retention_ratio": 0.1, "image": True, "thresh": 0.06}
    with pytest.raises(UsageError, match=r"one branch alone in step 17.*magcache_estimate=repeat"):
        plan("wan2.2-i2v-a14b", estimate="linear", **settings)
    alike = plan("wan2.2-t2v-a14b", estimate="linear", rule="official")
    assert list(alike.skipped_steps) == OFFICIAL_T2V


def test_a_matrix_serves_the_budget():
    """Within K and the retention, a plan that is expected to be closer than the threshold's."""
    threshold = plan("tiny-t2v", estimate="linear")
    budget = plan("tiny-t2v", estimate="linear", skip_steps=18)
    assert len(budget.skipped_steps) == len(threshold.skipped_steps) == 18
    assert budget.prediction.error < threshold.prediction.error
    assert set(range(5)).isdisjoint(budget.skipped_steps)
    streaks = [len(list(group)) for skip, group in groupby_skipped(budget) if skip]
    assert max(streaks) == 2
    with pytest.raises(UsageError, match=r"skip_steps=30: at most 2\d with magcache_K=2"):
        plan("tiny-t2v", estimate="linear", skip_steps=30)
