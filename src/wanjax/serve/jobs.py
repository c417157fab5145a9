"""The queue and what became of it, in a database: SQLite, or Postgres."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy import (
    JSON,
    CursorResult,
    Engine,
    Index,
    Select,
    case,
    create_engine,
    delete,
    event,
    func,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, mapped_column

from wanjax.errors import UsageError

State = Literal["queued", "in_progress", "completed", "failed"]
MOST_ATTEMPTS = 20  # a job amid which the server ended so often has ended the server
_LOCK = 0x77616E6A6178  # of ours, among a database's advisory locks


class Base(MappedAsDataclass, DeclarativeBase):
    """Of all tables."""


class Job(Base, kw_only=True):
    """A video that was asked for.

    `arguments` and `values` are what `resolve` makes its configuration of, always the same.
    `facts` are known when it is accepted (size, plan, ...), `result` when it is done. `programs`
    names what has to be compiled for it. `owner` is the server that makes it.
    """

    __tablename__ = "jobs"
    __table_args__ = (Index("of_state", "state", "number"),)

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True, init=False)
    id: Mapped[str] = mapped_column(unique=True, index=True)
    client: Mapped[str] = mapped_column(index=True)
    model: Mapped[str]
    arguments: Mapped[list[str]] = mapped_column(JSON)
    values: Mapped[dict[str, Any]] = mapped_column(JSON)
    pictures: Mapped[list[str]] = mapped_column(JSON)
    programs: Mapped[str]
    facts: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[float]
    remixed_from: Mapped[str | None] = mapped_column(default=None)
    state: Mapped[str] = mapped_column(default="queued")
    progress: Mapped[int] = mapped_column(default=0)
    owner: Mapped[str | None] = mapped_column(default=None)
    attempts: Mapped[int] = mapped_column(default=0)
    started_at: Mapped[float | None] = mapped_column(default=None)
    completed_at: Mapped[float | None] = mapped_column(default=None)
    expires_at: Mapped[float | None] = mapped_column(default=None, index=True)
    result: Mapped[dict[str, Any]] = mapped_column(JSON, default_factory=dict)
    error: Mapped[dict[str, str] | None] = mapped_column(JSON(none_as_null=True), default=None)


class Speed(Base, kw_only=True):
    """Seconds that a part of a video takes in a shape, and how often that was measured."""

    __tablename__ = "speeds"

    shape: Mapped[str] = mapped_column(primary_key=True)
    part: Mapped[str] = mapped_column(primary_key=True)
    seconds: Mapped[float]
    count: Mapped[int]


class AwayError(Exception):
    """The database does not answer, which may pass: it is being started again, or moved."""


@dataclass(frozen=True)
class Page:
    """A part of a list."""

    jobs: Sequence[Job]
    has_more: bool


def new_id() -> str:
    """Nobody can guess one."""
    return f"video_{secrets.token_hex(16)}"


class Jobs:
    """All jobs. Every change is one transaction, so that none is lost or made twice."""

    def __init__(self, url: str):
        self.engine = _engine(url)
        self._waiting: dict[str, Job] = {}  # whose rows do not change

    def close(self) -> None:
        self.engine.dispose()

    def add(self, job: Job, most_queued: int) -> bool:
        """Append a job to the queue; False where that is as long as it may be."""
        with self.session() as session:
            if (session.scalar(_count("queued")) or 0) >= most_queued:
                return False
            session.add(job)
            session.commit()
        return True

    def get(self, video: str, client: str | None = None) -> Job | None:
        """One job, if it is that client's (None: anybody's)."""
        with self.session() as session:
            return session.scalar(_of(select(Job).where(Job.id == video), client))

    def page(self, client: str | None, after: str | None, limit: int, order: str) -> Page | None:
        """The jobs after another one, by the time they were sent; None where that is not there."""
        query = _of(select(Job), client)
        newest_first = order == "desc"
        if after is not None:
            last = self.get(after, client)
            if last is None:
                return None
            beyond = Job.number < last.number if newest_first else Job.number > last.number
            query = query.where(beyond)
        query = query.order_by(Job.number.desc() if newest_first else Job.number)
        with self.session() as session:
            found = session.scalars(query.limit(limit + 1)).all()
        return Page(found[:limit], len(found) > limit)

    def queued(self) -> Sequence[Job]:
        """Those that wait, the oldest first; what was read once is not read again."""
        query = select(Job.id).where(Job.state == "queued").order_by(Job.number)
        with self.session() as session:
            ids = session.scalars(query).all()
            known = self._waiting  # another thread may put another in its place
            found = {video: known[video] for video in ids if video in known}
            for video in ids:
                if video in known:
                    continue
                job = session.scalar(select(Job).where(Job.id == video))
                if job is not None:
                    found[video] = job
        self._waiting = found
        return [found[video] for video in ids if video in found]

    def running(self) -> Sequence[Job]:
        return self._in("in_progress")

    def claim(self, video: str, owner: str) -> Job | None:
        """Take a job that waits; None where another server was faster or it is deleted."""
        taken = update(Job).where(Job.id == video, Job.state == "queued")
        values = {"state": "in_progress", "owner": owner, "attempts": Job.attempts + 1}
        if not self.changed(taken.values(**values, started_at=time.time())):
            return None
        return self.get(video)

    def told(self, video: str, owner: str, progress: int) -> bool:
        """Keep how far a job is; False where it is this server's no longer."""
        highest = case((Job.progress > progress, Job.progress), else_=progress)
        return bool(self.changed(_running(video, owner).values(progress=highest)))

    def complete(self, video: str, owner: str, result: dict[str, Any], keep: float | None) -> bool:
        """The video is there, for `keep` seconds; False where nobody wants it any more."""
        now = time.time()
        expires = None if keep is None else now + keep
        done = {"state": "completed", "progress": 100, "completed_at": now, "expires_at": expires}
        made = _running(video, owner).values(**done, result=result, owner=None)
        return bool(self.changed(made))

    def fail(self, video: str, owner: str, code: str, message: str, keep: float | None) -> bool:
        now = time.time()
        expires = None if keep is None else now + keep
        error = {"code": code, "message": message}
        done = {"state": "failed", "completed_at": now, "expires_at": expires, "owner": None}
        return bool(self.changed(_running(video, owner).values(**done, error=error)))

    def release(self, video: str, owner: str) -> bool:
        """Give a job back to the queue, of which it was no attempt."""
        back = {"state": "queued", "owner": None, "attempts": Job.attempts - 1}
        return bool(self.changed(_running(video, owner).values(**back)))

    def owners(self) -> set[str]:
        """The servers that make something."""
        query = select(Job.owner).where(Job.state == "in_progress").distinct()
        with self.session() as session:
            return {owner for owner in session.scalars(query) if owner is not None}

    def give_back(self, owner: str) -> int:
        """What a server was making that has ended waits again; returns how many jobs do.

        One amid which servers ended again and again fails.
        """
        left = (Job.state == "in_progress", Job.owner == owner)
        message = f"the server ended {MOST_ATTEMPTS} times while it made this video"
        failed = {"state": "failed", "completed_at": time.time(), "owner": None}
        error = {"code": "server_error", "message": message}
        hopeless = update(Job).where(*left, Job.attempts >= MOST_ATTEMPTS)
        self.changed(hopeless.values(**failed, error=error))
        return self.changed(update(Job).where(*left).values(state="queued", owner=None))

    def delete(self, video: str) -> bool:
        return bool(self.changed(delete(Job).where(Job.id == video)))

    def expired(self) -> Sequence[str]:
        with self.session() as session:
            return session.scalars(select(Job.id).where(Job.expires_at < time.time())).all()

    def counts(self) -> dict[str, int]:
        """How many jobs there are in each state."""
        query = select(Job.state, func.count()).group_by(Job.state)
        with self.session() as session:
            found = {row[0]: int(row[1]) for row in session.execute(query)}
        return {state: found.get(state, 0) for state in get_args(State)}

    def ids(self) -> set[str]:
        with self.session() as session:
            return set(session.scalars(select(Job.id)).all())

    def speeds(self) -> list[tuple[str, str, float, int]]:
        with self.session() as session:
            return [(s.shape, s.part, s.seconds, s.count) for s in session.scalars(select(Speed))]

    def keep_speeds(self, rows: Sequence[tuple[str, str, float, int]]) -> None:
        """Those that were measured, in place of what was kept of the same."""
        if not rows:
            return
        postgres = self.engine.dialect.name == "postgresql"
        new = (postgresql if postgres else sqlite).insert(Speed).values(sorted(rows))
        values = {"seconds": new.excluded.seconds, "count": new.excluded.count}
        self.changed(new.on_conflict_do_update(index_elements=["shape", "part"], set_=values))

    def _in(self, state: State) -> Sequence[Job]:
        query = select(Job).where(Job.state == state).order_by(Job.number)
        with self.session() as session:
            return session.scalars(query).all()

    def changed(self, statement: Any) -> int:
        """Change rows in one transaction; returns how many there were."""
        with self.session() as session:
            result = session.execute(statement)
            session.commit()
        assert isinstance(result, CursorResult)
        return result.rowcount

    @contextmanager
    def session(self) -> Iterator[Session]:
        """What is read in it stays readable afterwards. Raises `AwayError`."""
        try:
            with Session(self.engine, expire_on_commit=False) as session:
                yield session
        except OperationalError as error:
            if self.engine.dialect.name == "sqlite":  # which is not away, but damaged or full
                raise
            raise AwayError(str(error.orig).splitlines()[0]) from error


def _running(video: str, owner: str) -> Any:
    return update(Job).where(Job.id == video, Job.owner == owner, Job.state == "in_progress")


def _count(state: State) -> Select[int]:
    return select(func.count()).select_from(Job).where(Job.state == state)


def _of(query: Select[Job], client: str | None) -> Select[Job]:
    return query if client is None else query.where(Job.client == client)


def _engine(url: str) -> Engine:
    """Raises `UsageError` where no database answers."""
    try:
        engine = create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _durable)
        create_tables(engine)
    except (SQLAlchemyError, ImportError) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        shown = url.partition("://")[0]  # the rest may have a password
        raise UsageError(f"database={shown}://...: {reason}") from error
    return engine


def create_tables(engine: Engine) -> None:
    """Those that are not there; of servers that start at once the first one does it."""
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
        else:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        Base.metadata.create_all(connection)
        connection.commit()


def _durable(connection: Any, record: Any) -> None:
    """What is committed is on the disk, and readers do not wait for a writer."""
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}")
