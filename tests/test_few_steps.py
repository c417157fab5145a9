"""Models for few steps: their noise levels, their presets, and what a plan says of them."""

from __future__ import annotations

import pytest

from wanjax.cli.main import main
from wanjax.config.resolve import preset_names, resolve
from wanjax.errors import UsageError
from wanjax.planning.few_steps import FEW
from wanjax.planning.run import prepare

FOUR = (1000.0, 750.0, 500.0, 250.0)


@pytest.mark.parametrize("name", [name for name in preset_names() if name.endswith("4step")])
def test_a_preset_takes_two_steps_of_each_expert_without_guidance(name):
    schedule = prepare(resolve([name], "plan")).schedule
    assert schedule.experts == (0, 0, 1, 1)
    assert schedule.timesteps == pytest.approx((1000, 937.5, 833.333, 625), abs=1e-3)
    assert {schedule.num_branches(step) for step in range(4)} == {1}


@pytest.mark.parametrize(("name", "high"), [("t2v", 4), ("i2v", 3)])
def test_eight_steps_are_at_the_levels_that_the_four_steps_authors_suggest(name, high):
    """Rounded by them to four places; 892.9 is above 875 and below 900."""
    schedule = prepare(resolve([f"wan2.2-{name}-a14b-8step"], "plan")).schedule
    levels = (1000, 972.2224, 937.5001, 892.8571, 833.3333, 750.0001, 625, 416.6667)
    assert schedule.timesteps == pytest.approx(levels, abs=3e-4)
    assert schedule.experts == (0,) * high + (1,) * (8 - high)
    assert {schedule.num_branches(step) for step in range(8)} == {1}


def test_given_timesteps_are_the_number_of_steps_and_a_number_is_no_given_ones(tmp_path):
    given = resolve(["tiny-t2v", "timesteps=1000,750,500,250"], "plan")
    assert (given.timesteps, given.num_inference_steps) == (FOUR, 4)
    assert resolve(["wan2.2-t2v-a14b-4step"], "plan").timesteps == FOUR
    assert resolve(["wan2.2-t2v-a14b-4step", "num_inference_steps=4"], "plan").timesteps == FOUR
    own = resolve(["wan2.2-t2v-a14b-4step", "num_inference_steps=8"], "plan")
    assert (own.timesteps, prepare(own).schedule.num_steps) == (None, 8)
    file = tmp_path / "mine.yml"
    file.write_text("preset: tiny-t2v\ntimesteps: [900, 400]\n")
    assert resolve([str(file)], "plan").num_inference_steps == 2
    assert resolve([str(file), "num_inference_steps=3"], "plan").timesteps is None


@pytest.mark.parametrize("given", ["1001,500", "500,500", "250,500", "500,0"])
def test_timesteps_fall(given):
    with pytest.raises(UsageError, match=r"timesteps=.*must fall from step to step"):
        resolve(["tiny-t2v", f"timesteps={given}"], "plan")


def test_two_numbers_of_steps_are_refused():
    with pytest.raises(UsageError, match=r"num_inference_steps=3, but timesteps=.* are 2"):
        resolve(["tiny-t2v", "timesteps=900,400", "num_inference_steps=3"], "plan")


def test_a_plan_says_what_caching_gains_and_that_the_official_model_is_another(tmp_path):
    preset, lora = "wan2.2-t2v-a14b-4step", tmp_path / "pair.safetensors"
    lora.touch()
    official, cached = prepare(resolve([preset, "use_magcache=True"], "plan")).notes
    assert "give its LoRAs for few steps as lora_high= and lora_low=" in official
    assert "of 4 steps at most 1 can be skipped (1.33x)" in cached
    eight = prepare(resolve(["wan2.2-t2v-a14b-8step", "use_magcache=True"], "plan")).notes[-1]
    assert "of 8 steps at most 5 can be skipped (2.67x)" in eight
    pair = [f"lora_high={lora}", f"lora_low={lora}"]
    assert prepare(resolve([preset, f"transformer={tmp_path}"], "show")).notes == ()
    assert prepare(resolve([preset, *pair], "plan")).notes == ()
    assert prepare(resolve(["tiny-t2v", f"num_inference_steps={FEW}"], "plan")).notes == ()
    guided = prepare(resolve(["wan2.2-t2v-a14b", "num_inference_steps=4"], "plan"))
    assert guided.notes == ()  # few steps of a model for many are the user's own choice


def test_the_command_prints_it(capsys):
    assert main(["plan", "wan2.2-i2v-a14b-4step", "use_magcache=True"]) == 0
    told = capsys.readouterr().out
    assert "steps      4 (euler, flow_shift 5, at 1000 937.5 833.3 625)" in told
    assert told.count("note   ") == 2
