"""Asks the page as a browser or a program does, without a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, MutableMapping
from typing import Any

import httpx

from asyncpc.web.guard import TOKEN_HEADER

TOKEN = "0123456789abcdef-token"

HOST = "127.0.0.1:8000"


class Browser:
    """Asks an app from this machine."""

    def __init__(self, app: Any, token: str = TOKEN, client: str = "127.0.0.1") -> None:
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app, client=(client, 40000)), base_url=f"http://{HOST}"
        )
        self._token = token

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self._client.get(path, headers=headers)

    async def view(self, pipeline: int = 0) -> Any:
        """What the page shows of a pipeline."""
        answer = await self.get("/api/snapshot")
        assert answer.status_code == 200, answer.text
        return answer.json()["pipelines"][pipeline]["view"]

    async def view_with(self, true: Callable[[Any], bool]) -> Any:
        """What the page shows as soon as that is true of it: one that was made just before is shared."""
        while not true(view := await self.view()):  # noqa: ASYNC110  # nobody tells when the page has changed
            await asyncio.sleep(0.05)
        return view

    async def post(self, content: bytes, **headers: str) -> httpx.Response:
        sent = {TOKEN_HEADER: self._token, "content-type": "application/json"}
        return await self._client.post("/api/control", content=content, headers=sent | headers)

    async def command(self, pipeline: str, action: str, **more: Any) -> tuple[int, str]:
        """The status, and why not."""
        answer = await self.post(json.dumps({"pipeline": pipeline, "action": action, **more}).encode())
        return answer.status_code, answer.json().get("why", "")


class Stream:
    """A client of ``/api/events`` that reads when it is told to."""

    def __init__(self, app: Any, spec: str = "2.3") -> None:
        self.pieces: list[bytes] = []
        self.may_read = asyncio.Event()
        """Cleared: it reads nothing, and what is sent to it waits."""
        self.may_read.set()
        self.has_news = asyncio.Condition()
        self._gone = asyncio.Event()
        self._app = app
        self._spec = spec  # servers of 2.4 and later tell of a client that is gone in another way
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Stream:
        headers = [(b"host", HOST.encode())]
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": self._spec},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/api/events",
            "raw_path": b"/api/events",
            "root_path": "",
            "query_string": b"",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
        }
        self._task = asyncio.create_task(self._app(scope, self._receive, self._send))
        return self

    async def __aexit__(self, *of: object) -> None:
        assert self._task is not None
        self._gone.set()
        self.may_read.set()
        await self._task

    async def until(self, true: Callable[[], bool]) -> None:
        async with self.has_news:
            await self.has_news.wait_for(true)

    async def ended(self) -> None:
        """Wait until the server has ended it."""
        assert self._task is not None
        await self._task

    def last(self) -> Any:
        """What was told last."""
        return json.loads(self.pieces[-1].removeprefix(b"data: "))

    async def _receive(self) -> MutableMapping[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        await self.may_read.wait()
        if body := message.get("body"):
            async with self.has_news:
                self.pieces.append(body)
                self.has_news.notify_all()
