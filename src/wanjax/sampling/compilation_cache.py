"""Compiled programs kept on disk between processes, by JAX's own persistent cache."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from wanjax.errors import UsageError

MAX_BYTES = 4 * 2**30  # what was not used for longest goes first


def use_compilation_cache(where: bool | str) -> None:
    """From now on keep what is compiled, and take what was compiled before.

    `where` is a folder, True for the user's own (see `user_folder`), or False. True leaves a cache
    alone that JAX has been given already, by its configuration or `JAX_COMPILATION_CACHE_DIR`, and
    does nothing where no folder can be made. JAX's own switch (`jax_enable_compilation_cache`)
    comes before all. Raises `UsageError` for a folder that cannot be written.

    JAX has one cache a process: the caller's own programs are kept there, too.
    """
    config: Any = jax.config  # whose options have no types
    own = where is True and config.jax_compilation_cache_dir is not None
    if where is False or own or not config.jax_enable_compilation_cache:
        return
    try:
        asked = user_folder() if where is True else Path(str(where)).expanduser()
        folder = asked / _this_machine()
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except (OSError, RuntimeError):  # a user without a home, as in a container
        writable = False
    if not writable:
        if where is True:
            return
        raise UsageError(
            f"compilation_cache={where}: this folder cannot be written; name another, or False"
        )
    # short compilations, too: a run of the bundled model has dozens
    config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    config.update("jax_compilation_cache_max_size", MAX_BYTES)
    config.update("jax_compilation_cache_dir", str(folder))
    compilation_cache.reset_cache()  # JAX looks at its configuration once


def user_folder() -> Path:
    """Where the system has caches of this user's programs."""
    home = Path.home()
    if sys.platform == "darwin":
        base = home / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
    else:
        # a relative path there is to be ignored, says the XDG base directory specification
        given = Path(os.environ.get("XDG_CACHE_HOME", ""))
        base = given if given.is_absolute() else home / ".cache"
    return base / "wanjax" / "programs"


def _this_machine() -> str:
    """A name for processors that run the same code.

    JAX's key to a program has the kind of the device, which of every processor is "cpu": a home
    folder that machines share would give one the instructions of another.
    """
    features = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        features += next(line for line in lines if line.lower().startswith(("flags", "features")))
    except (OSError, StopIteration):
        pass  # no Linux, or no such line: the machine's name must do
    digest = hashlib.sha256(features.encode()).hexdigest()[:8]
    return f"{platform.machine()}-{digest}"
