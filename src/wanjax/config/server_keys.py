"""The keys of `wanjax serve`, beside those of a run, which are every video's defaults there."""

from __future__ import annotations

from dataclasses import dataclass

from wanjax.settings import setting

_SERVE = ("serve",)


@dataclass(frozen=True, kw_only=True)
class ServerKeys:
    """Where a server listens, what it keeps, and what it takes."""

    port: int = setting(
        8000,
        "where to listen; 0: any that is free",
        low=0,
        high=65535,
        commands=_SERVE,
        group="Server",
        kept=False,
    )
    host: str = setting(
        "127.0.0.1",
        "address to listen at; 0.0.0.0: of every network that this machine is in",
        commands=_SERVE,
        also=("address", "bind", "listen"),
        kept=False,
    )
    store: str = setting(
        "wanjax-serve",
        "folder of the queue, the pictures that are sent, and the videos",
        commands=_SERVE,
        also=("folder", "data_dir", "storage"),
        kept=False,
        path=True,
    )
    files: str | None = setting(
        None,
        "where videos are kept instead of in the store: a URL that fsspec knows, as s3://BUCKET/DIR",
        commands=_SERVE,
        also=("bucket", "s3"),
        kept=False,
    )
    database: str | None = setting(
        None,
        "of the queue, as postgresql+psycopg://USER@HOST/NAME; null: SQLite in the store",
        commands=_SERVE,
        also=("db", "postgres", "sqlite", "database_url"),
        kept=False,
    )
    grace: float = setting(
        30.0,
        "seconds in which a video that is being made is finished when the server is told to end; "
        "one that takes longer is made when it starts again",
        low=0,
        commands=_SERVE,
        also=("shutdown_timeout", "grace_period"),
        kept=False,
    )
