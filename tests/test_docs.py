"""What the documentation says can be done, and is true: links, commands, imports, numbers."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

from wanjax.cli.main import COMMANDS, main
from wanjax.config.keys import keys
from wanjax.config.resolve import arguments, preset_names, resolve
from wanjax.errors import UsageError
from wanjax.planning.run import prepare

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("recipes/*/*.md")])
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def commands(page: Path) -> list[tuple[list[str], str]]:
    """Every `wanjax` command of a page's code blocks: its words, and the comment beside it."""
    lines = page.read_text().replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        match = re.match(r"(?:    |\$ )?(?:pip .* && )?wanjax ([a-z]+.*)", line)
        if match and match[1].split()[0] in COMMANDS:
            words, _, comment = match[1].partition("  #")
            found.append((shlex.split(words), comment))
    return found


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


@each_page
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)", page.read_text())
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


@each_page
def test_commands_have_known_keys_and_presets(page):
    positions = (*preset_names(), "mine.yml", "ball.json", "ball.mp4")
    for (command, *args), _ in commands(page):
        if command == "convert":  # whose positions are folders
            args = [arg for arg in args if "=" in arg]
        if command != "completion":  # whose argument is a shell
            for arg in arguments([arg for arg in args if arg not in keys()]):
                key, equals, _ = arg.partition("=")
                assert key in {*keys(), "variants"} if equals else key in positions, arg


@each_page
def test_python_examples_import_what_exists(page):
    for block in python_blocks(page):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("wanjax"):
                module = importlib.import_module(str(node.module))
                assert [a.name for a in node.names if not hasattr(module, a.name)] == []


def test_plans_in_python(capsys):
    """The example that needs no model."""
    (block,) = [b for b in python_blocks(ROOT / "docs/python.md") if "print(plan.strip()" in b]
    exec(block, {})
    assert capsys.readouterr().out.startswith("#####..#..#..#..#..#..#..#|##..#.#.###### 1.8")


def settings_table() -> list[list[str]]:
    text = (ROOT / "docs/magcache.md").read_text().partition("## Settings per model")[2]
    rows = re.findall(r"^\| (`wan.*) \|$", text.partition("\n## ")[0], re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")] for row in rows]


@pytest.mark.parametrize("row", settings_table(), ids=lambda row: f"{row[0]} {row[1]}")
def test_settings_per_model(row):
    what, settings, boundary, skipped, speedup = row
    words = re.findall(r"`([^`]+)`", what)
    names = ("magcache_thresh", "magcache_K", "retention_ratio")
    values = [f"{n}={v}" for n, v in zip(names, settings.split(", "), strict=True)]
    plan = prepare(resolve([*words, "use_magcache=True", *values], "plan")).plan
    steps = len(plan.steps)
    assert boundary == ("" if plan.boundary_step is None else f"{plan.boundary_step} of {steps}")
    assert skipped == f"{len(plan.skipped_steps)} of {steps}"
    assert speedup == f"{plan.ideal_speedup:.2f}x"


def test_budgets():
    """`N of M, X.XXx` or `refused: at most X` beside a plan command."""
    told = [(args, about.strip()) for args, about in commands(ROOT / "docs/magcache.md")]
    told = [(args[1:], about) for args, about in told if args[0] == "plan" and about]
    assert len(told) == 3
    for args, about in told:
        if about.startswith("refused"):
            with pytest.raises(UsageError, match=about.removeprefix("refused: ")):
                prepare(resolve(args, "plan"))
        else:
            plan = prepare(resolve(args, "plan")).plan
            counts = f"{len(plan.skipped_steps)} of {len(plan.steps)}"
            assert about == f"{counts}, {plan.ideal_speedup:.2f}x"


def test_the_plan_that_the_first_hour_shows(capsys):
    page = (ROOT / "docs/first_hour.md").read_text()
    shown = page.partition("$ wanjax plan ")[2].partition("```")[0]
    command, _, output = shown.partition("\n")
    assert main(["plan", *shlex.split(command)]) == 0
    assert capsys.readouterr().out.strip() == output.strip()
