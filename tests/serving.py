"""A server of a small random model, in this process: real HTTP, no network."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from small_folder import SMALL_RUN

from wanjax.config.resolve import resolve
from wanjax.pipeline.pipeline import WanPipeline
from wanjax.sampling.programs import Programs
from wanjax.serve.app import make_app
from wanjax.serve.model import Model
from wanjax.serve.server import Server

PROMPT = "a red ball moving left"
PROGRAMS = Programs()  # of all models: text encoder and VAE are the same
_PIPES: dict[Path, WanPipeline] = {}  # loaded once


class Running:
    """A server that answers at `url`, and how to ask it."""

    def __init__(self, server: Server, url: str):
        self.server, self.url = server, url

    def ask(
        self,
        path: str,
        body: Any = None,
        method: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, content (read as JSON where it is) and headers; a dict is sent as JSON."""
        headers = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers.setdefault("content-type", "application/json")
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, _content(answer), _lower(answer)
        except urllib.error.HTTPError as error:
            return error.code, _content(error), _lower(error)

    def create(self, **fields: Any) -> dict[str, Any]:
        status, video, _ = self.ask("/v1/videos", {"prompt": PROMPT, "seed": 1} | fields)
        assert status == 200, video
        return video

    def show(self, video: dict[str, Any]) -> dict[str, Any]:
        status, found, _ = self.ask(f"/v1/videos/{video['id']}")
        assert status == 200, found
        return found

    def wait(self, video: dict[str, Any], *until: str) -> dict[str, Any]:
        """The video once it has one of these states."""
        ends = time.monotonic() + 120
        while time.monotonic() < ends:
            found = self.show(video)
            if found["status"] in (until or ("completed", "failed")):
                return found
            time.sleep(0.02)
        raise AssertionError(f"still {found['status']} after two minutes: {found}")

    def made(self, video: dict[str, Any]) -> bytes:
        """The file of a video, once it is there."""
        assert self.wait(video)["status"] == "completed"
        return self.ask(f"/v1/videos/{video['id']}/content")[1]

    def die(self, video: dict[str, Any]) -> None:
        """End amid a video as if killed: nothing is given back, nobody is told."""
        peers = self.server.peers
        assert self.server.jobs.claim(video["id"], peers.own)
        peers._stopping.set()
        peers.stop = lambda: None


def _content(answer: Any) -> Any:
    content = answer.read()
    return json.loads(content) if "json" in answer.headers.get_content_type() else content


def _lower(answer: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.headers.items()}


@contextmanager
def serving(
    folder: Path,
    store: Path,
    *args: str,
    work: bool = True,
    beside: Sequence[Path] = (),
    warm_up: bool = False,
) -> Iterator[Running]:
    """A server of the model in `folder`; not to `work`, it accepts and makes nothing.

    Without `warm_up` it computes what it is asked for, and no other step.
    """
    models = {}
    for path in (folder, *beside):
        given = [f"model={path}", *SMALL_RUN, f"store={store}", f"warm_up={warm_up}", *args]
        config = resolve(given, "serve")
        model = Model.of(given, config)
        pipe = WanPipeline(model.pipe.components, config, PROGRAMS, model.pipe.target)
        model.pipe = _PIPES.setdefault(path, pipe).with_config(config)
        models[model.name] = model
    server = Server(models, config)
    if not work:
        server.worker.start = lambda: None
    # absl's handler, which JAX may bring, would close pytest's stderr if logging was set up anew
    web = uvicorn.Server(uvicorn.Config(make_app(server), port=0, log_config=None))
    thread = threading.Thread(target=web.run)
    thread.start()
    while not web.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = web.servers[0].sockets[0].getsockname()[1]
    try:
        yield Running(server, f"http://127.0.0.1:{port}")
    finally:
        web.should_exit = True
        thread.join()
