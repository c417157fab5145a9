"""Compiled programs kept between processes: where, whose, and that a second run takes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache as jax_cache
from small_folder import SMALL_RUN

import wanjax
from wanjax.errors import UsageError
from wanjax.sampling.compilation_cache import MAX_BYTES, use_compilation_cache, user_folder

_OPTIONS = (
    "jax_enable_compilation_cache",
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user's cache folder, with JAX's cache as a process has it at first, and again later."""
    before = {name: getattr(jax.config, name) for name in _OPTIONS}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    jax.config.update("jax_enable_compilation_cache", True)
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)
    jax_cache.reset_cache()


def entries(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*-cache"))


def test_small_programs_are_kept_in_the_users_folder(home):
    use_compilation_cache(True)
    assert jax.config.jax_compilation_cache_max_size == MAX_BYTES
    jax.jit(lambda x: 3 * x + 17)(jnp.ones(7))
    assert entries(home / "wanjax" / "programs")


def test_programs_are_kept_in_a_folder_that_is_named(home, tmp_path):
    use_compilation_cache(True)
    use_compilation_cache(str(tmp_path / "here"))
    jax.jit(lambda x: 3 * x + 18)(jnp.ones(7))
    assert entries(tmp_path / "here")


def test_a_cache_of_the_callers_own_is_left_alone(home, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    before = {name: getattr(jax.config, name) for name in _OPTIONS}
    use_compilation_cache(True)
    assert {name: getattr(jax.config, name) for name in _OPTIONS} == before


def test_jaxs_own_switch_comes_before_all(home, tmp_path):
    jax.config.update("jax_enable_compilation_cache", False)
    use_compilation_cache(str(tmp_path / "here"))
    assert jax.config.jax_compilation_cache_dir is None


def test_python_leaves_jaxs_configuration_alone_unless_asked(home, small_folder, tmp_path):
    typed = dict(setting.split("=") for setting in SMALL_RUN)
    values = {name: json.loads(text) for name, text in typed.items() if text[0].isdigit()}
    wanjax.WanPipeline.from_pretrained(small_folder, **values)
    assert jax.config.jax_compilation_cache_dir is None
    asked = tmp_path / "asked"
    wanjax.WanPipeline.from_pretrained(small_folder, **values, compilation_cache=str(asked))
    assert Path(jax.config.jax_compilation_cache_dir).is_relative_to(asked)


def test_a_folder_that_cannot_be_written_is_refused_if_it_was_named(home, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"compilation_cache=.*file: .* name another, or False"):
        use_compilation_cache(str(tmp_path / "file"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    use_compilation_cache(True)
    assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.parametrize(
    ("system", "variables", "folder"),
    [
        ("linux", {}, "/home/ada/.cache/wanjax/programs"),
        ("linux", {"XDG_CACHE_HOME": "/big"}, "/big/wanjax/programs"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "/home/ada/.cache/wanjax/programs"),
        ("darwin", {}, "/home/ada/Library/Caches/wanjax/programs"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/wanjax/programs"),
    ],
)
def test_each_system_has_its_place_for_caches(system, variables, folder, monkeypatch):
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ada"))
    assert user_folder() == Path(folder)


_COUNTED = """
import collections, json, sys
from jax import monitoring
seen = collections.Counter()
monitoring.register_event_listener(lambda name, **_: seen.update([name.rpartition("/")[2]]))
from wanjax.cli.main import main
assert main(sys.argv[1:]) == 0
print(json.dumps(seen))
"""


def generate(folder: Path) -> dict[str, int]:
    """JAX's own count of programs found and not found, of a process that makes a video."""
    args = ["generate", "a red ball moving right", f"output={folder}/a.mp4"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder), "HOME": str(folder)}
    environment["JAX_ENABLE_COMPILATION_CACHE"] = "true"
    made = subprocess.run(
        [sys.executable, "-c", _COUNTED, *args],
        check=True,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, int] = json.loads(made.stdout)
    return found


@pytest.mark.slow
def test_the_second_run_of_the_readmes_first_command_compiles_nothing(tmp_path):
    """Regression: each run compiled all of its programs, which was half of its time."""
    first = generate(tmp_path)
    kept = len(entries(tmp_path))  # one that two threads ask for at once is missed twice
    second = generate(tmp_path)
    assert first["cache_misses"] >= kept > 10
    assert second["cache_hits"] == second["compile_requests_use_cache"] >= kept
    assert "cache_misses" not in second
