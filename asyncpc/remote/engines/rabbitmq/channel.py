"""A channel of RabbitMQ: sends many commands at once, and is the one place where anything waits for the server.

The client's own makes a task for each message. This one takes its place in the client's connection: it sees each frame
when it is read. What waits ends by :meth:`Channel.until` alone: with the answer, with the channel or its connection, or
when the server has said nothing for some seconds, whichever is first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeVar

from aiormq.abc import ChannelFrame
from pamqp.base import Frame
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.commands import Channel as On
from pamqp.frame import marshal
from pamqp.header import ContentHeader

from ...broker import Disconnected, NotAllowed

__all__ = ["PATIENCE", "Channel", "Line", "Refused"]

R = TypeVar("R")

PATIENCE: Final = 10.0
"""Seconds without a word from the server after which the connection is given up."""


class Refused(Disconnected):
    """The server closed the channel since it does not do what it was asked."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code: int = code


class Line(NamedTuple):
    """What a channel needs of its connection."""

    send: Callable[[ChannelFrame], None]
    longest: int
    """Bytes that fit into a frame."""
    lost: Callable[[str], Disconnected]
    """The error to raise when it is of no more use."""
    is_blocked: Callable[[], Awaitable[bool]]
    """Whether the server takes nothing for now, and says so: it is short of memory, or of disk space."""


class _Call(NamedTuple):
    """Commands that were sent together, and their answers so far."""

    number: int
    answers: list[Any]
    done: asyncio.Future[list[Any]]


class Channel:
    """Sends commands, and takes what comes, until it is closed; then each call raises."""

    def __init__(self, line: Line, number: int) -> None:
        loop = asyncio.get_running_loop()
        self.frames: Channel = self  # the client puts them there
        self.over: asyncio.Future[None] = loop.create_future()
        """Done when it can do nothing more."""
        self._line: Line = line
        self._number: int = number
        self._error: Disconnected | None = None  # why it is over
        self._heard: float = 0.0  # when the last frame came; loop time
        self._calls: deque[_Call] = deque()
        self._content: Frame | None = None  # what is being read: its frame, its header, and its body so far
        self._header: ContentHeader = ContentHeader()
        self._parts: list[bytes] = []
        self._missing: int = 0

    # -- frames -----------------------------------------------------------------------------------

    async def put(self, item: tuple[int, Any]) -> None:
        """Take a frame; the client's reader calls it."""
        if self.over.done():
            return  # or what comes after a message that no queue got would confirm it
        self._heard = asyncio.get_running_loop().time()
        frame = item[1]
        if isinstance(frame, ContentBody):
            self._parts.append(frame.value)
            self._missing -= len(frame.value)
        elif isinstance(frame, ContentHeader):
            self._header, self._parts, self._missing = frame, [], frame.body_size or 0
        elif isinstance(frame, Basic.Deliver | Basic.Return):
            self._content = frame
            return
        else:
            self._on_method(frame)
            return
        if self._missing <= 0:
            self._on_content(self._content, self._header.properties, b"".join(self._parts))

    def _on_method(self, frame: Frame) -> None:
        if isinstance(frame, On.Close):
            self.send(marshal(On.CloseOk(), self._number))
            code, why = frame.reply_code or 0, str(self.lost(str(frame.reply_text)))
            self.end(NotAllowed(why) if code == 403 else Refused(code, why))
        elif self._calls:
            call = self._calls[0]
            call.answers.append(frame)
            if len(call.answers) == call.number:
                self._calls.popleft()
                if not call.done.done():
                    call.done.set_result(call.answers)

    def _on_content(self, frame: Frame | None, properties: Basic.Properties, body: bytes) -> None:
        """A whole message has come."""

    # -- its end ----------------------------------------------------------------------------------

    def end(self, why: Disconnected) -> None:
        """It is over: end what waits for it."""
        if self._error is None:
            self._error = why
            self.over.set_result(None)

    def check(self) -> None:
        """Raise if it is over."""
        if self._error is not None:
            raise self._error

    def lost(self, why: str) -> Disconnected:
        """The error to raise when it is of no more use."""
        return self._line.lost(why)

    async def until(self, wanted: asyncio.Future[R], what: str) -> R:
        """What comes of it; raises when the channel ends first, and ends it when the server says nothing.

        A server that says that it takes nothing for now is not one that says nothing.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        ends: tuple[asyncio.Future[Any], ...] = (wanted, self.over)
        while not wanted.done():
            self.check()
            left = max(began, self._heard) + PATIENCE - loop.time()
            if left > 0:
                await asyncio.wait(ends, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            elif await self._line.is_blocked():
                began = loop.time()
            else:
                self.end(self.lost(f"the server does not answer {what}"))
        return wanted.result()

    # -- commands ---------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send what was made of frames."""
        self.check()
        self._line.send(ChannelFrame(data, False))

    def tell(self, frames: Sequence[Frame]) -> None:
        """Send commands that have no answer."""
        self.send(b"".join([marshal(one, self._number) for one in frames]))

    async def call(self, *frames: Frame) -> list[Any]:
        """The answers to what is sent at once."""
        self.tell(frames)
        call = _Call(len(frames), [], asyncio.get_running_loop().create_future())
        self._calls.append(call)
        return await self.until(call.done, ", ".join([one.name for one in frames]))

    async def open(self) -> None:
        """Begin; once, before all else."""
        await self.call(On.Open())

    async def close(self) -> None:
        """Leave it; what came and was not settled goes back to its queue."""
        with suppress(Disconnected):
            await self.call(On.Close(reply_code=200, reply_text="", class_id=0, method_id=0))
        self.end(self.lost("the channel is closed"))
