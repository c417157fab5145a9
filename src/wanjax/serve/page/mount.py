"""The page on the server: its address, what is served there, and how a browser says who it is."""

from __future__ import annotations

import re
import sys
from html import escape
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wanjax.errors import printable
from wanjax.serve.auth import COOKIE, OPEN, Tokens
from wanjax.serve.bodies import forget, read_body
from wanjax.serve.errors import ApiError
from wanjax.serve.logs import LOG
from wanjax.serve.page.actions import Actions
from wanjax.serve.server import Server

PAGE, LOGIN, MANIFEST, ICON = "/page", "/login", "/manifest.json", "/favicon.ico"
# What the gate has to know: which paths need no token, and who is led to the login.
GATE = {
    "open": (*OPEN, LOGIN, MANIFEST, ICON),
    "pages": ("/", PAGE, f"{PAGE}/"),
    "login": LOGIN,
    "quiet": (f"{PAGE}/", ICON, MANIFEST),
}
_HERE = Path(__file__).parent
_LOGIN = 2**12  # bytes of a form with a token
_SESSIONS, _WAITING = 200, 100  # whose fields Gradio remembers; clicks that wait
# What Gradio's page asks for. It has many more routes: for files, uploads, proxies, other pages.
_SERVED = re.compile(
    r"/|/config|/theme\.css|/(static|assets|svelte)/[\w./@-]+"
    r"|/gradio_api/(info|startup-events|queue/join|queue/data|cancel|heartbeat/\w+)"
)
_POLICY = (
    # Gradio makes functions of its components' templates
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "font-src 'self' data:; object-src 'none'; frame-ancestors 'none'; base-uri 'self'"
)
_ICON = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'><path fill='#2f5fa8' "
    "d='M1 3h4v10H1zM6 3h4v10H6z'/><path fill='none' stroke='#2f5fa8' d='M11.5 3.5h3v9h-3z'/></svg>"
)
_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif")

# Beside `page.css`: paper, ink and accent of `wanjax compare`'s report.
_LOOK = {
    "body_background_fill": "#faf9f6",
    "body_background_fill_dark": "#141519",
    "block_background_fill_dark": "#1c1e23",
    "input_background_fill_dark": "#141519",
    "button_primary_background_fill": "#2f5fa8",
    "button_primary_background_fill_hover": "#264f8d",
    "button_primary_background_fill_dark": "#8db4f2",
    "button_primary_background_fill_hover_dark": "#a9c7f6",
    "button_primary_text_color": "#ffffff",
    "button_primary_text_color_dark": "#141519",
    "slider_color": "#2f5fa8",
    "slider_color_dark": "#8db4f2",
}


def add_page(app: FastAPI, server: Server) -> None:
    """Serve the page below `PAGE`; `/` leads there, `LOGIN` asks for a token."""
    import gradio as gr  # takes seconds

    from wanjax.serve.page.blocks import Page

    @app.get("/")
    def root() -> Response:
        return RedirectResponse(f"{PAGE.removeprefix('/')}/")

    @app.get(MANIFEST)
    def manifest() -> Response:
        return JSONResponse({"name": "wanjax", "start_url": f".{PAGE}/"})

    @app.get(ICON)
    def icon() -> Response:
        return Response(_ICON, media_type="image/svg+xml")

    @app.get(LOGIN)
    def ask() -> Response:
        return _login("")

    @app.post(LOGIN)
    async def enter(request: Request) -> Response:
        return await _enter(request, server.tokens)

    page = Page(Actions(server))
    page.blocks.state_session_capacity = _SESSIONS
    page.blocks.queue(max_size=_WAITING, default_concurrency_limit=8, api_open=False)
    # Gradio's spelling. At each event it would make a table of the last 10,000, for nobody.
    page.blocks._queue.ANAYLTICS_CACHE_FREQUENCY = sys.maxsize
    theme = gr.themes.Base(
        primary_hue="blue",
        neutral_hue="stone",
        radius_size="lg",
        font=_FONTS,
        font_mono=("ui-monospace", "monospace"),
    ).set(**_LOOK)
    gr.mount_gradio_app(
        app, page.blocks, PAGE, css_paths=_HERE / "page.css", theme=theme,
        footer_links=[], run_history=False, ssr_mode=False, show_error=False, pwa=False,
        mcp_server=False, enable_monitoring=False, max_file_size=1, server_name="127.0.0.1",
    )  # fmt: skip
    (mounted,) = (route.app for route in app.routes if isinstance(route, Mount))
    assert isinstance(mounted, FastAPI)
    mounted.add_exception_handler(KeyError, _unknown)
    app.add_middleware(_Shell, largest=server.largest)


class _Shell:
    """Of what Gradio has, the page's own; bodies of a bounded size, and nothing from elsewhere."""

    def __init__(self, app: ASGIApp, largest: int):
        self.app, self.largest = app, largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(f"{PAGE}/"):
            await self.app(scope, receive, send)
            return
        path = scope["path"].removeprefix(PAGE)
        if not _SERVED.fullmatch(path) or ".." in path:
            raise ApiError(404, f"{scope['method']} {scope['path'][:200]}: not found")
        size = Headers(scope=scope).get("content-length", "0")
        sized = "transfer-encoding" not in Headers(scope=scope) and size.isdecimal()
        if scope["method"] == "POST" and not (sized and int(size) <= self.largest):
            await forget(receive)
            text = f"the request has more than the {self.largest / 2**20:.3g} MiB that are read"
            raise ApiError(413, text, code="request_too_large")

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["content-security-policy"] = _POLICY
                headers["x-content-type-options"] = "nosniff"
                headers["referrer-policy"] = "same-origin"
            await send(message)

        await self.app(scope, receive, told)


async def _unknown(request: Request, error: Exception) -> JSONResponse:
    """A click on what the page does not have: one that it had before the server started anew."""
    LOG.warning("unknown", extra={"path": request.url.path, "asked": printable(str(error), 60)})
    text = "the page has no such thing: load it again"
    return JSONResponse(ApiError(400, text, code="unknown_parameter").body, 400)


async def _enter(request: Request, tokens: Tokens) -> Response:
    """Keep a right token in the browser, where no script sees it and no other site sends it."""
    token = str((await read_body(request, _LOGIN)).get("token", "")).strip()
    if tokens.clients and tokens.find(token) is None:
        return _login("this server does not know that token", 401)
    found = RedirectResponse(f"{PAGE.removeprefix('/')}/", 303)
    secure = request.url.scheme == "https"
    found.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=secure)
    return found


def _login(fault: str, status: int = 200) -> Response:
    text = (_HERE / "login.html").read_text(encoding="utf-8")
    return HTMLResponse(text.replace("<!-- fault -->", escape(fault)), status)
