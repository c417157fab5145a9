"""Who may ask: bearer tokens, and without any only what no foreign page can send."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import cookie_parser

from wanjax.errors import UsageError
from wanjax.files import read_text
from wanjax.serve.errors import ApiError

OPEN = ("/health", "/ready")  # what is asked by machines that start servers
COOKIE = "wanjax-token"  # of a browser that has the page
_SHORTEST = 16  # characters of a token


@dataclass(frozen=True)
class Tokens:
    """Clients by the digest of their token; empty: there are none to be had."""

    clients: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | None) -> Tokens:
        """Of a file with one token a line, or NAME TOKEN. Raises `UsageError`."""
        if path is None:
            return cls()
        clients = {}
        for number, line in enumerate(read_text(Path(path)).splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            *name, token = line.split()
            if len(name) > 1 or len(token) < _SHORTEST:
                raise UsageError(
                    f"tokens={path}: line {number} must be TOKEN or NAME TOKEN, a token having "
                    f"{_SHORTEST} characters or more"
                )
            clients[_digest(token)] = name[0] if name else _digest(token)[:12]
        if not clients:
            raise UsageError(f"tokens={path} holds no token: write one a line")
        return cls(clients)

    def client(self, headers: Headers, address: str) -> str:
        """Who asks. Raises `ApiError` for one who may not."""
        if not self.clients:
            _require_own_page(headers, address)
            return address
        kind, _, token = headers.get("authorization", "").partition(" ")
        found = self.find(token.strip()) if kind.lower() == "bearer" else None
        if found is None and "authorization" not in headers and (kept := _cookie(headers)):
            _require_own_origin(headers)  # a browser sends it whoever asks it to
            found = self.find(kept)
        if found is None:
            text = "a token is needed that this server knows, as Authorization: Bearer TOKEN"
            raise ApiError(401, text, code="invalid_api_key")
        return found

    def find(self, token: str) -> str | None:
        """The client that has this token."""
        return self.clients.get(_digest(token))


def _require_own_page(headers: Headers, address: str) -> None:
    """A browser on this machine would send what any page asks it to.

    Not what names another site as its origin, nor, from this machine itself, a name that leads
    here: a page may have its own name lead here.
    """
    _require_own_origin(headers)
    host = headers.get("host", "")
    name = urlsplit(f"//{host}").hostname or ""
    if _is_loopback(address) and not _is_plain(name):
        text = f"host {name[:100]} is no name of this machine; tokens=FILE lets others ask"
        raise ApiError(403, text, code="foreign_host")


def _require_own_origin(headers: Headers) -> None:
    host, origin = headers.get("host", ""), headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        text = f"origin {origin[:100]} is another site's page; tokens=FILE lets pages ask"
        raise ApiError(403, text, code="foreign_origin")


def _cookie(headers: Headers) -> str | None:
    """The token that the page has the browser keep."""
    return cookie_parser(headers.get("cookie", "")).get(COOKIE)


def _is_plain(name: str) -> bool:
    """`localhost`, or an address: no name that somebody else gives."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
    return True


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _digest(token: str) -> str:
    """Compared instead of the token, so that times tell nothing of it."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()
