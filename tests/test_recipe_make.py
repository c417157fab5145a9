"""The recipe's parts as commands."""

import argparse
import sys
from pathlib import Path

import make
import pytest
from make import PARTS, Recipe, Task

from wanjax.config.resolve import resolve


@pytest.fixture
def recipe(tmp_path, monkeypatch) -> tuple[Recipe, list[Task]]:
    """One that keeps its tasks instead of running them."""
    where = {"out": make.PACKAGE, "work": tmp_path, "log": None}
    args = argparse.Namespace(**where, clips=8, scale=0.1, batch_scale=0.1, minutes=1.0)
    recipe, tasks = Recipe(args), []
    monkeypatch.setattr(recipe, "at_once", lambda *some: tasks.extend(some))
    return recipe, tasks


def test_curves_are_calibrated_by_a_command_that_exists(recipe):
    """Regression: a key of another command was among its arguments."""
    recipe, tasks = recipe
    recipe.curves()
    assert [task.name for task in tasks] == ["curve t2v", "curve i2v"]
    for task in tasks:
        config = resolve(list(task.command[4:]), "calibrate")
        assert Path(config.output).parent.name == "curves"


def test_the_decoder_learns_after_the_experts_and_both_models_have_it(recipe, tmp_path):
    recipe, tasks = recipe
    recipe.t2v, recipe.i2v = tmp_path / "t2v", tmp_path / "i2v"
    (recipe.t2v / "vae").mkdir(parents=True)
    (recipe.t2v / "vae/config.json").write_text("{}")
    recipe.decoder()
    training, preview = tasks
    where = training.command.index("--experts")
    assert training.command[where + 1 : where + 3] == (str(recipe.t2v), str(recipe.i2v))
    assert "--limit" in training.command
    assert preview.command[-1] == str(recipe.t2v)
    assert (recipe.i2v / "vae/config.json").exists()
    assert PARTS.index("decoder") > PARTS.index("experts")


@pytest.mark.parametrize("at_once", [1, 2])
def test_so_many_programs_run_at_once(tmp_path, at_once):
    """Each program tells when it began and ended; one waits for the one before it."""
    where = {"out": make.PACKAGE, "work": tmp_path, "log": None}
    recipe = Recipe(argparse.Namespace(**where, at_once=at_once))
    program = (
        "import pathlib, sys, time; file = pathlib.Path(sys.argv[1]); began = time.time();"
        "time.sleep(1); file.write_text(f'{began} {time.time()}')"
    )
    files = [tmp_path / "a", tmp_path / "b"]
    recipe.at_once(*(Task(f.name, (sys.executable, "-c", program, f)) for f in files))
    (_, ended), (began, _) = (map(float, f.read_text().split()) for f in files)
    assert (began >= ended) == (at_once == 1)
    assert sorted(p.name for p in (tmp_path / "done").iterdir()) == ["a", "b"]
