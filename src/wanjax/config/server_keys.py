"""The keys of `wanjax serve`, beside those of a run, which are every video's defaults there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
    warm_up: bool = setting(
        True,
        "compute a few steps and decode once before the first video, so that its time, too, can "
        "be told",
        commands=_SERVE,
        also=("warmup", "prewarm"),
        kept=False,
    )
    ui: bool = setting(
        False,
        "a page for people on the same server, at its own address",
        commands=_SERVE,
        also=("page", "gradio", "web", "webui", "gui"),
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
    lease: float = setting(
        20.0,
        "seconds after which a server that is not heard of counts as dead: another one that has "
        "the same database makes its video",
        above=0,
        commands=_SERVE,
        also=("lock_timeout", "takeover"),
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
    tokens: str | None = setting(
        None,
        "file of the tokens that clients must have, one a line, or NAME TOKEN; null: anybody",
        commands=_SERVE,
        also=("token", "api_key", "auth", "password"),
        kept=False,
        path=True,
    )
    also: str | None = setting(
        None,
        "presets to serve beside the first, with the same other arguments, as tiny-i2v,tiny-t2v; "
        "those that are not at work wait in the host's memory",
        commands=_SERVE,
        also=("models", "presets", "beside"),
        kept=False,
    )
    lora_folder: str | None = setting(
        None,
        "folder of LoRAs (.safetensors) that a request may name; null: none",
        commands=_SERVE,
        also=("loras", "lora_dir", "lora_path"),
        kept=False,
        path=True,
    )
    max_queue: int = setting(
        1000,
        "videos that may wait; more are refused",
        low=1,
        commands=_SERVE,
        also=("queue_size", "capacity"),
        kept=False,
    )
    max_pixels: int = setting(
        100_000_000,
        "width x height x num_frames of one video, at most; as a default a little more than "
        "1280x720 in 81 frames has",
        low=1,
        commands=_SERVE,
        kept=False,
    )
    max_steps: int = setting(
        100, "num_inference_steps of one video, at most", low=1, commands=_SERVE, kept=False
    )
    max_upload: float = setting(
        20.0,
        "MiB of one request, at most",
        above=0,
        commands=_SERVE,
        also=("upload_limit", "body_limit"),
        kept=False,
    )
    keep_hours: float | None = setting(
        None,
        "how long a video that is done is kept; null: until it is deleted",
        above=0,
        commands=_SERVE,
        also=("ttl", "expiry", "expires", "retention"),
        kept=False,
    )
    log: Literal["text", "json"] = setting(
        "text",
        "what is logged of requests and videos: lines for people, or JSON",
        commands=_SERVE,
        also=("log_format", "logs"),
        kept=False,
    )
