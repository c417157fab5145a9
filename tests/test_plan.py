"""The plan: schedules, phases, and what a plan refuses."""

import pytest

from wanjax.caching import dense_plan, make_plan
from wanjax.caching.actions import COMPUTE, PASS, REUSE, REUSE_OUTPUT, Action, Keeps, predict
from wanjax.errors import PlanError
from wanjax.planning.schedule import make_schedule


def two_experts(steps=40, high=4.0, low=3.0):
    return make_schedule(steps, 12.0, high, low, boundary_ratio=0.875)


def test_official_boundaries():
    assert two_experts().boundary_step == 26
    assert make_schedule(40, 5.0, 3.5, 3.5, boundary_ratio=0.9).boundary_step == 15
    assert make_schedule(50, 5.0, 5.0).boundary_step is None


@pytest.mark.parametrize("sampler", ["unipc", "euler"])
@pytest.mark.parametrize("steps", [1, 2, 3, 40])
def test_experts_follow_the_timestep(steps, sampler):
    schedule = make_schedule(steps, 12.0, 4.0, 3.0, 0.875, sampler)
    assert [t < 875 for t in schedule.timesteps] == [e == 1 for e in schedule.experts]
    assert [i for phase in schedule.phases for i in phase] == list(range(steps))
    assert {4.0: 0, 3.0: 1}[schedule.guidance_scales[-1]] == schedule.experts[-1]


def test_guidance_of_one_or_less_has_one_branch():
    schedule = two_experts(high=1.0)
    assert [schedule.num_branches(i) for i in (0, 25, 26, 39)] == [1, 1, 2, 2]
    assert dense_plan(schedule).steps[0].actions == (COMPUTE,)


def test_dense_plan():
    plan = dense_plan(two_experts())
    facts = plan.to_dict()
    assert plan.ideal_speedup == 1
    assert (facts["computed"], facts["skipped"], facts["skipped_steps"]) == (40, 0, [])
    assert facts["boundary_step"] == 26
    assert facts["experts"] == ["high"] * 26 + ["low"] * 14
    assert facts["timesteps"][:2] == [999, 997]
    assert plan.strip() == "#" * 26 + "|" + "#" * 14


def test_speedup_counts_branches():
    """Step 1 of 3 reuses both of two branches, step 2 runs one of two: 6 evaluations, 3 made."""
    schedule = make_schedule(3, 5.0, 5.0)
    plan = make_plan(schedule, [(COMPUTE, COMPUTE), (REUSE, REUSE), (COMPUTE, REUSE)], "by hand")
    assert plan.ideal_speedup == 2
    assert plan.skipped_steps == (1,)
    assert plan.strip() == "#.+"


@pytest.mark.parametrize(
    ("skipped", "text"),
    [
        (0, "step 0 would reuse"),  # nothing to reuse yet
        (26, "step 26 would reuse"),  # the residual does not cross the boundary
    ],
)
def test_reuse_needs_a_residual_of_the_same_expert(skipped, text):
    actions = [(COMPUTE, COMPUTE)] * 40
    actions[skipped] = (REUSE, REUSE)
    with pytest.raises(PlanError, match=text):
        make_plan(two_experts(), actions)


def test_wrong_number_of_steps_or_branches():
    with pytest.raises(PlanError, match="40 steps need as many"):
        make_plan(two_experts(), [(COMPUTE, COMPUTE)] * 39)
    with pytest.raises(PlanError, match="has 2 guidance branches"):
        make_plan(two_experts(), [(COMPUTE,)] * 40)


LINEAR = Action("forecast", "output", (2.0, -1.0))


@pytest.mark.parametrize(
    ("actions", "text"),
    [
        ([COMPUTE, LINEAR, COMPUTE], "step 1 would forecast .* from 2 computed"),
        ([COMPUTE, COMPUTE, (COMPUTE, REUSE_OUTPUT)], "stands for both branches"),
        ([COMPUTE, COMPUTE, (predict(1, 1), COMPUTE)], "only the unconditional branch"),
        ([PASS, COMPUTE, COMPUTE], "step 0 cannot be passed"),
        ([COMPUTE, (COMPUTE, PASS), COMPUTE], "step 1 cannot be passed: .* a branch acts"),
        ([COMPUTE, (REUSE, COMPUTE), LINEAR], "step 2 would forecast .* expert has made 1"),
    ],
    ids=[
        "too short a history",
        "half an output",
        "the wrong branch",
        "nothing before",
        "half a step passed",
        "a step made in part",
    ],
)
def test_what_cannot_be_carried_out(actions, text):
    both = [a if isinstance(a, tuple) else (a, a) for a in actions]
    with pytest.raises(PlanError, match=text):
        make_plan(make_schedule(3, 5.0, 5.0), both)


def test_a_plan_keeps_what_its_estimates_look_at():
    schedule = make_schedule(4, 5.0, 5.0)

    def keeps(*actions):
        return make_plan(schedule, [(COMPUTE,) * 2, (COMPUTE,) * 2, *actions]).keeps

    assert keeps((COMPUTE,) * 2, (COMPUTE,) * 2) == Keeps()
    assert keeps((REUSE,) * 2, (LINEAR,) * 2) == Keeps(residuals=1, outputs=2)
    assert keeps((COMPUTE, predict(1, 1)), (COMPUTE,) * 2) == Keeps(branches=1)
    assert keeps((Action("move", "offset", (1.0,)),) * 2, (COMPUTE,) * 2) == Keeps(0, 1, 1)
