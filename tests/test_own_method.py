"""The page that teaches how to add a caching method: its code, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from wanjax.caching import METHODS
from wanjax.cli.main import main

PAGE = (Path(__file__).parents[1] / "docs/own_method.md").read_text(encoding="utf-8")
DEFINITION, USE, COMPARISON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def run(code: str, names: dict) -> None:
    """As a file of its own, without this one's postponed annotations."""
    exec(compile(code, "own_method.md", "exec", dont_inherit=True), names)


@pytest.fixture
def known():
    """The names that the page's first block leaves; its method is forgotten afterwards."""
    names: dict = {"__name__": __name__}
    try:
        run(DEFINITION, names)
        yield names
    finally:
        METHODS.pop("metronome", None)


def test_the_method_gives_the_plan_that_the_page_prints(known, capsys):
    (strip,) = re.findall(r"prints `([#.|]+)`", PAGE)
    assert known["Metronome"](every=3).plan(known["wanjax"].schedule("tiny-t2v")).strip() == strip


def test_its_key_is_checked_as_the_page_says(known, capsys):
    assert main(["plan", "use_metronome=True", "metronome_every=0"]) == 2
    assert "metronome_every=0: must be at least 1" in capsys.readouterr().err


def test_it_runs_by_key_by_name_and_by_value(known, capsys):
    run(USE, known)
    assert capsys.readouterr().out.splitlines()[-1].startswith("21 computed, 19 skipped")
    assert known["video"].plan.settings == {"every": 2}


@pytest.mark.slow
def test_it_is_compared(known, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(COMPARISON, known)
    assert "every3" in capsys.readouterr().out
