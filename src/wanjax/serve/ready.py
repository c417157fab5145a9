"""What a job finds when it is taken: which programs are compiled, whose weights are here."""

from __future__ import annotations

from collections.abc import Iterable

from wanjax.serve.eta import COMPILING, SWITCHING, Part


class Ready:
    """Of one server: its worker changes it, and whoever tells a time reads it."""

    def __init__(self, model: str):
        self.model = model  # whose weights are on the devices
        self.ran: frozenset[str] = frozenset()  # names of programs
        self._ahead: frozenset[str] = frozenset()  # of those that compile before their job is taken

    @property
    def programs(self) -> frozenset[str]:
        """What is compiled, or compiles by now."""
        return self.ran | self._ahead

    def run(self, programs: str) -> None:
        """These have run."""
        self.ran |= {programs}

    def begin(self, programs: Iterable[str]) -> None:
        """These compile from now on."""
        self._ahead |= set(programs)

    def before(self, programs: str, model: str) -> list[Part]:
        """What a job comes to before its own parts, if it is the next one."""
        compiles, moves = programs not in self.programs, model != self.model
        return [COMPILING] * compiles + [SWITCHING] * moves
