"""EasyCache: decisions against a second implementation, in the loop and on stored trajectories."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from fake_model import run_fake

import wanjax
from wanjax.config.resolve import preset_names, resolve
from wanjax.errors import UsageError
from wanjax.planning.run import prepare
from wanjax.planning.schedule import make_schedule
from wanjax.sampling.programs import Programs


class Published:
    """The authors' forward pass around a known model, conditional branch: state as they keep it."""

    def __init__(self, steps: int, thresh: float, start: int):
        self.cutoff, self.thresh, self.start = steps - 1, thresh, start
        self.count, self.error, self.k = 0, 0.0, None
        self.x = self.v = self.x_computed = self.difference = None

    def __call__(self, x, model):
        """The output, and whether the model ran."""
        compute = True
        if self.count < self.start or self.count >= self.cutoff:
            self.error = 0.0
        elif self.k is not None:
            moved = np.abs(x - self.x).mean()
            self.error += self.k * moved / np.abs(self.v).mean()
            compute = not self.error < self.thresh
            if compute:
                self.error = 0.0
        self.x, self.count = x, self.count + 1
        if not compute:
            return x + self.difference, False
        v = model(x)
        if self.v is not None:
            self.k = np.abs(v - self.v).mean() / np.abs(x - self.x_computed).mean()
        self.v, self.x_computed, self.difference = v, x, v - x
        return v, True


@pytest.mark.parametrize(
    ("schedule", "thresh", "start"),
    [
        (make_schedule(40, 5.0, 1.0, sampler="euler"), 0.05, 10),
        (make_schedule(50, 5.0, 1.0, sampler="euler"), 0.2, 4),
        (make_schedule(40, 12.0, 1.0, 1.0, 0.875, "euler"), 0.06, 7),
        (make_schedule(40, 5.0, 1.0, 1.0, 0.9, "euler"), 0.3, 2),
    ],
    ids=["one expert", "one expert, far", "two experts", "two experts, far"],
)
def test_a_run_is_as_the_authors_code_makes_it(schedule, thresh, start):
    """Without guidance, by Euler steps: trajectory and every decision, with state per expert."""
    gain, drive = 0.5, 0.8
    plan = wanjax.EasyCache(thresh=thresh, start=start).plan(schedule)
    programs = Programs()
    samples, executed = run_fake(
        plan, gain=gain, drive=drive, contexts=(0.2,), sampler="euler", programs=programs
    )
    x, skipped, expected = samples[0].astype(np.float64), [], [samples[0]]
    for phase in schedule.phases:
        first = max(start - phase.start, 0)
        published = Published(schedule.num_steps - phase.start, thresh, first)
        for i in phase:
            t = schedule.timesteps[i] / 1000
            v, ran = published(x, lambda x, t=t: gain * x + drive * t + 0.2)
            skipped += [] if ran else [i]
            x = x + (schedule.sigmas[i + 1] - schedule.sigmas[i]) * v
            expected.append(x)
    assert len(skipped) > 3
    assert list(executed.skipped_steps) == skipped
    # the loop runs in float32, the second implementation in float64
    np.testing.assert_allclose(samples, np.stack(expected), atol=1e-4)
    assert len(programs) == 3  # computed step, skipped step, probe


def test_the_conditional_branch_decides_for_both():
    """Another unconditional context changes the video and no decision."""
    schedule = make_schedule(30, 5.0, 1.0 + 1e-6)
    skipped = [
        run_fake(wanjax.EasyCache(thresh=0.1).plan(schedule), contexts=(0.2, other))[
            1
        ].skipped_steps
        for other in (0.5, -3.0)
    ]
    assert skipped[0] == skipped[1] != ()


def test_what_every_plan_computes():
    """Even where the output never changes."""
    still = SimpleNamespace(
        sample=np.zeros(3), previous=np.zeros(3), samples=[np.ones(3), np.zeros(3)],
        branches=[[np.ones(3)], [np.ones(3)]],
    )  # fmt: skip
    for schedule in (make_schedule(12, 5.0, 5.0), make_schedule(12, 5.0, 4.0, 3.0, 0.9)):
        plan = wanjax.EasyCache(start=0).plan(schedule)
        decisions, skipped = plan.decisions, []
        for step in plan.steps:
            if step.index in (0, plan.boundary_step):
                state = decisions.start()
            step, state = decisions.decide(state, step, partial(decisions.probe, still))
            skipped += [step.index] if step.skipped else []
        always = {11} | {i for phase in schedule.phases for i in phase[:2]}
        assert set(skipped) == set(range(12)) - always


def test_the_authors_values_by_experts():
    one, two = (
        wanjax.EasyCache().plan(make_schedule(40, 5.0, 5.0, 5.0, boundary)).settings
        for boundary in (None, 0.9)
    )
    assert one == {"thresh": 0.05, "start": 10}
    assert two == {"thresh": 0.06, "start": 7}


@pytest.mark.parametrize("name", [n for n in preset_names() if not n.endswith("step")])
def test_every_preset_of_many_steps_plans(name):
    run = prepare(resolve([name, "use_easycache=True", "easycache_thresh=0.1"], "plan"))
    assert run.plan.method == "easycache"
    assert run.plan.open_steps
    assert run.plan.settings["thresh"] == 0.1


def test_refused_with_the_reason():
    with pytest.raises(UsageError, match="use_easycache: no step of 8 may be skipped"):
        wanjax.EasyCache().plan(make_schedule(8, 5.0, 5.0))
    with pytest.raises(UsageError, match="easycache_thresh=0: must be above 0"):
        wanjax.EasyCache(thresh=0)
    with pytest.raises(UsageError, match="use_easycache and use_magcache exclude one another"):
        resolve(["tiny-t2v", "use_easycache=True", "use_magcache=True"], "plan")
