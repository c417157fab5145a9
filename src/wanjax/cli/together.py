"""A command in several processes, which start and end together. No JAX but in the child.

JAX aborts a process where another one has died, whatever it is at, and tells at length. So the
command runs in a child, and its parent says in one line what happened.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import fields, replace
from typing import IO, Any

from wanjax.cli.interrupts import ended_by_signals, signals_to
from wanjax.config.keys import Config
from wanjax.config.saved import digests
from wanjax.errors import RunError, UsageError
from wanjax.files import remove_partial
from wanjax.media.examples import picture_digest
from wanjax.media.prompts import load_prompts
from wanjax.parallel.launch import KEYS, Launch, find_launch

# Tells all processes what the first of them makes; see `parallel.hosts.from_first`.
FromFirst = Callable[[Callable[[], Any]], Any]
Command = Callable[[Config, FromFirst], int | None]

# What each process has for itself: who it is, where it writes, what it says.
_OWN = {*KEYS, "output", "overwrite", "quiet", "verbose", "json", "compilation_cache"}
_FILES = {"image", "last_image", "prompts"}  # compared by what is in them

_INTERRUPTED = 130
_GRACE = 1.0  # seconds that process 0 stays for others to say what is wrong: with it all end
_UNHEARD = re.compile(r"unhealthy \(stopped sending heartbeats\):\s*([\d, ]*\d)")
_UNREACHED = ("Failed to send RPC to coordination service", "leader task")


def together(
    config: Config, command: Command, *, drawn: bool = False, lasting: bool = False
) -> int:
    """Do the command, with the other processes if there are any; returns its exit code.

    What it prints comes from process 0 alone, and so does a seed that was `drawn`. Where a
    process ends before its time, so do the others, within `heartbeat_timeout` seconds and with
    exit code 1. A `lasting` command ends by itself, when process 0 is told to by a signal. Raises
    `UsageError` for a launch that cannot work.
    """
    launch = find_launch(config.coordinator, config.process_id, config.num_processes)
    if launch is None:
        return command(config, lambda make: make()) or 0

    def part() -> int:
        return _take_part(launch, config, command, drawn)

    if not hasattr(os, "fork"):
        return part()
    return _in_child(part, config.heartbeat_timeout, lasting)


def same_for_all(config: Config) -> Mapping[str, Any]:
    """What all processes must have been given: keys, and what is in the files that they name."""
    ours = _OWN | _FILES
    values = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in ours}
    files: dict[str, Any] = dict(digests(config))
    if config.prompts is not None:
        prompts = load_prompts(config.prompts)
        files["prompts"] = [(p.text, p.image and picture_digest(p.image)) for p in prompts]
    return values | {name: files.get(name) for name in sorted(_FILES)}


def _take_part(launch: Launch, config: Config, command: Command, drawn: bool) -> int:
    """Join the others and do the command; says what went wrong, returns the exit code."""
    said, name, first = sys.stderr, f"wanjax: process {launch.process_id}", True
    try:
        import jax  # heavy, as all of it

        from wanjax.parallel import hosts

        if launch.num_processes and not launch.process_id:
            print(f"waiting for {launch.num_processes - 1} other processes ...", file=said)
        hosts.connect(launch, config.heartbeat_timeout)
        first, name = hosts.is_first(), f"wanjax: process {jax.process_index()}"
        if not first:
            sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        if drawn:
            seed = hosts.from_first(lambda: config.seed)
            config = replace(config, seed=seed, seeds=(seed,))
        hosts.agree(same_for_all(config))
        code = command(config, hosts.from_first) or 0
        sys.stdout.flush()
        jax.distributed.shutdown()  # waits for the others
        return code
    except UsageError as error:
        print(f"{name}: error: {error}", file=said, flush=True)
        code = 2
    except RunError as error:
        print(f"{name}: failed: {error}", file=said, flush=True)
        code = 1
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except Exception as error:
        if _is_of_another(error):
            line = str(error).strip().splitlines()[0]
            print(f"{name}: error: lost another process: {line}", file=said, flush=True)
        else:
            print(f"{name}: error:", file=said)
            traceback.print_exc(file=said)
        code = 1
    time.sleep(_GRACE * first)
    return code


def _is_of_another(error: Exception) -> bool:
    """Whether it comes from the connection to another process."""
    text = str(error)
    words = ("Gloo", "gloo", "closed by peer", "coordination", "DEADLINE_EXCEEDED", "NCCL")
    return type(error).__name__ == "JaxRuntimeError" and any(word in text for word in words)


def _in_child(part: Callable[[], int], heartbeat_timeout: int, lasting: bool = False) -> int:
    """The exit code of `part` in a child of this process; 1 where something ended it."""
    with tempfile.TemporaryFile() as log:
        ours, childs = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            os.close(childs)
            _be_child(part, ours, log)
        os.close(ours)
        # what a supervisor sends reaches the parent alone; the child may have ended already
        forward = signals_to(lambda number, _: _send(child, number)) if lasting else nullcontext()
        # Ctrl-C reaches the child too, which ends by it
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with forward:
                _, status = os.waitpid(child, 0)
        finally:
            signal.signal(signal.SIGINT, before)
            os.close(childs)
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            log.seek(0)
            _say_why(-code, log.read().decode(errors="replace"), heartbeat_timeout)
        elif code == _INTERRUPTED:  # the child's own line went to the log
            print("wanjax: interrupted", file=sys.stderr)
    return code if code >= 0 else 1


def _send(child: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(child, number)


def _be_child(part: Callable[[], int], parent: int, log: IO[bytes]) -> None:
    """Do `part` and end, at the latest with the parent; what libraries print goes to `log`."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    code = 1
    try:
        sys.stdout, sys.stderr = (
            os.fdopen(os.dup(number), "w", buffering=1, encoding="utf-8") for number in (1, 2)
        )
        for number in (1, 2):
            os.dup2(log.fileno(), number)
        with ended_by_signals():
            code = part()
        sys.stdout.flush()
    finally:
        os._exit(code)  # nothing of the parent's is done twice


def _end_with(parent: int) -> None:
    os.read(parent, 1)  # nothing comes but the end
    remove_partial()
    os._exit(1)


def _say_why(number: int, log: str, heartbeat_timeout: int) -> None:
    """One line on what ended the child; all that libraries printed where it is something else."""
    print(file=sys.stderr)  # the child may have been within a line: its progress bar
    unheard = _UNHEARD.search(log)
    if unheard:
        which = f"process {unheard[1]} has ended (not heard of for {heartbeat_timeout} s)"
    elif any(text in log for text in _UNREACHED):
        which = "process 0 has ended (its connection broke)"
    elif "distributed service detected fatal errors" in log:
        which = "another process has ended"
    else:
        print(log, end="", file=sys.stderr)
        name = signal.Signals(number).name
        print(f"wanjax: error: this process was ended by {name}", file=sys.stderr)
        return
    print(f"wanjax: error: {which}, and with it this run; its own output says why", file=sys.stderr)
