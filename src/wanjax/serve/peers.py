"""The servers of one database: who of them lives, and what was being made by those that do not.

Each counts on in a row of its own. The others look as often: a server whose count has stood still
for so many of their own looks is dead, and its video waits again. No two clocks are compared, and
neither a database that was away nor a machine that slept makes anybody dead. A server that was
taken for dead finds its video another's when it next tells of it, and ends it.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Mapped, mapped_column

from wanjax.errors import UsageError
from wanjax.files import read_text
from wanjax.serve.jobs import AwayError, Base, Jobs, create_tables
from wanjax.serve.logs import LOG
from wanjax.serve.storage import Storage

_LOOKS = 10  # in vain, after which a server is dead


class Peer(Base, kw_only=True):
    """A server: the video that it makes, the steps done of it, and when it will be free.

    `free_at` is None where nobody knows.
    """

    __tablename__ = "servers"

    id: Mapped[str] = mapped_column(primary_key=True)
    beat: Mapped[int] = mapped_column(default=0)
    job: Mapped[str | None] = mapped_column(default=None)
    steps_done: Mapped[int] = mapped_column(default=0)
    free_at: Mapped[float | None] = mapped_column(default=None)


@dataclass(frozen=True)
class Doing:
    """What a server is at: a video, its steps so far, and the seconds that it still takes."""

    job: str | None = None
    steps_done: int = 0
    left: float | None = 0.0


class Peers:
    """This server among those of its database. Raises `UsageError` where files are not shared.

    `recovered`: how many videos wait again that servers were making which have ended, this one
    in its life before included. `doing` is told to the others; None: this server works no more.
    """

    def __init__(
        self,
        jobs: Jobs,
        storage: Storage,
        own: str,
        lease: float,
        doing: Callable[[], Doing | None],
    ):
        self.jobs, self.storage, self.own = jobs, storage, own
        self._doing, self._pause = doing, lease / _LOOKS
        self._seen: dict[str, tuple[int, int]] = {}  # its count, and looks in vain
        self._others: dict[str, Peer] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._live, name="wanjax-peers", daemon=True)
        create_tables(jobs.engine)
        storage.announce(own)
        self.jobs.changed(delete(Peer).where(Peer.id == own))
        self.recovered = self._recover()
        self._join()
        self._require_shared()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """This server makes nothing any more, and gives back what it was making."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._bury(self.own)
        self._recover()

    def doing(self, server: str | None) -> Doing:
        """What another server is at, as it was told last."""
        peer = self._others.get(server or "")
        if peer is None:
            return Doing(left=None)
        left = None if peer.free_at is None else max(0.0, peer.free_at - time.time())
        return Doing(peer.job, peer.steps_done, left)

    def free_in(self) -> list[float | None]:
        """Seconds until each of the others takes the next video, as far as they know."""
        return [self.doing(server).left for server in list(self._others)]

    def look(self) -> int:
        """See who lives; returns how many videos wait again of those who do not."""
        seen = {}
        others = {peer.id: peer for peer in self._registered()}
        for server, peer in list(others.items()):
            beat, vain = self._seen.get(server, (-1, 0))
            vain = vain + 1 if beat == peer.beat else 0
            seen[server] = (peer.beat, vain)
            if vain >= _LOOKS and self._bury(server, peer.beat):
                LOG.warning("a server is gone", extra={"server": server})
                del others[server]
        self._seen, self._others = seen, others
        return self._recover()

    def beat(self, doing: Doing) -> None:
        """Tell the others that this server lives."""
        free_at = None if doing.left is None else time.time() + doing.left
        values = {"job": doing.job, "steps_done": doing.steps_done, "free_at": free_at}
        own = update(Peer).where(Peer.id == self.own)
        if not self.jobs.changed(own.values(beat=Peer.beat + 1, **values)):
            LOG.warning("taken for dead by the others", extra={"server": self.own})
            self.storage.announce(self.own)
            self._join()

    def _live(self) -> None:
        while not self._stopping.wait(self._pause) and (doing := self._doing()) is not None:
            try:
                self.beat(doing)
                if waiting := self.look():
                    LOG.info("made again, of servers that are gone", extra={"videos": waiting})
            except AwayError as error:
                LOG.warning("the database does not answer: %s", error)
            except Exception:  # a disk; whoever does not beat is dead
                LOG.exception("the other servers cannot be told of")

    def _recover(self) -> int:
        """Give back the videos of those who are no server of this database (any more)."""
        with self.jobs.session() as session:
            known = set(session.scalars(select(Peer.id)).all())
        return sum(self.jobs.give_back(owner) for owner in self.jobs.owners() - known)

    def _bury(self, server: str, beat: int | None = None) -> bool:
        """Forget a server; False where it has counted on from `beat`."""
        dead = delete(Peer).where(Peer.id == server)
        if not self.jobs.changed(dead if beat is None else dead.where(Peer.beat == beat)):
            return False
        self.storage.withdraw(server)
        return True

    def _join(self) -> None:
        with self.jobs.session() as session:
            session.add(Peer(id=self.own))
            session.commit()

    def _registered(self) -> Sequence[Peer]:
        """All others, alive or not."""
        with self.jobs.session() as session:
            return session.scalars(select(Peer).where(Peer.id != self.own)).all()

    def _require_shared(self) -> None:
        """Raise `UsageError` where a server that lives cannot have put its name into our files."""
        for peer in self._registered():
            if not self.storage.announced(peer.id) and self._lives(peer):
                self.stop()
                raise UsageError(
                    "files: another server of this database keeps its videos elsewhere; give all "
                    "of them the same database=URL and files=URL"
                )

    def _lives(self, peer: Peer) -> bool:
        """Whether a server counts on; this may take as long as the lease."""
        for _ in range(_LOOKS):
            time.sleep(self._pause)
            now = next((p.beat for p in self._registered() if p.id == peer.id), None)
            if now != peer.beat:
                return now is not None
        return False


def server_id(store: Path) -> str:
    """The name of the server that has this store, always the same one."""
    path = store / "server"
    if not path.exists():
        path.write_text(f"server_{secrets.token_hex(16)}\n", encoding="utf-8")
    return read_text(path).strip()
