"""The server as a deployment of Ray Serve: each replica is a whole one, with devices of its own.

`serve run FILE.yaml` with the import path `wanjax.serve.replicas:build`, whose arguments are keys
of `wanjax serve` (docs/serve.md has such a file). Ray routes requests, starts replicas and starts
them again; database and files, which all of them share, are what makes them one server.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from wanjax.config.keys import keys
from wanjax.config.resolve import resolve
from wanjax.errors import UsageError
from wanjax.serve.app import make_app
from wanjax.serve.model import models_of
from wanjax.serve.process import settle
from wanjax.serve.server import Server, TakenError

CONNECTIONS = 200  # at once, of each replica
_RAYS = {"port": "http_options", "host": "http_options"}  # keys that Ray has its own for
_MORE = 20.0  # seconds beyond the grace, until Ray kills a replica


class Replica:
    """One server; `args` as of the command line. Its store is the first that is free.

    So a replica that takes the place of a dead one on the same machine has its name, and its
    video waits again at once.
    """

    def __init__(self, args: list[str]):
        config = resolve(args, "serve")
        settle(config)
        models = models_of(args, config)
        for number in itertools.count():
            try:
                own = replace(config, store=str(Path(config.store) / str(number)))
                self.server = Server(models, own)
                return
            except TakenError:  # by a replica that lives
                continue

    def __serve_build_asgi_app__(self) -> Any:
        """What Ray Serve asks for: the application, whose lifespan it keeps."""
        return make_app(self.server)

    def check_health(self) -> None:
        """Ray starts a replica anew where this raises."""
        if self.server.worker.failed is not None:
            raise RuntimeError("the worker has ended") from self.server.worker.failed


def build(args: Mapping[str, Any]) -> Any:
    """The application of Ray Serve with these keys. Raises `UsageError`."""
    for name, of_rays in _RAYS.items():
        if name in args:
            raise UsageError(f"{name}: Ray listens; give it in its {of_rays}")
    if missing := [name for name in ("database", "files") if not args.get(name)]:
        text = "replicas share what is waiting and what is made"
        raise UsageError(f"{' and '.join(missing)}: missing; {text}: give both a URL")
    from ray import serve  # an extra

    grace = float(args.get("grace", keys()["grace"].default))
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name="wanjax",
        max_ongoing_requests=CONNECTIONS,
        graceful_shutdown_timeout_s=grace + _MORE,
    )
    given = {name: "null" if value is None else value for name, value in args.items()}
    return deployment.bind([f"{name}={value}" for name, value in given.items()])
