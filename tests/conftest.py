"""What all tests share."""

import importlib.util
import os
import threading

import jaxtyping
import pytest

REFERENCE = ("torch", "diffusers", "transformers")
MISSING = [name for name in REFERENCE if importlib.util.find_spec(name) is None]
if MISSING:
    collect_ignore = ["parity"]

pytest.register_assert_rewrite("browser")

# Annotations are checked in the rooms whose arrays have shapes: checked, the others, whose plans
# call small functions by the thousand, would take half of the suite's time, and mypy reads them.
# A float may be given as an int (PEP 484). JAXTYPING_DISABLE=1 switches it off.
_ROOMS = ("caching", "evaluate", "media", "models", "pipeline", "sampling", "schedulers", "tiny")
jaxtyping.install_import_hook(
    [f"wanjax.{room}" for room in _ROOMS],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)

# Tests compile many small programs and run each for milliseconds: unoptimised code halves the
# suite's time. JAX reads this when it is imported, so nothing here may import it. Comparisons
# with the reference run as users run (parity/conftest.py).
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Nothing is kept between tests, or from one run of the suite to the next.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"


def pytest_terminal_summary(terminalreporter):
    if MISSING:
        terminalreporter.write_line(
            f"not collected: tests/parity, the comparison with the reference, which needs "
            f"{', '.join(MISSING)} (the extra `parity`)"
        )


@pytest.fixture
def unchecked_types():
    """Lets a test give what annotations forbid, to see the error that a user would see."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory):
    """A random two-expert text-to-video model in diffusers' layout; tests leave it as it is."""
    from small_folder import make_small_folder

    return make_small_folder(tmp_path_factory.mktemp("models") / "small-t2v")


@pytest.fixture(autouse=True)
def compiled_ahead_ends():
    """Threads that compile ahead end with their test, as they do with the process of a command."""
    yield
    for thread in threading.enumerate():
        if thread.name in ("_until_latents", "_decode", "_noise", "wanjax-compiling"):
            thread.join()
