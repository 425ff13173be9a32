"""A channel on which messages come, and are settled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Final, NamedTuple

from pamqp.base import Frame
from pamqp.commands import Basic
from pamqp.common import FieldTable

from .rabbitmq_channel import Channel, Line

__all__ = ["MOST", "Delivery", "Intake"]

PING: Final = 3.0
"""Seconds after which a server that has no message is asked whether it is there."""

MOST: Final = 65_535
"""Messages that one consumer can have in hand."""

UNDER_WAY: Final = 14 * 86400
"""Seconds that a delivery may be under way, where the server lets its clients choose (from 3.12 on)."""


class Delivery(NamedTuple):
    """A message as the server sent it."""

    tag: int
    properties: Basic.Properties
    body: bytes


class Intake(Channel):
    """See the module."""

    def __init__(self, line: Line, number: int) -> None:
        super().__init__(line, number)
        self.on_delivery: Callable[[Delivery], None] = lambda delivery: None
        """Called with each message that comes."""
        self.unsettled: dict[int, None] = {}
        """The tags of what came and was not settled, in order."""
        self._consumers: Iterator[int] = count(1)
        self._missed: int = 0  # messages that a ``take`` waits for
        self._came: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # or it was asked back

    def _on_method(self, frame: Frame) -> None:
        if isinstance(frame, Basic.Cancel):
            self.end(self.lost("the queue is gone"))
        else:
            super()._on_method(frame)

    def _on_content(self, frame: Frame | None, properties: Basic.Properties, body: bytes) -> None:
        if isinstance(frame, Basic.Deliver):
            tag = frame.delivery_tag or 0
            self.unsettled[tag] = None
            self._missed -= 1
            if self._missed <= 0:
                self.wake()
            self.on_delivery(Delivery(tag, properties, body))

    async def take(self, queue: str, limit: int, wait: float, enough: int = 1) -> None:
        """Let the server send ``limit`` messages at most; return once ``enough`` have come, or after ``wait`` seconds.

        Nothing comes after it returned: each time there is another consumer, which holds what it sent until that is
        settled, and the server has forgotten it before this returns. So it also asks each time whether the queue is
        there, and no consumer can be dead without anybody knowing it (fault E12).
        """
        ends, name = time.monotonic() + wait, str(next(self._consumers))
        self._missed, self._came = enough, asyncio.get_running_loop().create_future()
        timeout: FieldTable = {"x-consumer-timeout": UNDER_WAY * 1000}
        consume = Basic.Consume(queue=queue, consumer_tag=name, arguments=timeout)
        await self.call(Basic.Qos(prefetch_count=min(limit, MOST)), consume)
        while not self._came.done() and (left := ends - time.monotonic()) > 0:
            await asyncio.wait([self._came, self.over], timeout=min(left, PING), return_when=asyncio.FIRST_COMPLETED)
            self.check()
            if left > PING and not self._came.done():
                await self.sync()
        await self.call(Basic.Cancel(consumer_tag=name))
        await self.sync()  # what was under way has come (fault E8)

    def wake(self) -> None:
        """End a ``take`` that waits."""
        if not self._came.done():
            self._came.set_result(None)

    async def sync(self) -> None:
        """Return once the server has heard all that was said before."""
        await self.call(Basic.Qos())

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
