"""What the package promises by name: every name is there, and none of ours is left out."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import wanjax

ROOT = Path(__file__).parents[1]
PACKAGES = ["wanjax"] + [
    module.name
    for module in pkgutil.walk_packages(wanjax.__path__, "wanjax.")
    if module.ispkg and hasattr(importlib.import_module(module.name), "__all__")
]
each_package = pytest.mark.parametrize("package", PACKAGES)


def test_packages_that_export_names():
    """Whoever adds one to these adds it to the documentation too."""
    assert PACKAGES == ["wanjax", "wanjax.caching", "wanjax.evaluate", "wanjax.schedulers"]


@each_package
def test_exported_names_exist(package):
    module = importlib.import_module(package)
    missing = [name for name in module.__all__ if not hasattr(module, name)]
    assert missing == []


@each_package
def test_exported_names_are_sorted(package):
    """Constants, classes, functions, as ruff has it for a list that it can read."""
    names = importlib.import_module(package).__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), name.islower(), name))
    assert len(names) == len(set(names))


@each_package
def test_nothing_public_is_left_out(package):
    """What of wanjax's own a package imports for its users stands in `__all__`."""
    module = importlib.import_module(package)
    ours = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and getattr(value, "__module__", "").startswith("wanjax")
    }
    assert ours - set(module.__all__) == set()


@pytest.mark.parametrize(
    "package", [name for name in PACKAGES if "_HOME" in vars(importlib.import_module(name))]
)
def test_names_imported_when_first_used(package):
    """Their table, `__all__` and what the type checker reads hold the same names."""
    module = importlib.import_module(package)
    assert module.__file__ is not None
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    (block,) = [
        n for n in tree.body if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)
    ]
    homes = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert homes == module._HOME
    assert set(homes) == set(module.__all__) - {"__version__"}
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        module.nonsense  # noqa: B018


def test_the_version_is_the_packages_and_the_changelog_knows_it():
    assert wanjax.__version__ == importlib.metadata.version("wanjax")
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert wanjax.__version__ in headings


def test_types_are_for_users_too():
    """Type checkers read a package's annotations where it holds this file."""
    assert (Path(wanjax.__file__).parent / "py.typed").exists()
