"""A channel of RabbitMQ that sends many commands and messages at once.

The client's own makes a task for each message. This one takes its place in the client's connection: it sees each frame
when it is read. Whatever ends it, and a server that says nothing, ends every call.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, Final, NamedTuple

from aiormq.abc import ChannelFrame
from pamqp.base import Frame
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.commands import Channel as On
from pamqp.common import FieldTable
from pamqp.frame import marshal
from pamqp.header import ContentHeader

from ...wording import shown
from ..broker import Disconnected

__all__ = ["MOST", "PATIENCE", "Channel", "Delivery", "Line", "Parcel", "Refused", "Unsendable"]

PATIENCE: Final = 10.0
"""Seconds without a word from the server after which the connection is given up."""

PING: Final = 3.0
"""Seconds after which a server that has no message is asked whether it is there."""

AT_ONCE: Final = 1000
"""Messages that are sent before their confirmations are waited for."""

BYTES_AT_ONCE: Final = 8 * 2**20

MOST: Final = 65_535
"""Messages that one consumer can have in hand."""

UNDER_WAY: Final = 14 * 86400
"""Seconds that a delivery may be under way, where the server lets its clients choose (from 3.12 on)."""


class Delivery(NamedTuple):
    """A message as the server sent it."""

    tag: int
    properties: Basic.Properties
    body: bytes


class Parcel(NamedTuple):
    """A message to send to a queue."""

    queue: str
    properties: Basic.Properties
    body: bytes


class Unsendable(Exception):
    """The headers of a message do not fit into a frame; the server would close the connection."""

    def __init__(self, place: int) -> None:
        super().__init__("the headers of a message are too long")
        self.place: int = place


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


class _Call:
    """Commands that were sent together, and their answers so far."""

    def __init__(self, number: int) -> None:
        self.answers: list[Any] = []
        self.number: int = number
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Channel:
    """Sends commands and messages, and takes what comes, until it is closed; then each call raises."""

    def __init__(self, line: Line, number: int) -> None:
        self.on_delivery: Callable[[Delivery], None] = lambda delivery: None
        """Called with each message that comes."""
        self.unsettled: dict[int, None] = {}
        """The tags of what came and was not settled, in order."""
        self.frames: Channel = self  # the client puts them there
        self._line: Line = line
        self._number: int = number
        self._error: Disconnected | None = None  # why it is over
        self._heard: int = 0  # frames
        self._calls: deque[_Call] = deque()
        self._content: Frame | None = None  # what is being read: its frame, its header, and its body so far
        self._header: ContentHeader | None = None
        self._parts: list[bytes] = []
        self._missing: int = 0
        self._sent: int = 0  # messages
        self._unconfirmed: dict[int, int] = {}  # the place in its call of each message
        self._refused: list[int] = []
        self._confirmed: asyncio.Event = asyncio.Event()
        self._consumers: Iterator[int] = count(1)
        self._came: int = 0
        self._is_asked_back: bool = False
        self._changed: asyncio.Event = asyncio.Event()

    # -- frames -----------------------------------------------------------------------------------

    async def put(self, item: tuple[int, Any]) -> None:
        """Take a frame; the client's reader calls it."""
        self._heard += 1
        frame = item[1]
        if isinstance(frame, ContentBody):
            self._parts.append(frame.value)
            self._missing -= len(frame.value)
        elif isinstance(frame, ContentHeader):
            self._header, self._parts, self._missing = frame, [], frame.body_size or 0
        else:
            self._on_method(frame)
            return
        if self._missing <= 0:
            self._on_content()

    def _on_method(self, frame: Frame) -> None:
        if isinstance(frame, Basic.Deliver | Basic.Return):
            self._content = frame
        elif isinstance(frame, Basic.Ack | Basic.Nack):
            self._on_confirmed(frame.delivery_tag or 0, bool(frame.multiple), isinstance(frame, Basic.Nack))
        elif isinstance(frame, On.Close):
            self._send(marshal(On.CloseOk(), self._number))
            self.end(Refused(frame.reply_code or 0, str(self._line.lost(str(frame.reply_text)))))
        elif isinstance(frame, Basic.Cancel):
            self.end(self._line.lost("the queue is gone"))
        elif self._calls:
            call = self._calls[0]
            call.answers.append(frame)
            if len(call.answers) == call.number:
                self._calls.popleft()
                _end(call)

    def _on_content(self) -> None:
        frame, header = self._content, self._header
        if isinstance(frame, Basic.Return):
            self.end(self._line.lost(f"there is no queue {shown(frame.routing_key)} any more"))
        elif isinstance(frame, Basic.Deliver) and header is not None:
            tag = frame.delivery_tag or 0
            self.unsettled[tag] = None
            self._came += 1
            self._changed.set()
            self.on_delivery(Delivery(tag, header.properties, b"".join(self._parts)))

    def _on_confirmed(self, tag: int, is_multiple: bool, is_refused: bool) -> None:
        unconfirmed = self._unconfirmed
        if not is_multiple:
            tags = [tag] if tag in unconfirmed else []
        else:
            tags = []
            for one in unconfirmed:
                if one > tag:
                    break
                tags.append(one)
        for one in tags:
            place = unconfirmed.pop(one)
            if is_refused:
                self._refused.append(place)
        if not unconfirmed:
            self._confirmed.set()

    def end(self, why: Disconnected) -> None:
        """It is over: end what waits for it."""
        self._error = self._error or why
        self._changed.set()
        self._confirmed.set()
        for call in self._calls:
            _end(call)

    def check(self) -> None:
        """Raise if it is over."""
        if self._error is not None:
            raise self._error

    @property
    def is_over(self) -> bool:
        """Whether it can do nothing more."""
        return self._error is not None

    def _send(self, data: bytes) -> None:
        self._line.send(ChannelFrame(data, False))

    # -- commands ---------------------------------------------------------------------------------

    def tell(self, frames: Sequence[Frame]) -> None:
        """Send commands that have no answer."""
        self.check()
        self._send(b"".join([marshal(one, self._number) for one in frames]))

    async def call(self, *frames: Frame) -> list[Any]:
        """The answers to what is sent at once."""
        self.tell(frames)
        call = _Call(len(frames))
        self._calls.append(call)
        heard = -1
        while not call.done.done():
            if heard == self._heard:
                self.end(self._line.lost("the server does not answer"))
            heard = self._heard
            await asyncio.wait([call.done], timeout=PATIENCE)
        if len(call.answers) < call.number:
            self.check()
        return call.answers

    async def sync(self) -> None:
        """Return once the server has heard all that was said before."""
        await self.call(Basic.Qos())

    async def close(self) -> None:
        """Leave it; what came and was not settled goes back to its queue."""
        with suppress(Disconnected):
            await self.call(On.Close(reply_code=200, reply_text="", class_id=0, method_id=0))
        self.end(self._line.lost("the channel is closed"))

    # -- messages ---------------------------------------------------------------------------------

    async def publish(self, parcels: Sequence[Parcel]) -> list[int]:
        """Send the messages, and wait until all are confirmed; returns the places of those that were refused.

        Raises ``Unsendable``.
        """
        self._refused = []
        for first, part in _parts(parcels):
            self.check()
            self._confirmed.clear()
            self._send(b"".join([self._marshalled(place, one) for place, one in enumerate(part, first)]))
            for place in range(first, first + len(part)):
                self._sent += 1
                self._unconfirmed[self._sent] = place
            await self._wait_for_confirmations()
        return self._refused

    def _marshalled(self, place: int, parcel: Parcel) -> bytes:
        body, number, most = parcel.body, self._number, self._line.longest
        data = marshal(ContentHeader(body_size=len(body), properties=parcel.properties), number)
        if len(data) > most:
            raise Unsendable(place)
        data = marshal(Basic.Publish(routing_key=parcel.queue, mandatory=True), number) + data
        for start in range(0, len(body), most):
            data += marshal(ContentBody(body[start : start + most]), number)
        return data

    async def _wait_for_confirmations(self) -> None:
        heard = -1
        while self._unconfirmed and self._error is None:
            if heard == self._heard and not await self._line.is_blocked():
                self.end(self._line.lost("the server does not confirm"))
                break
            heard = self._heard
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await self._confirmed.wait()
        self.check()

    async def take(self, queue: str, limit: int, wait: float, enough: int = 1) -> None:
        """Let the server send ``limit`` messages at most; return once ``enough`` have come, or after ``wait`` seconds.

        Nothing comes after it returned: each time there is another consumer, which holds what it sent until that is
        settled, and the server has forgotten it before this returns. So it also asks each time whether the queue is
        there, and no consumer can be dead without anybody knowing it (fault E12).
        """
        ends, name = time.monotonic() + wait, str(next(self._consumers))
        self._came, self._is_asked_back = 0, False
        timeout: FieldTable = {"x-consumer-timeout": UNDER_WAY * 1000}
        consume = Basic.Consume(queue=queue, consumer_tag=name, arguments=timeout)
        await self.call(Basic.Qos(prefetch_count=min(limit, MOST)), consume)
        while self._came < enough and not self._is_asked_back and (left := ends - time.monotonic()) > 0:
            self._changed.clear()
            try:
                async with asyncio.timeout(min(left, PING)):
                    await self._changed.wait()
            except TimeoutError:
                if left > PING:
                    await self.sync()
            self.check()
        await self.call(Basic.Cancel(consumer_tag=name))
        await self.sync()  # what was under way has come (fault E8)

    def wake(self) -> None:
        """End a ``take`` that waits."""
        self._is_asked_back = True
        self._changed.set()

    def ack(self, tags: Sequence[int]) -> None:
        """Settle these; those that nothing unsettled precedes, with one command."""
        wanted, first = set(tags), 0
        for tag in self.unsettled:
            if tag not in wanted:
                break
            first = tag
        frames: list[Frame] = [Basic.Ack(first, multiple=True)] if first else []
        self._settle(tags, [*frames, *[Basic.Ack(tag) for tag in tags if tag > first]])

    def reject(self, tags: Sequence[int]) -> None:
        """Give these back, in their order; the server counts that."""
        self._settle(tags, [Basic.Reject(tag, requeue=True) for tag in tags])

    def _settle(self, tags: Sequence[int], frames: Sequence[Frame]) -> None:
        self.tell(frames)
        for tag in tags:
            self.unsettled.pop(tag, None)


def _end(call: _Call) -> None:
    if not call.done.done():
        call.done.set_result(None)


def _parts(parcels: Sequence[Parcel]) -> Iterator[tuple[int, Sequence[Parcel]]]:
    first = size = 0
    for place, one in enumerate(parcels):
        if place - first == AT_ONCE or size >= BYTES_AT_ONCE:
            yield first, parcels[first:place]
            first, size = place, 0
        size += len(one.body)
    if parcels:
        yield first, parcels[first:]
