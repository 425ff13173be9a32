"""Pages for machines over HTTP: in an ASGI app, or served by the event loop beside a run.

The small server has no task and no thread: a connection is a protocol object. It answers one request per connection,
reads at most 8 KiB of it, and gives up after 10 s, so whoever is slow, or sends nonsense, holds up nobody. In a loop
that is blocked it does not answer, and neither does the ASGI app: to a probe that is the right answer.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from ..logs import WARNING, log
from ..wording import summary

__all__ = ["AsgiApp", "Page", "Pages", "asgi_app", "serving", "text_page"]

LONGEST: Final = 8192
"""Bytes of a request that are read."""

LIMIT: Final = 10.0
"""Seconds that a connection may take, from its beginning to its end."""

MOST: Final = 64
"""Connections at once; further ones are closed."""


class Page(NamedTuple):
    """The answer to a request."""

    status: HTTPStatus
    kind: str
    """Its content type."""
    body: bytes


Pages = Mapping[str, Callable[[str], Page]]
"""What makes the page of each path; it gets the ``Accept`` header of the request."""

AsgiApp = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[MutableMapping[str, Any]]],
        Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ],
    Awaitable[None],
]


def text_page(status: HTTPStatus, text: str) -> Page:
    """A page of plain text."""
    return Page(status, "text/plain; charset=utf-8", f"{text}\n".encode())


def _answer(pages: Pages, method: str, path: str, accept: str) -> Page:
    if method not in ("GET", "HEAD"):
        return text_page(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD")
    page = pages.get(path.rstrip("/") or "/")
    if page is None:
        return text_page(HTTPStatus.NOT_FOUND, f"there are: {', '.join(pages)}")
    try:
        return page(accept)
    except Exception as error:  # of another collector in the registry
        log(WARNING, "%s cannot be shown: %s", path, summary(error), error=error)
        return text_page(HTTPStatus.INTERNAL_SERVER_ERROR, "this page cannot be shown; the log of the program says why")


def _headers(page: Page) -> list[tuple[str, str]]:
    allow = [("allow", "GET, HEAD")] if page.status is HTTPStatus.METHOD_NOT_ALLOWED else []
    return [
        ("content-type", page.kind),
        ("content-length", str(len(page.body))),
        ("cache-control", "no-store"),
        *allow,
    ]


# -- in a web app ---------------------------------------------------------------------------------


def asgi_app(pages: Pages) -> AsgiApp:
    """The pages as an ASGI app, to be mounted anywhere."""

    async def app(
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http":  # ASGI asks an app to raise then; a server goes on without "lifespan"
            raise ValueError(f"this app serves http only, not {scope['type']}")
        path, mounted_at = scope["path"], scope.get("root_path", "").rstrip("/")
        if f"{path}/".startswith(f"{mounted_at}/"):  # older frameworks have removed it themselves
            path = path[len(mounted_at) :]
        accept = b",".join([value for name, value in scope["headers"] if name.lower() == b"accept"])
        page = _answer(pages, scope["method"], path, accept.decode("latin-1"))
        headers = [(name.encode(), value.encode()) for name, value in _headers(page)]
        await send({"type": "http.response.start", "status": page.status.value, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else page.body})

    return app


# -- beside a run ---------------------------------------------------------------------------------


@asynccontextmanager
async def serving(pages: Pages, listening: socket.socket) -> AsyncIterator[None]:
    """Serve the pages while the block runs, on a socket that listens already; it is closed afterwards."""
    connections: set[_Connection] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(pages, connections), sock=listening)
    try:
        yield
    finally:
        server.close()
        for connection in tuple(connections):
            connection.abort()


class _Connection(asyncio.Protocol):
    def __init__(self, pages: Pages, connections: set[_Connection]) -> None:
        self._pages = pages
        self._connections = connections
        self._received = b""
        self._is_answered = False
        self._transport: asyncio.Transport
        self._limit: asyncio.TimerHandle

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._limit = asyncio.get_running_loop().call_later(LIMIT, self.abort)
        self._connections.add(self)
        if len(self._connections) > MOST:
            self.abort()

    def data_received(self, data: bytes) -> None:
        if self._is_answered:
            return
        self._received += data
        head, end, _ = self._received.replace(b"\r\n", b"\n").partition(b"\n\n")
        if end:
            self._reply(head.decode("latin-1"))
        elif len(self._received) > LONGEST:
            self._send(text_page(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "this request is too long"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._limit.cancel()
        self._connections.discard(self)

    def abort(self) -> None:
        """End the connection at once."""
        self._transport.abort()

    def _reply(self, head: str) -> None:
        request, *lines = head.split("\n")
        words = request.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            self._send(text_page(HTTPStatus.BAD_REQUEST, "this is not an HTTP/1.1 request"))
            return
        method, target, _ = words
        fields = [line.partition(":") for line in lines]
        accept = ",".join([value.strip() for name, _, value in fields if name.strip().lower() == "accept"])
        page = _answer(self._pages, method, target.partition("?")[0], accept)
        self._send(page._replace(body=b"") if method == "HEAD" else page, _headers(page))

    def _send(self, page: Page, headers: list[tuple[str, str]] | None = None) -> None:
        self._is_answered = True
        fields = [*(_headers(page) if headers is None else headers), ("connection", "close")]
        status = f"HTTP/1.1 {page.status.value} {page.status.phrase}\r\n"
        head = status + "".join([f"{name}: {value}\r\n" for name, value in fields])
        self._transport.write(head.encode("latin-1") + b"\r\n" + page.body)
        self._transport.close()
