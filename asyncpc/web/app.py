"""The page as a Starlette app: what it answers, and to whom."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import anyio
from anyio import to_thread
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from ..errors import AsyncpcError
from .commands import LONGEST, Command, MalformedError, command_from
from .feed import Feed
from .guard import Asked, Guard, Refusal
from .runs import Shown

__all__ = ["Page"]

PAGE: Final = Path(__file__).with_name("page.html").read_bytes()  # here, since a loop must not wait for files

MOST: Final = 64
"""Clients that may be told of news at once."""

SLOWEST: Final = 30.0
"""Seconds that a client may take for one snapshot, or for sending a command."""


class Page:
    """See the module. ``shown`` says what there is to show, each time it is asked."""

    def __init__(self, shown: Callable[[], Sequence[Shown]], guard: Guard, *, payloads: bool) -> None:
        self._shown = shown
        self._guard = guard
        self._payloads = payloads
        self.feed: Feed = Feed(self._snapshot)
        self._clients = 0
        self._last: int | None = None  # the number of the last snapshot that clients are told
        self._headers = {
            "cache-control": "no-store",
            "content-security-policy": _policy(PAGE.decode()),
            "cross-origin-resource-policy": "same-origin",
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
            "x-frame-options": "DENY",
        }

    def app(self) -> Starlette:
        """What a server serves, or another app mounts."""
        return Starlette(
            routes=[
                Route("/", self._page),
                Route("/api/snapshot", self._now),
                Route("/api/events", _Endpoint(self._events)),
                Route("/api/workers", self._workers),
                Route("/api/control", self._control, methods=["POST"]),
            ]
        )

    def end(self) -> None:
        """Tell each client what there is to see now, and no more."""
        self._last = self.feed.end()

    # -- what it answers --------------------------------------------------------------------------

    async def _page(self, request: Request) -> Response:
        refused = self._guard.check_host(_asked(request))
        return self._refused(refused) if refused else Response(PAGE, 200, self._headers, "text/html")

    async def _now(self, request: Request) -> Response:
        refused = self._guard.check_read(_asked(request))
        return self._refused(refused) if refused else self._json((await self.feed.now()).text)

    async def _workers(self, request: Request) -> Response:
        if refused := self._guard.check_read(_asked(request)):
            return self._refused(refused)
        asked = request.query_params
        found = await self._named(asked.get("pipeline", ""))
        if found is None:
            return self._refused(_UNKNOWN)
        workers = await to_thread.run_sync(found.workers, asked.get("stage", ""), abandon_on_cancel=True)
        return self._json(_as_json({"workers": [*workers]}))

    async def _control(self, request: Request) -> Response:
        if refused := self._guard.check_control(_asked(request)):
            return self._refused(refused)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return self._refused(Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a command is JSON: application/json"))
        body = await _body(request)
        if isinstance(body, Refusal):
            return self._refused(body)
        try:
            command = command_from(body)
        except MalformedError as error:
            return self._refused(Refusal(HTTPStatus.BAD_REQUEST, str(error)))
        found = await self._named(command.pipeline)
        return self._refused(_UNKNOWN) if found is None else await self._carried_out(found, command)

    async def _carried_out(self, found: Shown, command: Command) -> Response:
        try:
            await to_thread.run_sync(found.carry_out, command)
        except TimeoutError:
            why = "the event loop of the run does not answer, so nothing was done"
            return self._refused(Refusal(HTTPStatus.SERVICE_UNAVAILABLE, why))
        except AsyncpcError as error:
            return self._refused(Refusal(HTTPStatus.CONFLICT, str(error)))
        return self._json(b"{}")

    async def _events(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        refused = self._guard.check_read(_asked(request))
        if refused is None and self._clients >= MOST:
            refused = Refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"{MOST} others are watching")
        if refused is not None:
            await self._refused(refused)(scope, receive, send)
            return

        async def in_time(message: Message) -> None:
            with anyio.fail_after(SLOWEST):
                await send(message)

        self._clients += 1
        try:
            with suppress(TimeoutError, ClientDisconnect):  # whoever does not read is dropped
                response = StreamingResponse(self._news(), 200, self._headers, "text/event-stream")
                await response(scope, receive, in_time)
        finally:
            self._clients -= 1

    async def _news(self) -> AsyncIterator[bytes]:
        number = 0
        while self._last is None or number < self._last:
            snapshot = await self.feed.after(number)
            number = snapshot.number
            yield b"data: " + snapshot.text + b"\n\n"

    # -- what it is made of -----------------------------------------------------------------------

    def _snapshot(self, kept: bool) -> bytes:
        pipelines = [{"name": one.name, "view": one.look(self._payloads, kept=kept)} for one in self._shown()]
        return _as_json({"pipelines": pipelines, "controls": self._guard.allows_control})

    async def _named(self, name: str) -> Shown | None:
        shown = await to_thread.run_sync(self._shown, abandon_on_cancel=True)  # it may wait for the loop of a parent
        return next((one for one in shown if one.name == name), None)

    def _json(self, text: bytes, status: int = 200) -> Response:
        return Response(text, status, self._headers, "application/json")

    def _refused(self, refusal: Refusal) -> Response:
        return self._json(_as_json({"why": refusal.why}), refusal.status)


_UNKNOWN: Final = Refusal(HTTPStatus.NOT_FOUND, "there is no such pipeline")


class _Endpoint:
    """Lets Starlette call a function as an ASGI app, which it does with objects only."""

    def __init__(self, serve: Callable[[Scope, Receive, Send], Any]) -> None:
        self._serve = serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._serve(scope, receive, send)


def _asked(request: HTTPConnection) -> Asked:
    return Asked(None if request.client is None else request.client.host, request.headers)


async def _body(request: Request) -> bytes | Refusal:
    """The body of a request; it must be short, and come soon."""
    body = b""
    try:
        with anyio.fail_after(SLOWEST):
            async for piece in request.stream():
                body += piece
                if len(body) > LONGEST:
                    why = f"a command has at most {LONGEST:,} bytes"
                    return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, why)
    except (TimeoutError, ClientDisconnect):
        return Refusal(HTTPStatus.REQUEST_TIMEOUT, "the command has not come")
    return body


def _as_json(told: Any) -> bytes:
    return json.dumps(told).encode()


def _policy(html: str) -> str:
    """What a browser may load and run: this script and this style, known by their hashes, and answers from here."""
    script, style = (_hashes(tag, html) for tag in ("script", "style"))
    rest = (
        "require-trusted-types-for 'script'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; {rest}"


def _hashes(tag: str, html: str) -> str:
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found]
    return " ".join([f"'sha256-{digest}'" for digest in digests])
