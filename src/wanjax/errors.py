"""Errors that a user can mend; the command line prints their text and exits with code 2.

    ValueError
    └── UsageError            a setting, argument or combination that cannot work
        ├── CheckpointError   a model's folder or file
        ├── CurveError        a magnitude curve: its file, its values, or its fit to the run
        ├── SensitivityError  sensitivities: their file or their values
        └── PlanError         a plan whose steps cannot be carried out

Runs that could not be carried out, by no fault of the command; code 1:

    RuntimeError
    └── RunError              a full disk, memory that ran out
        └── NonFiniteError    NaN or infinity in weights, latents or frames

Each text names the key or file, the value given, what is allowed, and the fix. Whatever else
is raised is a fault of this package.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


def printable(text: str, longest: int = 2000) -> str:
    """`text` in one line that a terminal shows as it is: control characters, line ends and what
    is no Unicode stand escaped, and of a long one the middle is left out."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    half = longest // 2
    return shown if len(shown) <= longest else f"{shown[:half]}...{shown[-half:]}"


class UsageError(ValueError):
    """A setting, file or combination that cannot work; the text says what to change."""


class RunError(RuntimeError):
    """A run that could not be carried out; the text says what was kept and what would help."""


class NonFiniteError(RunError):
    """NaN or infinity where a run's numbers must be finite; the text names where from."""


class Notice(UserWarning):
    """Something in what was given that may be meant otherwise; the run goes on."""


_listener: ContextVar[Callable[[str], None] | None] = ContextVar("listener", default=None)


def notify(text: str, stacklevel: int = 1) -> None:
    """Say a `Notice`: to whoever listens, else as a warning of `stacklevel` above the caller.

    Python's warnings are set for all threads at once, and a thread that silences its own for a
    moment, as libraries do, silences others too: a command listens for itself.
    """
    listener = _listener.get()
    if listener is None:
        warnings.warn(text, Notice, stacklevel=stacklevel + 1)
    else:
        listener(text)


@contextmanager
def notices_to(listener: Callable[[str], None]) -> Iterator[None]:
    """This thread's notices go to `listener` inside."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


class CheckpointError(UsageError):
    """A checkpoint folder or file that is missing, incomplete or of another model."""


class CurveError(UsageError):
    """A curve file or list that is unreadable, or that does not fit the run."""


class SensitivityError(UsageError):
    """A file or list of sensitivities that is unreadable."""


class PlanError(UsageError):
    """Steps that cannot be carried out, such as a reuse of what was never computed."""


# What to do where the text encoder's tokenizer is not at hand.
TOKENIZER_HELP = (
    "give tokenizer=FOLDER with a tokenizer.json, as by `hf download google/umt5-xxl "
    "tokenizer.json --local-dir FOLDER`"
)
