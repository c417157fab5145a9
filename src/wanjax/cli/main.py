"""The command line: `wanjax COMMAND [PRESET|FILE.yml] ["PROMPT"] [key=value ...]`."""

from __future__ import annotations

import errno
import functools
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType

from wanjax.cli.collector import at_rest, own_process
from wanjax.cli.interrupts import end_by_signals, ended_by_signals
from wanjax.errors import RunError, UsageError, notices_to, printable

USAGE = """\
usage: wanjax COMMAND [PRESET|FILE.yml] ["PROMPT"] [key=value ...]

Wan 2.1 / 2.2 video generation in JAX with step caching.

commands:
{commands}

A preset is a model with its official sampling values (`wanjax presets`); the keys and their
values are listed by `wanjax show PRESET`. Without a preset the bundled model runs, offline:

  wanjax generate "a red ball moving right on a dark background"

`--key value` is `key=value`, a switch alone (`use_magcache`) is on, `prompt=@FILE` or `prompt=-`
reads the prompt from a file or from standard input. `wanjax COMMAND --help` tells more.
"""

# A command is the module of its name beside this one: its docstring is the help, `run` does it
# and may return another exit code than 0.
COMMANDS: Mapping[str, str] = {
    "generate": "write a video and, beside it, a .json record of how it was made",
    "plan": "show which steps are computed and which are skipped, without loading a model",
    "compile": "compile a run for devices here or elsewhere: memory, collectives, does it fit",
    "calibrate": "measure what a model's caches go by: curve, inner products, sensitivities",
    "compare": "measure what caching costs: variants from the same noise, side by side in HTML",
    "benchmark": "time a model's stages at full size, with random weights if it is not here",
    "serve": "an HTTP server in the shape of OpenAI's videos API, with a queue that lasts",
    "convert": "write a model's files in another layout or with other numbers",
    "presets": "list the models that can be named, with their sampling values",
    "show": "print every key with its value, what is allowed, and a line of help",
    "completion": "print what makes bash, zsh or fish complete commands, presets, keys and values",
}

NO_MEMORY = (
    "memory ran out; lower height, width or num_frames, take low_memory=True or a mesh over more "
    "devices; `wanjax plan` with the same keys says what each stage needs"
)

# What a disk may answer: it is full, may not be written to, or is broken.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO)

# What stays of a command that is interrupted.
_GOES_ON = "is kept; the same command goes on from there"
KEPT: Mapping[str, str] = {
    "generate": "what is written stays",
    "calibrate": f"what was measured {_GOES_ON}",
    "compare": f"what was finished {_GOES_ON}",
    "convert": f"what was finished {_GOES_ON}",
    "serve": "what waits is made when the server starts again",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 for success, 2 for a user's mistake, 1 for a failure."""
    args = list(sys.argv[1:] if argv is None else argv)
    kept = KEPT.get(args[0] if args else "", "")
    if argv is None:  # the process's own: it ends with the command
        end_by_signals(kept=kept)
        own_process()
        return _run(args)
    with ended_by_signals(kept=kept):
        return _run(args)


def _run(args: list[str]) -> int:
    try:
        with notices_to(functools.partial(_say_once, set())):
            return _dispatch(args)
    except UsageError as error:
        print(f"wanjax: error: {printable(str(error))}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"wanjax: failed: {printable(str(error))}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:  # XLA has a RuntimeError of its own for it
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print(f"wanjax: failed: {NO_MEMORY}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("wanjax: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone, as in `wanjax ... | head`
        return 1
    except OSError as error:
        if error.errno not in _DISK:
            raise
        if _unreadable(error):
            text = f"{error.filename} cannot be read: {error.strerror}"
            print(f"wanjax: error: {printable(text)}", file=sys.stderr)
            return 2
        what = f"{error.filename} cannot be written" if error.filename else "a file is not whole"
        kept = f"; {KEPT[args[0]]}" if args[0] in KEPT else ""
        text = f"{what}: {error.strerror}; make room, or write to another disk or folder{kept}"
        print(f"wanjax: failed: {printable(text)}", file=sys.stderr)
        return 1


def _unreadable(error: OSError) -> bool:
    """Whether it comes from a file that this user may not read, or from a folder that is closed."""
    if not isinstance(error.filename, str):
        return False
    folder, there = os.path.dirname(error.filename) or ".", os.path.exists(error.filename)
    return not os.access(error.filename if there else folder, os.R_OK if there else os.X_OK)


def _say_once(said: set[str], notice: str) -> None:
    if notice not in said:
        said.add(notice)
        print(f"warning: {printable(notice)}", file=sys.stderr)


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        print(_usage(), end="")
        return 0 if args else 2
    if args[0] == "--version":
        from importlib.metadata import version  # slow to import

        print(f"wanjax {version('wanjax')}")
        return 0
    command, *rest = args
    if command not in COMMANDS:
        from wanjax.settings import (
            nearest,
        )  # slow to import

        raise UsageError(
            f"unknown command {command}{nearest(command, COMMANDS)}; "
            f"commands: {', '.join(COMMANDS)}"
        )
    if "-h" in rest or "--help" in rest:
        print((_module(command).__doc__ or "").strip())
        return 0
    with at_rest():
        module = _module(command)
    code: int | None = module.run(rest)
    return code or 0


def _usage() -> str:
    lines = [f"  {name:11}{summary}" for name, summary in COMMANDS.items()]
    return USAGE.format(commands="\n".join(lines))


def _module(command: str) -> ModuleType:
    """Imported when called: most commands take longer to import than others to answer."""
    return importlib.import_module(f"wanjax.cli.{command}")
