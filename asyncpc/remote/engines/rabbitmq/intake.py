"""A channel on which messages come, and are settled.

The server sends a consumer as many messages as it may have in hand, its *prefetch*, and more as those are settled. The
prefetches of several consumers add up. When one is cancelled that may still be sent something, the server takes back
what it was about to send, and counts that as a delivery, though nobody had it. So consumers stay, and there is one more
where more is asked for. Where much less is asked for, each is cancelled as soon as it has all that it may have: then
nothing is under way. Others are cancelled only where nothing may come any more.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Final, NamedTuple

from pamqp.base import Frame
from pamqp.commands import Basic
from pamqp.common import FieldTable

from .channel import Channel, Line

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
        self.ready: deque[Delivery] = deque()
        """What came, until somebody takes it from there."""
        self.on_delivery: Callable[[Delivery], None] = self.ready.append
        """Called with each message that comes."""
        self.unsettled: dict[int, str] = {}
        """The tags of what came and was not settled, in order, each with its consumer."""
        self._names: Iterator[int] = count(1)
        self._consumers: dict[str, int] = {}  # the prefetch of each
        self._free: dict[str, int] = {}  # messages that each may still be sent before anything is settled
        self._has_too_many: bool = False  # consumers: those that are full are to be cancelled
        self._came_last: float = -math.inf  # when a message came; loop time
        self._missed: int = 0  # messages that a ``take`` waits for
        self._came: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # or it was asked back

    def _on_method(self, frame: Frame) -> None:
        if isinstance(frame, Basic.Cancel):
            self.end(self.lost("the queue is gone"))
        else:
            super()._on_method(frame)

    def _on_content(self, frame: Frame | None, properties: Basic.Properties, body: bytes) -> None:
        if isinstance(frame, Basic.Deliver):
            tag, name = frame.delivery_tag or 0, frame.consumer_tag or ""
            self.unsettled[tag] = name
            self._came_last = asyncio.get_running_loop().time()
            if name in self._free:
                self._free[name] -= 1
                self._cancel_full()
            self._missed -= 1
            if self._missed <= 0:
                self.wake()
            self.on_delivery(Delivery(tag, properties, body))

    @property
    def has_consumers(self) -> bool:
        """Whether the server may send something."""
        return bool(self._consumers)

    async def take(self, queue: str, limit: int, wait: float, enough: int = 1) -> None:
        """Let ``limit`` messages be there; return once there are ``enough``, or after ``wait`` seconds.

        Others may come later, as many as that leaves room for, and as many as are settled. A take that waits asks
        whether the server is there, which tells when the queue is not: no consumer is dead without anybody knowing it
        (fault E12).
        """
        ends = time.monotonic() + wait
        self._missed, self._came = enough - len(self.ready), asyncio.get_running_loop().create_future()
        is_enough = self._missed <= 0
        is_more = await self._allow(queue, limit)
        if is_enough:
            return
        while not self._came.done() and (left := ends - time.monotonic()) > 0:
            await asyncio.wait([self._came, self.over], timeout=min(left, PING), return_when=asyncio.FIRST_COMPLETED)
            self.check()
            if left > PING and not self._came.done():
                await self.sync()
        if is_more or not self._came.done():
            await self.sync()  # what the queue had for that consumer has come

    async def _allow(self, queue: str, limit: int) -> bool:
        """Let the server send what is missing to ``limit``, if that is much; and less, if it may send far too many.

        Returns whether there is one more consumer. While a flush is under way, its messages still seem to be in hand,
        and as many fewer are asked for: half at the most, if so much is settled at once.
        """
        total, free = sum(self._consumers.values()), sum(self._free.values())
        extra = limit - len(self.ready) - free
        self._has_too_many = -2 * extra > total
        self._cancel_full()
        if self._has_too_many and asyncio.get_running_loop().time() - self._came_last > PING:  # nothing is under way
            await self.stop()
            total, free, extra = 0, 0, limit - len(self.ready)
        is_more = extra > 0 and (free <= 0 or 2 * extra >= total)
        if is_more:
            name, prefetch = str(next(self._names)), min(extra, MOST)
            self._consumers[name] = self._free[name] = prefetch
            timeout: FieldTable = {"x-consumer-timeout": UNDER_WAY * 1000}
            consume = Basic.Consume(queue=queue, consumer_tag=name, arguments=timeout)
            await self.call(Basic.Qos(prefetch_count=prefetch), consume)
        return is_more

    def _cancel_full(self) -> None:
        """If there are too many: what is settled of those then makes no room for others."""
        if self._has_too_many:
            full = [name for name, free in self._free.items() if free <= 0]
            for name in full:
                del self._consumers[name], self._free[name]
            if full:
                self.tell([Basic.Cancel(consumer_tag=name, nowait=True) for name in full])

    async def stop(self) -> None:
        """Let nothing more come; what was under way has come when this returns (fault E8)."""
        names = [*self._consumers]
        self._consumers.clear()
        self._free.clear()
        self._has_too_many = False
        if names:
            await self.call(*[Basic.Cancel(consumer_tag=name) for name in names])
            await self.sync()

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
            name = self.unsettled.pop(tag, "")
            if name in self._free:
                self._free[name] += 1
