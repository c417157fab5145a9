"""Which job is next: fair between clients, and those of the same programs after one another.

Each client has had so many seconds of the server. The next job is of the client that has had
least, but one whose programs are those of the job before counts as if its client had had
`PATIENCE` seconds less: compiling for a new shape takes as long. No client is ever further ahead
of another than that, and no job is overtaken by more than `OVERTAKEN` later ones of its client.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    waiting: Sequence[Waiting], had: Mapping[str, float], programs: str | None = None
) -> list[Waiting]:
    """All that wait, as they will be made if nothing else is sent.

    `had` are the seconds of each client so far, `programs` those of the job before.
    """
    lanes: dict[str, list[Waiting]] = {}
    for job in sorted(waiting, key=lambda job: job.number):
        lanes.setdefault(job.client, []).append(job)
    spent = {client: had.get(client, 0.0) for client in lanes}
    overtaken = dict.fromkeys(lanes, 0)  # how often a client's oldest job was passed by
    ordered: list[Waiting] = []
    while lanes:
        chosen = min(
            (job for client, lane in lanes.items() for job in _candidates(lane, overtaken[client])),
            key=lambda job: (
                spent[job.client] + PATIENCE * (job.programs != programs),
                job.number,
            ),
        )
        lane = lanes[chosen.client]
        overtaken[chosen.client] = 0 if lane[0] is chosen else overtaken[chosen.client] + 1
        lane.remove(chosen)
        if not lane:
            del lanes[chosen.client]
        spent[chosen.client] += chosen.seconds
        programs = chosen.programs
        ordered.append(chosen)
    return ordered


def _candidates(lane: Sequence[Waiting], overtaken: int) -> list[Waiting]:
    """The oldest job for each set of programs; the oldest of all once it has waited enough."""
    if overtaken >= OVERTAKEN:
        return [lane[0]]
    return list({job.programs: job for job in reversed(lane)}.values())
