"""
serve videos over HTTP, in the shape of OpenAI's videos API

usage: wanjax serve [PRESET|FILE] [port=8000] [key=value ...]

  wanjax serve                                         # the bundled model, on this machine alone
  wanjax serve ui=True                                 # with a page, at http://localhost:8000
  wanjax serve tiny-i2v port=9000 store=videos
  wanjax serve wan2.2-t2v-a14b use_magcache=True       # what all videos have as defaults
  wanjax serve tiny-t2v also=tiny-i2v                  # two models; a request's `model` says which

  curl localhost:8000/v1/videos -H 'content-type: application/json' \\
       -d '{"prompt": "a red ball moving right", "num_inference_steps": 20}'

A request's fields are keys of the configuration, with the values of the command line as
defaults; OpenAI's own (`size`, `seconds`, `input_reference`) are known. The queue outlives the
server: what was being made when it ended is made again, from its seed. Ctrl-C ends it.
"""

from __future__ import annotations

import importlib.util
import math
import signal
import socket
import sys
import warnings
from collections.abc import Sequence

from wanjax.cli.interrupts import signals_to
from wanjax.cli.together import FromFirst, together
from wanjax.config.keys import Config
from wanjax.config.resolve import resolve
from wanjax.errors import Notice, RunError, UsageError

_ENDING = (signal.SIGINT, signal.SIGTERM)
_CONNECTIONS = 200  # at once; more are told to come again
_NEEDED = ("fastapi", "uvicorn", "sqlalchemy", "python_multipart", "fsspec", "prometheus_client")


def run(args: Sequence[str]) -> int:
    config = resolve(args, "serve")
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise UsageError(f"serve needs {', '.join(missing)}: pip install 'wanjax[serve]'")
    if config.ui and importlib.util.find_spec("gradio") is None:
        raise UsageError("ui=True needs gradio: pip install 'wanjax[serve,ui]'")

    def command(config: Config, from_first: FromFirst) -> None:
        from wanjax.parallel.hosts import is_first  # imports JAX

        if is_first():
            with _listen(config.host, config.port) as listener:
                _serve(args, config, listener)
        else:
            _follow(args, config)

    return together(config, command, lasting=True)


def _serve(args: Sequence[str], config: Config, listener: socket.socket) -> None:
    import uvicorn  # imports a web server

    from wanjax.parallel.hosts import several  # imports JAX
    from wanjax.serve.app import make_app
    from wanjax.serve.model import models_of
    from wanjax.serve.process import settle
    from wanjax.serve.server import Server

    settle(config)
    models = models_of(args, config)
    server = Server(models, config)
    host, port = listener.getsockname()[:2]
    _tell(f"{', '.join(models)} at http://{host}:{port}/v1/videos, kept in {config.store}")
    if config.ui:
        _tell(f"a page for people at http://{host}:{port}/")
    if server.peers.recovered:
        _tell(f"{server.peers.recovered} videos that were being made are made again")
    web = uvicorn.Server(
        uvicorn.Config(
            make_app(server),
            log_config=None,
            limit_concurrency=_CONNECTIONS,
            # /v1/videos/sync answers when its video is there, which may be long after
            timeout_graceful_shutdown=math.ceil(config.grace),
        )
    )
    server.told_to_end = lambda: web.should_exit
    if several():  # the others wait for a worker that has failed, in vain
        server.worker.when_failed = lambda: setattr(web, "should_exit", True)
    warnings.simplefilter("ignore", Notice)  # each video has its own
    with signals_to(lambda *_: setattr(web, "should_exit", True)):
        web.run(sockets=[listener])
    if several() and (server.worker.alive or server.worker.failed is not None):
        raise RunError("amid a step: start all processes again, and its video is made again")
    _tell("ended; what waits is made when the server starts again")


def _follow(args: Sequence[str], config: Config) -> None:
    """As one of several processes, of which the first one serves."""
    from wanjax.serve.hosts import follow  # imports JAX
    from wanjax.serve.model import models_of

    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)  # it ends with the first
    warnings.simplefilter("ignore", Notice)
    follow(models_of(args, config))


def _listen(host: str, port: int) -> socket.socket:
    """Before anything is loaded; raises `UsageError` for an address that cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"host={host} port={port}: cannot listen there: {reason}") from error


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
