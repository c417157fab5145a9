"""Signals end a command at once, whatever it is doing, with nothing half-written.

Python runs its handlers when the main thread comes back to Python: not during a compilation of
minutes; and an exception that a handler raises is lost where nobody may raise, and broke the
interpreter amid the import of extensions. So the system's own handler writes the signal's number
to a pipe, which it may at any moment, and a thread that waits there ends the process.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from wanjax.files import remove_partial

# By name: a system may lack one. The exit code is 128 and the signal's number, as of shells.
_ENDING = ("SIGINT", "SIGTERM", "SIGHUP")
_WORDS = {"SIGINT": "interrupted", "SIGTERM": "told to end", "SIGHUP": "the terminal has gone"}


@contextmanager
def ended_by_signals(name: str = "wanjax", kept: str = "") -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP end the process with 130, 143 and 129, and one line.

    `kept` says what stays and how to go on. Signals that were ignored (nohup) stay so. Elsewhere
    than in the main thread, and on Windows, whose signals write to no pipe, Python's own ways
    hold. A child made by `os.fork` has no such thread: it enters this anew.
    """
    main_thread = threading.current_thread() is threading.main_thread()
    if os.name == "nt" or not main_thread:
        yield
        return
    caught = _heard()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    watcher = threading.Thread(target=_watch, args=(reading, name, kept), daemon=True)
    watcher.start()
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    before = [signal.signal(number, _nothing) for number in caught]
    try:
        yield
    finally:
        for number, handler in zip(caught, before, strict=True):
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(writing)  # ends the watcher
        watcher.join()
        os.close(reading)


@contextmanager
def signals_to(handler: Callable[[int, object], object]) -> Iterator[None]:
    """Inside, they go to `handler` in place of ending the process: for what ends in an order."""
    before = {number: signal.signal(number, handler) for number in _heard()}
    wakeup = signal.set_wakeup_fd(-1)  # last: until here they end the process
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, earlier in before.items():
            signal.signal(number, earlier)


def end_by_signals(name: str = "wanjax", kept: str = "") -> None:
    """As `ended_by_signals`, to this process's end.

    What libraries do at exit takes half a second, in which Python's own way is a traceback.
    """
    staying = ExitStack()
    staying.enter_context(ended_by_signals(name, kept))

    def close() -> None:
        staying.close()
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    atexit.register(close)  # before libraries are imported: called after theirs


def _heard() -> list[int]:
    """The signals that end a process, but those that are ignored."""
    numbers: list[int] = [getattr(signal, each) for each in _ENDING if hasattr(signal, each)]
    return [n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN]


def _nothing(number: int, frame: object) -> None:
    """The pipe has it already."""


def _watch(reading: int, name: str, kept: str) -> None:
    while got := os.read(reading, 1):
        number = signal.Signals(got[0])
        if number.name in _ENDING:
            remove_partial()
            line = f"\n{name}: {_WORDS[number.name]}{f'; {kept}' if kept else ''}\n"
            try:
                os.write(2, line.encode())  # a stream may be locked by the thread that is ended
                sys.stdout.flush()
            finally:
                os._exit(128 + number)
