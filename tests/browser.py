"""The system's Chromium, driven by Playwright; nothing is downloaded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

FLAGS = [
    "--no-sandbox",  # root has none
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
]


def find_chromium() -> str:
    """The browser's path; skips the test without one."""
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("There is no browser here: `apt-get install chromium`, or install Google Chrome.")


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Browser,
    address: str,
    *,
    width: int = 1280,
    height: int = 900,
    dark: bool = False,
    streams: str = "",
) -> Iterator[Page]:
    """The page at an address, as someone new sees it.

    When it is left it must have logged no error or warning, and asked nobody but the server at
    that address for anything. It may itself end what it reads from below `streams`, and a video
    that it shows no longer.
    """
    errors: list[str] = []
    requests: list[str] = []

    def note(message: ConsoleMessage) -> None:
        # the tests read pixels, the page does not
        if message.type in ("error", "warning") and "getImageData" not in message.text:
            errors.append(message.text)

    def failed(request: Request) -> None:
        streamed = bool(streams) and request.url.startswith(streams)
        ended = request.failure == "net::ERR_ABORTED" and request.resource_type == "media"
        if not (streamed or ended):
            errors.append(f"failed: {request.url}")

    own = address if address.startswith("http") else "file://"
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
    )
    page = context.new_page()
    page.on("console", note)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("requestfailed", failed)
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    yield page
    context.close()
    assert errors == []
    assert [url for url in requests if not url.startswith((own, "blob:", "data:"))] == []
