"""The shape of the package: its modules load, its annotations say what is checked, its rooms hold.

`lint-imports` checks the arrows between the rooms from the source; here is what only a running
program shows.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import jaxtyping
import pytest
from jaxtyping import TypeCheckError

import wanjax
from wanjax.sampling.change import residual_change

ROOT = Path(__file__).parents[1]
MODULES = sorted(module.name for module in pkgutil.walk_packages(wanjax.__path__, "wanjax."))
MODULES.remove("wanjax.__main__")  # importing it runs the command line
# Their annotations name what only a slow import would give; mypy alone reads them.
UNCHECKED = {f"wanjax.cli.{name}" for name in ("compile", "generate", "progress")}
UNCHECKED |= {"wanjax.planning.plot", "wanjax.evaluate.figure"}
UNCHECKED |= {"wanjax.serve.page.blocks"}  # the browser's tests import it


def annotations(path: Path) -> Iterator[str]:
    """Those of all functions and classes in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        found = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        yield from (ast.unparse(annotation) for annotation in found if annotation is not None)


@pytest.mark.parametrize("name", [name for name in MODULES if name not in UNCHECKED])
def test_every_annotation_can_be_checked(name):
    """One that names what is imported for mypy alone is skipped by the type checker, silently."""
    module = importlib.import_module(name)
    assert module.__file__ is not None
    missing = []
    for annotation in annotations(Path(module.__file__)):
        try:
            eval(annotation, dict(vars(module)))
        except NameError:
            missing.append(annotation)
    assert missing == []


def test_wrong_shapes_are_seen():
    """The import hook is at work: this very suite checks annotations."""
    if jaxtyping.config.jaxtyping_disable:
        pytest.skip("JAXTYPING_DISABLE is set.")
    one, fewer_tokens = jnp.ones((2, 3, 4)), jnp.ones((2, 1, 4))  # would broadcast
    with pytest.raises(TypeCheckError, match="previous"):
        residual_change(one, fewer_tokens)


def contract(name: str) -> dict:
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = content["tool"]["importlinter"]["contracts"]
    return next(found for found in contracts if found["id"] == name)


def test_what_answers_at_once_loads_no_jax():
    """The contract's rooms, imported whole in a fresh process."""
    rooms = contract("without-jax")["source_modules"]
    inside = [n for n in MODULES if any(n == r or n.startswith(f"{r}.") for r in rooms)]
    assert set(rooms) <= set(inside)
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in {inside}]; "
        f"print({{'jax', 'jaxlib', 'flax'}} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
