"""Which job is next: fair between clients, and those of the same programs after one another.

Each client has had so many seconds of the server. The next job is of the client that has had
least, but one whose programs are those of the job before counts as if its client had had
`PATIENCE` seconds less: compiling for a new shape takes as long. No client is ever further ahead
of another than that, and no job is overtaken by more than `OVERTAKEN` later ones of its client.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

PATIENCE = 20.0  # seconds
OVERTAKEN = 8  # jobs


@dataclass(frozen=True)
class Waiting:
    """A job as far as the order goes; `seconds` that it will take, as far as that is known."""

    id: str
    client: str
    programs: str
    seconds: float
    number: int


def in_order(
    waiting: Iterable[Waiting], had: Mapping[str, float], programs: str | None = None
) -> Iterator[Waiting]:
    """All that wait, as they will be made if nothing else is sent; found as it is asked for.

    `had` are the seconds of each client so far, `programs` those of the job before.
    """
    lanes: dict[str, _Lane] = {}
    for job in sorted(waiting, key=lambda job: job.number):
        lanes.setdefault(job.client, _Lane()).append(job)
    spent = {client: had.get(client, 0.0) for client in lanes}
    while lanes:
        chosen = min(
            (job for lane in lanes.values() for job in lane.candidates()),
            key=lambda job: (
                spent[job.client] + PATIENCE * (job.programs != programs),
                job.number,
            ),
        )
        lane = lanes[chosen.client]
        lane.take(chosen)
        if not lane.rows:
            del lanes[chosen.client]
        spent[chosen.client] += chosen.seconds
        programs = chosen.programs
        yield chosen


class _Lane:
    """A client's jobs by their programs, each row the oldest first."""

    def __init__(self) -> None:
        self.rows: dict[str, deque[Waiting]] = {}
        self._overtaken = 0  # how often the oldest job was passed by

    def append(self, job: Waiting) -> None:
        self.rows.setdefault(job.programs, deque()).append(job)

    def candidates(self) -> list[Waiting]:
        """The oldest job for each set of programs; the oldest of all once it has waited enough."""
        heads = [row[0] for row in self.rows.values()]
        return [self._oldest(heads)] if self._overtaken >= OVERTAKEN else heads

    def take(self, job: Waiting) -> None:
        oldest = self._oldest([row[0] for row in self.rows.values()])
        self._overtaken = 0 if job is oldest else self._overtaken + 1
        self.rows[job.programs].popleft()
        if not self.rows[job.programs]:
            del self.rows[job.programs]

    @staticmethod
    def _oldest(jobs: Sequence[Waiting]) -> Waiting:
        return min(jobs, key=lambda job: job.number)
