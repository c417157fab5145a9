"""What waits and in which order: the jobs of the database, with their times."""

from __future__ import annotations

import copy
import heapq
import math
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from wanjax.serve.eta import SWITCHING, Part, Speeds
from wanjax.serve.jobs import AwayError, Job, Jobs
from wanjax.serve.order import Waiting, in_order
from wanjax.serve.ready import Ready

_FRESH = 1.0  # seconds that an order is good for: other servers may take jobs, too
_LATER = 10**9  # places
_KEEPING = 10.0  # seconds between two times that speeds are kept
_AWAY = 60.0  # seconds that a finished video waits for the database
_UNKNOWN = 1.0  # seconds that a job counts with where nothing like it was measured


@dataclass(frozen=True)
class Place:
    """Where a job stands: so many before it; when it begins, by the monotonic clock; its seconds.

    None where nothing like these was measured yet.
    """

    position: int
    begins: float | None
    own: float | None

    @property
    def eta(self) -> float | None:
        """Seconds until it is done."""
        if self.begins is None or self.own is None:
            return None
        return max(0.0, self.begins - time.monotonic()) + self.own


class Queue:
    """The jobs that wait, for one server; what it has learnt of seconds is kept with them.

    `free_in` are the seconds until each server of the database takes a job, None where nobody
    knows.
    """

    def __init__(
        self,
        jobs: Jobs,
        owner: str,
        most: int,
        models: Collection[str],
        there: Ready,
        free_in: Callable[[], Sequence[float | None]],
    ):
        self.models, self._there = frozenset(models), there  # whose jobs are taken
        self.jobs, self.owner, self.most, self._free_in = jobs, owner, most, free_in
        self.speeds, self._known = Speeds(), frozenset[tuple[str, str, float, int]]()
        self._hear()
        self._kept = -_KEEPING
        self._had: dict[str, float] = {}  # seconds of each client
        self._last: str | None = None  # programs of the last job
        self._changed, self._version = threading.Condition(), 0
        self._places: tuple[float, dict[str, Place]] = (0.0, {})

    def add(self, job: Job) -> bool:
        """Append a job; False where the queue is full."""
        if not self.jobs.add(job, self.most):
            return False
        self.wake()
        return True

    def wake(self) -> None:
        """Whoever waits in `take` looks again."""
        with self._changed:
            self._places = (0.0, {})
            self._version += 1
            self._changed.notify_all()

    def take(self, timeout: float) -> Job | None:
        """The next job, this server's from now on; None if there is none within `timeout`."""
        until = time.monotonic() + timeout
        while True:
            version = self._version
            for waiting in self._ordered():
                job = self.jobs.claim(waiting.id, self.owner)
                if job is not None:
                    self._last = job.programs
                    self.wake()
                    return job
            with self._changed:
                left = until - time.monotonic()
                if left <= 0:
                    return None
                if version == self._version:  # else something has come meanwhile
                    self._changed.wait(left)

    def following(self, programs: Collection[str]) -> Job | None:
        """The first job that waits for other programs than these."""
        jobs = {job.id: job for job in self.jobs.queued()}
        if all(job.programs in programs for job in jobs.values()):
            return None
        ordered = self._in_order(list(jobs.values()))
        return next((jobs[w.id] for w in ordered if w.programs not in programs), None)

    def told(self, job: Job, progress: int) -> bool:
        """Keep how far a job is; False where it is this server's no longer."""
        try:
            return self.jobs.told(job.id, self.owner, progress)
        except AwayError:  # it is told again after the next step
            return True

    def complete(
        self, job: Job, result: dict[str, object], seconds: float, keep: float | None
    ) -> bool:
        """The video is there; False where nobody wants it. Raises `AwayError`, after a while."""
        until = time.monotonic() + _AWAY
        while True:
            try:
                done = self.jobs.complete(job.id, self.owner, result, keep)
                break
            except AwayError:  # it would be a pity
                if time.monotonic() > until:
                    raise
                time.sleep(1)
        self._spend(job.client, seconds)
        if time.monotonic() - self._kept > _KEEPING:
            self.keep_speeds()
        return done

    def give_back(self) -> None:
        """Whatever is this server's waits again: it makes nothing."""
        self.jobs.give_back(self.owner)

    def keep_speeds(self) -> None:
        """For the next server, and for others; what they have learnt is known from then on."""
        own = frozenset(self.speeds.rows())
        self.jobs.keep_speeds(sorted(own - self._known))
        self._hear()
        self._kept = time.monotonic()

    def fail(self, job: Job, code: str, message: str, keep: float | None) -> bool:
        return self.jobs.fail(job.id, self.owner, code, message, keep)

    def release(self, job: Job) -> bool:
        return self.jobs.release(job.id, self.owner)

    def is_there(self, job: Job) -> bool:
        """Whether anybody wants it still."""
        return self.jobs.get(job.id) is not None

    def place(self, video: str) -> Place | None:
        """Where a job that waits stands; None where it waits no longer."""
        made, places = self._places
        if time.monotonic() - made > _FRESH:
            places = self._find_places()
            self._places = (time.monotonic(), places)
        return places.get(video)

    def _seconds(self, jobs: Sequence[Job]) -> list[float | None]:
        """What each job will take; those of the same shape and parts take as long."""
        found: dict[str, float | None] = {}
        each = []
        for job in jobs:
            shape, parts = job.facts["shape"], job.facts["parts"]
            key = f"{shape} {parts}"
            if key not in found:
                found[key] = self.speeds.estimate(shape, [Part(*part) for part in parts])
            each.append(found[key])
        return each

    def _hear(self) -> None:
        self.speeds.hear(self.jobs.speeds())
        self._known = frozenset(self.speeds.rows())

    def _find_places(self) -> dict[str, Place]:
        """Each job goes to the server that is free first, and may find another model's weights.

        Programs that are not there yet compile beside the jobs before; servers are taken to have
        the same ones.
        """
        jobs = self.jobs.queued()
        seconds = dict(zip((job.id for job in jobs), self._seconds(jobs), strict=True))
        about, there = {job.id: job for job in jobs}, copy.copy(self._there)
        now = time.monotonic()
        free = [math.inf if left is None else now + left for left in self._free_in()]
        heapq.heapify(free)
        places = {}
        for position, waiting in enumerate(self._in_order(jobs)):
            job, own, begins = about[waiting.id], seconds[waiting.id], free[0]
            if own is not None:
                for part in there.before(job.programs, job.model):
                    wait = self.speeds.seconds(job.facts["shape"], part) or 0.0
                    own += wait if part is SWITCHING else max(0.0, wait - (begins - now))
            there.run(job.programs)
            there.model = job.model
            places[waiting.id] = Place(position, None if begins == math.inf else begins, own)
            heapq.heapreplace(free, math.inf if own is None else begins + own)
        return places

    def _ordered(self) -> Iterator[Waiting]:
        return self._in_order(self.jobs.queued())

    def _in_order(self, jobs: Sequence[Job]) -> Iterator[Waiting]:
        # a job amid which a server ended comes after its client's others: it may be why
        waiting = [
            Waiting(
                job.id,
                job.client,
                job.programs,
                seconds or _UNKNOWN,
                job.number + _LATER * job.attempts,
            )
            for job, seconds in zip(jobs, self._seconds(jobs), strict=True)
            if job.model in self.models
        ]
        return in_order(waiting, self._had, self._last)

    def _spend(self, client: str, seconds: float) -> None:
        """A client that comes anew begins with what the others have least."""
        waiting = {job.client for job in self.jobs.queued()} | {client}
        least = min((self._had[name] for name in waiting if name in self._had), default=0.0)
        for name in waiting:
            self._had[name] = max(self._had.get(name, least), least)
        self._had[client] += seconds
