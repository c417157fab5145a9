"""The routes: OpenAI's videos API, and what operators ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from wanjax.serve.bodies import read_body
from wanjax.serve.content import content
from wanjax.serve.errors import ApiError
from wanjax.serve.gate import Gate
from wanjax.serve.jobs import AwayError, Job
from wanjax.serve.logs import LOG
from wanjax.serve.loras import loras_in
from wanjax.serve.schemas import ModelList, ServedModel, Video, VideoDeleted, VideoList
from wanjax.serve.server import Server

_POLL = (0.2, 5.0)  # seconds between two looks of OpenAI's client, at least and at most
_MINUTE = 60.0
# Of the time that a video still takes, the part until the next look. Each look takes time from the
# video that is being made.
_UNTIL_NEXT_LOOK = 0.25


def make_app(server: Server) -> FastAPI:
    """The application over a server's parts; it starts the worker with itself."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        server.start()
        expiring = asyncio.create_task(_expire(server))
        yield
        expiring.cancel()
        await run_in_threadpool(server.close)

    app = FastAPI(title="wanjax", lifespan=lifespan, docs_url=None, redoc_url=None)
    gate: dict[str, Any] = {"tokens": server.tokens, "metrics": server.metrics}
    if server.config.ui:
        from wanjax.serve.page.mount import GATE, add_page  # an extra

        add_page(app, server)
        gate |= GATE
    app.add_middleware(Gate, **gate)
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(AwayError, _away)
    app.add_exception_handler(Exception, _fault)
    _add_videos(app, server)
    _add_operations(app, server)
    return app


def _add_videos(app: FastAPI, server: Server) -> None:
    async def body_of(request: Request) -> dict[str, Any]:
        return await read_body(request, server.largest)

    @app.post("/v1/videos")
    async def create(request: Request) -> Video:
        body = await body_of(request)
        job = await run_in_threadpool(server.create, body, client_of(request))
        return server.show(job)

    @app.post("/v1/videos/sync")
    async def create_and_wait(request: Request) -> Response:
        body = await body_of(request)
        job = await run_in_threadpool(server.create, body, client_of(request))
        job = await _until_done(server, job, request)
        found = await run_in_threadpool(content, server, job, "video", None)
        found.headers["x-video-id"] = job.id
        return found

    @app.get("/v1/videos")
    def page(
        request: Request,
        after: str | None = None,
        limit: int = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> VideoList:
        found = server.page(client_of(request), after, limit, order)
        shown = [server.show(job) for job in found.jobs]
        ends = (shown[0].id, shown[-1].id) if shown else (None, None)
        return VideoList(data=shown, first_id=ends[0], last_id=ends[1], has_more=found.has_more)

    @app.get("/v1/videos/{video_id}")
    def retrieve(request: Request, response: Response, video_id: str) -> Video:
        shown = server.show(server.get(video_id, client_of(request)))
        response.headers["openai-poll-after-ms"] = str(_poll_after(shown))
        return shown

    @app.get("/v1/videos/{video_id}/content", response_class=StreamingResponse)
    def download(request: Request, video_id: str, variant: str = "video") -> Response:
        job = server.get(video_id, client_of(request))
        return content(server, job, variant, request.headers.get("range"))

    @app.delete("/v1/videos/{video_id}")
    def delete(request: Request, video_id: str) -> VideoDeleted:
        server.delete(video_id, client_of(request))
        return VideoDeleted(id=video_id)

    @app.post("/v1/videos/{video_id}/remix")
    async def remix(request: Request, video_id: str) -> Video:
        body = await body_of(request)
        job = await run_in_threadpool(server.remix, video_id, body, client_of(request))
        return server.show(job)

    def served(*names: str) -> list[ServedModel]:
        loras = list(loras_in(server.config.lora_folder))
        return [ServedModel(id=n, created=server.models[n].created, loras=loras) for n in names]

    @app.get("/v1/models")
    def models() -> ModelList:
        return ModelList(data=served(*server.models))

    @app.get("/v1/models/{name}")
    def model(name: str) -> ServedModel:
        if name not in server.models:
            text = f"the model {name[:60]!r} is not served here"
            raise ApiError(404, text, code="model_not_found", param="model")
        return served(name)[0]


def _add_operations(app: FastAPI, server: Server) -> None:
    @app.get("/health")
    def health() -> JSONResponse:
        """Whether the server can still work."""
        fault = server.worker.failed
        about = {"status": "ok"} if server.worker.alive else {"status": f"failed: {fault}"}
        return JSONResponse(about, 200 if server.worker.alive else 503)

    @app.get("/metrics")
    def metrics() -> Response:
        """For Prometheus."""
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/ready")
    def ready() -> JSONResponse:
        """Whether the model is loaded, so that a job begins at once."""
        there = server.worker.alive and server.worker.ready.is_set()
        return JSONResponse({"ready": there}, 200 if there else 503)


def client_of(request: Request) -> str:
    """Who asks, as the gate has found."""
    return str(request.state.client)


async def _expire(server: Server) -> None:
    """Every minute, as long as the server runs."""
    while True:
        try:
            await run_in_threadpool(server.expire)
        except Exception:  # a database or bucket that does not answer now
            LOG.exception("nothing could be forgotten")
        await asyncio.sleep(_MINUTE)


async def _until_done(server: Server, job: Job, request: Request) -> Job:
    """The job once it has ended; where the client goes away it is deleted."""
    while job.state in ("queued", "in_progress"):
        await asyncio.sleep(_poll_after(server.show(job)) / 1000)
        if await request.is_disconnected():
            await run_in_threadpool(server.delete, job.id, None)
            raise ApiError(499, "the client has gone")
        job = await run_in_threadpool(server.get, job.id, None)
    if job.state == "failed":
        error = job.error or {"code": "server_error", "message": "the video failed"}
        raise ApiError(500, error["message"], code=error["code"], kind="server_error")
    return job


def _poll_after(shown: Video) -> int:
    """Milliseconds until it pays to look again."""
    eta = 1.0 if shown.eta_seconds is None else shown.eta_seconds * _UNTIL_NEXT_LOOK
    return int(1000 * min(max(eta, _POLL[0]), _POLL[1]))


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, error.status)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """What FastAPI has found wrong in a query."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = str(first["loc"][-1])
    text = f"{name}: {first['msg'][0].lower()}{first['msg'][1:]}"
    return JSONResponse(ApiError(400, text, param=name, code="invalid_value").body, 400)


async def _no_route(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    text = f"{request.method} {request.url.path[:200]}: {str(error.detail).lower()}"
    body = ApiError(error.status_code, text, code="not_found").body
    return JSONResponse(body, error.status_code, error.headers)


async def _away(request: Request, error: Exception) -> JSONResponse:
    body = ApiError(503, "the database does not answer: try again", kind="server_error")
    return JSONResponse(body.body, 503, {"retry-after": "5"})


async def _fault(request: Request, error: Exception) -> JSONResponse:
    """Ours; the log has the trace."""
    LOG.error("fault", exc_info=error, extra={"path": request.url.path})
    body = ApiError(500, "the server failed at this request; its log says how", kind="server_error")
    return JSONResponse(body.body, 500)
