"""What every request passes: who asks, how it ended, and an answer whatever happens."""

from __future__ import annotations

import time
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wanjax.serve.auth import OPEN, Tokens
from wanjax.serve.errors import ApiError
from wanjax.serve.logs import LOG
from wanjax.serve.metrics import Metrics

_QUIET = (*OPEN, "/metrics")  # asked every few seconds


class Gate:
    """The application behind it finds the client in `request.state.client`.

    Who may not ask for `pages` is led to `login`; what is `open` is anybody's, and what begins with
    `quiet` is not logged.
    """

    def __init__(
        self,
        app: ASGIApp,
        tokens: Tokens,
        metrics: Metrics,
        open: Collection[str] = OPEN,
        pages: Collection[str] = (),
        login: str = "",
        quiet: tuple[str, ...] = (),
    ):
        self.app, self.tokens, self.metrics = app, tokens, metrics
        self.open, self.pages, self.login, self.quiet = open, pages, login, quiet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        path, address = scope["path"], scope["client"][0] if scope["client"] else "local"
        client = address
        try:
            if path not in self.open:
                client = self.tokens.client(Headers(scope=scope), address)
            scope.setdefault("state", {})["client"] = client
            await self.app(scope, receive, told)
        except ApiError as error:
            answer: Response = JSONResponse(error.body, error.status)
            if error.status == 401 and path in self.pages:
                answer = RedirectResponse(self.login, 303)
            await answer(scope, receive, told)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self.metrics.requests.labels(method, str(status)).inc()
            if path not in _QUIET and not path.startswith(self.quiet):
                took = round(time.perf_counter() - began, 4)
                facts = {"path": path, "status": status, "client": client, "seconds": took}
                LOG.info(method, extra=facts)


_METHODS = ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH")
