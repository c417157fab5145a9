"""What a caching method is: settings that declare themselves, one place to be found, `cache=`.

The toy method here is known nowhere in the package: all that a new method needs is its class.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from small_folder import SMALL_RUN

import wanjax
from wanjax.caching import METHODS, Curve, MagCache, Method, dense_plan, make_plan
from wanjax.caching.actions import COMPUTE, REUSE, REUSE_OUTPUT, Keeps
from wanjax.caching.method import keys_of
from wanjax.caching.plan import Step
from wanjax.cli.main import main
from wanjax.config.keys import method_of
from wanjax.config.resolve import resolve
from wanjax.errors import UsageError
from wanjax.planning.run import prepare
from wanjax.planning.schedule import make_schedule
from wanjax.settings import setting

PROMPT = "a red ball moving left"


# A method that decides from data ---------------------------------------------------------


def half_the_turn(sight: Any) -> Any:
    """How far the sample is from where it was a step ago, and from the last computed one."""
    moved = abs(sight.sample - sight.previous).mean()
    return {"moved": moved, "since": abs(sight.sample - sight.samples[0]).mean()}


@dataclass(frozen=True)
class ToyDecisions:
    """Reuses every step but one in `every`; notes what it saw."""

    every: int
    seen: list[float]

    keeps: ClassVar[Keeps] = Keeps(samples=1, previous=1)
    probe: ClassVar[Callable[[Any], Any]] = staticmethod(half_the_turn)

    def options(self, step: Step) -> Sequence[Step]:
        return () if step.index == 0 else (step.instead(REUSE_OUTPUT),)

    def start(self) -> int:
        return 0

    def decide(self, state: int, step: Step, read: Callable[[], Any]) -> tuple[Step, int]:
        if state % self.every == 0:
            return step, state + 1
        self.seen.append(float(read()["since"]))
        return step.instead(REUSE_OUTPUT), state + 1


@dataclass(frozen=True)
class Toy(Method):
    """A toy."""

    name: ClassVar[str] = "toy"
    help: ClassVar[str] = "reuse the output of every step but one in so many"

    every: int = setting(3, "steps from a computed one to the next", key="toy_every", low=1)

    def plan(self, schedule, conditions=None):
        return replace(
            dense_plan(schedule),
            method=self.name,
            settings=self.described(),
            decisions=ToyDecisions(self.every, []),
            decided="during the run",
        )


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(METHODS, "toy", Toy)


@pytest.fixture(scope="module")
def pipe(small_folder):
    return wanjax.WanPipeline.from_config(resolve([f"model={small_folder}", *SMALL_RUN], "show"))


def test_a_method_of_a_test_runs_by_value_by_name_and_by_key(toy, pipe, small_folder):
    strip = "#.#.|#."  # anew with each expert
    by_value = pipe(PROMPT, cache=Toy(every=2), output_type="latent")
    assert by_value.plan.strip() == strip
    config = resolve([f"model={small_folder}", *SMALL_RUN, "use_toy=True", "toy_every=2"], "show")
    configured = pipe.with_config(config)
    by_key = configured(PROMPT, output_type="latent")
    by_name = configured(PROMPT, cache="toy", output_type="latent")
    for video in (by_key, by_name):
        assert video.plan.method == "toy"
        assert video.plan.settings == {"every": 2}
        np.testing.assert_array_equal(video.latents, by_value.latents)
    assert not np.array_equal(pipe(PROMPT, output_type="latent").latents, by_value.latents)


def test_a_probe_reads_what_the_loop_has_seen(pipe):
    samples = []
    plan = Toy(every=2).plan(prepare(pipe.config).schedule)
    pipe(
        PROMPT,
        seed=1,
        cache=plan,
        output_type="latent",
        callback=lambda report: samples.append(np.array(report.latents)),
    )
    # the steps that reused follow a computed one: the sample has moved by that one's step
    moved = [np.abs(samples[i] - samples[i - 1]).mean() for i in (2, 4)]
    np.testing.assert_allclose(plan.decisions.seen[1:], [moved[0], moved[1]], rtol=1e-4)


def test_its_key_is_checked_shown_and_planned(toy, capsys):
    assert main(["plan", "use_toy=True", "toy_every=0"]) == 2
    assert "toy_every=0: must be at least 1" in capsys.readouterr().err
    assert main(["plan", "toy_evry=2"]) == 2
    assert "did you mean toy_every" in capsys.readouterr().err
    assert main(["plan", "toy_every=2"]) == 2
    assert "toy_every acts only with use_toy=True" in capsys.readouterr().err
    assert main(["show"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"toy_every +3 +steps from a computed one to the next \(a whole num", shown)
    assert main(["plan", "use_toy=True"]) == 0
    assert "cache      toy (every 3)" in capsys.readouterr().out


def test_the_key_goes_with_the_method():
    with pytest.raises(UsageError, match="unknown key use_toy"):
        resolve(["use_toy=True"], "plan")


# Settings --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_setting_declares_its_key_and_help(method):
    for name, key in keys_of(method).items():
        assert key, name
    assert method.help
    assert method().described()


def test_settings_take_numpy_numbers(unchecked_types):
    assert MagCache(K=np.int64(3), thresh=np.float32(0.5)) == MagCache(K=3, thresh=0.5)


def test_what_a_method_was_not_given_is_the_configurations():
    """Regression: a curve had to be named even where the preset has its own."""
    config = resolve(["wan2.2-i2v-a14b"], "plan")  # its threshold is 0.06
    assert MagCache().completed(config).thresh == 0.06
    given = MagCache(thresh=0.04).completed(config)
    assert (given.thresh, given.mag_ratios_base) == (0.04, "wan2.2-i2v-a14b")
    assert (
        prepare(config, MagCache()).plan.skipped_steps
        == prepare(config, "magcache").plan.skipped_steps
    )
    assert len(prepare(config, MagCache()).plan.skipped_steps) == 17


def test_a_configured_cache_is_honoured_and_none_is_dense(small_folder):
    """Regression: from_pretrained(..., use_magcache=True) accepted the key and ran dense."""
    keys = {k: v for k, _, v in (arg.partition("=") for arg in SMALL_RUN)}
    ratios = (1.0, 1.0, *[0.999] * 10)
    values = {"mag_ratios_base": ratios, "retention_ratio": 0.0, "use_magcache": True}
    typed = {k: int(v) if v.isdigit() else v for k, v in keys.items()}
    pipe = wanjax.WanPipeline.from_pretrained(small_folder, **typed, **values)
    assert pipe(PROMPT, output_type="latent").plan.method == "magcache"
    assert pipe(PROMPT, cache=None, output_type="latent").plan.method == "dense"
    assert method_of(pipe.config) == MagCache(mag_ratios_base=ratios, retention_ratio=0.0)
    bare = pipe.with_config(replace(pipe.config, use_magcache=False))
    assert bare(PROMPT, output_type="latent").plan.method == "dense"
    assert bare(PROMPT, cache=MagCache(), output_type="latent").plan.skipped_steps


@pytest.mark.parametrize("cache", ["magcach", 3, MagCache], ids=repr)
def test_what_is_no_cache_is_refused(cache, unchecked_types):
    with pytest.raises(UsageError, match="cache"):
        prepare(resolve(["tiny-t2v"], "plan"), cache)


def test_another_attention_kernel_than_the_curves_is_a_warning():
    """Regression: the documentation promised it and it never came."""
    usual = prepare(resolve(["tiny-t2v", "use_magcache=True"], "plan"))
    other = prepare(resolve(["tiny-t2v", "use_magcache=True", "attention=chunked"], "plan"))
    assert usual.plan.warnings == ()
    assert other.plan.warnings == (
        "the curve was measured otherwise: attention chunked (curve: auto)",
    )


def test_a_plan_of_other_steps_is_refused():
    other = dense_plan(make_schedule(7, 5.0, 5.0))
    with pytest.raises(UsageError, match="made for other steps"):
        prepare(resolve(["tiny-t2v"], "plan"), other)


# Estimates -------------------------------------------------------------------------------


def test_weights_over_the_last_residuals_and_outputs(pipe):
    """Two computed steps, then estimates: 2 a - b of both, and repeating by (1, 0)."""
    schedule = prepare(replace(pipe.config, boundary_ratio=0.01)).schedule
    assert schedule.boundary_step == 6

    def latents(*weights, source="output"):
        action = wanjax.caching.Action("estimate", source, weights)
        actions = [(COMPUTE,) * 2, (COMPUTE,) * 2, (action,) * 2, *[(COMPUTE,) * 2] * 3]
        samples = []
        configured = pipe.with_config(replace(pipe.config, boundary_ratio=0.01))
        configured(
            PROMPT, cache=make_plan(schedule, actions), output_type="latent",
            callback=lambda report: samples.append(np.array(report.latents)),
        )  # fmt: skip
        return samples[2]

    for source in ("output", "residual"):
        newest, oldest = latents(1.0, 0.0, source=source), latents(0.0, 1.0, source=source)
        np.testing.assert_array_equal(latents(1.0, source=source), newest)
        if source == "output":  # the sampler is linear in the output
            linear = latents(2.0, -1.0)
            np.testing.assert_allclose(linear, 2 * newest - oldest, atol=1e-4)
        assert np.abs(newest - oldest).max() > 1e-3


def test_an_offset_moves_with_the_sample(pipe):
    """v = x + (v_k - x_k): the same as the output where the sample has not moved."""
    sight = SimpleNamespace(sample=np.ones(3), previous=np.zeros(3), samples=[np.zeros(3)])
    assert half_the_turn(sight) == {"moved": 1.0, "since": 1.0}
    schedule = prepare(pipe.config).schedule
    move = wanjax.caching.Action("move", "offset", (1.0,))
    plans = {
        name: make_plan(schedule, [(COMPUTE,) * 2, (action,) * 2, *[(COMPUTE,) * 2] * 4])
        for name, action in (("repeat", REUSE_OUTPUT), ("offset", move))
    }
    found = {}
    for name, plan in plans.items():
        samples = []
        pipe(PROMPT, cache=plan, output_type="latent",
             callback=lambda r, s=samples: s.append(np.array(r.latents)))  # fmt: skip
        found[name] = samples
    np.testing.assert_array_equal(found["repeat"][0], found["offset"][0])
    assert np.abs(found["repeat"][1] - found["offset"][1]).max() > 1e-4


def test_a_partly_computed_step_leaves_the_other_branchs_residual(pipe):
    schedule = prepare(pipe.config).schedule
    actions = [(COMPUTE,) * 2, (COMPUTE, REUSE), (REUSE, REUSE), (COMPUTE,) * 2]
    actions += [(COMPUTE,) * 2] * 2
    video = pipe(PROMPT, cache=make_plan(schedule, actions), output_type="latent")
    assert np.isfinite(video.latents).all()
    assert video.plan.strip() == "#+.#|##"


def test_a_curve_of_the_callers_own_needs_no_preset():
    run = prepare(
        resolve(["tiny-t2v"], "plan"), MagCache(mag_ratios_base=Curve.from_list([1.0] * 80))
    )
    assert run.plan.settings["curve"] == "list"
