"""Reads a whole queue of RabbitMQ, which can only be taken and given back, and the queues of what is delayed."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from pamqp.commands import Basic, Queue
from pamqp.common import FieldTable

from ....wording import shown
from ...broker import Disconnected
from .channel import PATIENCE, Channel, Refused
from .intake import MOST, Delivery, Intake
from .outlet import Parcel

__all__ = ["Delays", "Reader", "number_in"]

LONGEST_DELAY: Final = 49 * 86400.0
"""Seconds; the server takes no more milliseconds than 32 bits hold."""


class Reader:
    """Reads queues for one connection."""

    def __init__(self, channel: Callable[[], Awaitable[Intake]]) -> None:
        """``channel`` opens one."""
        self._channel = channel
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def all(self, queue: str, note: Callable[[Delivery], None]) -> AsyncIterator[Intake]:
        """Show each message of a queue; they go back, but for those that are acked meanwhile.

        One process at a time does so, since others would find none; what holds them off is a queue that only one
        connection can have. A process that is killed meanwhile gives back all.
        """
        async with self._lock, self._alone_with(queue):
            channel = await self._channel()
            try:
                channel.on_delivery = note
                await _take_all(channel, queue)
                try:
                    yield channel
                finally:
                    await _give_back(channel, queue)
            finally:
                await channel.close()

    @asynccontextmanager
    async def _alone_with(self, queue: str) -> AsyncIterator[None]:
        """By a channel of its own: the server closes the other one if the queue is gone."""
        lock = f"{queue}.lock"
        channel = await self._locked(lock)
        try:
            yield
        finally:
            with suppress(Disconnected):  # then the server deletes it
                await channel.call(Queue.Delete(queue=lock))
            await channel.close()

    async def _locked(self, name: str) -> Channel:
        lock = Queue.Declare(queue=name, exclusive=True, arguments={"x-queue-type": "classic"})
        ends = time.monotonic() + PATIENCE
        while True:
            channel = await self._channel()
            try:
                await channel.call(lock)
            except Refused as error:
                if error.code != 405 or time.monotonic() > ends:
                    raise
                await asyncio.sleep(0.1)
            else:
                return channel


async def _take_all(channel: Intake, queue: str) -> None:
    while (before := len(channel.unsettled)) < MOST:
        number = await number_in(channel, queue)
        if number:
            await channel.take(queue, number, PATIENCE, min(number, MOST))
        else:  # or the queue has no leader yet, and the server knows no better
            await channel.take(queue, 1, 0.0)
        await channel.stop()
        if len(channel.unsettled) == before:
            if number:  # and goes on saying so
                raise channel.lost(f"the server sends none of the messages of {shown(queue)}")
            return


async def _give_back(channel: Intake, queue: str) -> None:
    held = len(channel.unsettled)
    channel.reject(list(channel.unsettled))
    for _ in range(100):  # else the next to look may find some missing
        if await number_in(channel, queue) >= held:
            return
        await asyncio.sleep(0.02)


async def number_in(channel: Channel, queue: str) -> int:
    """Messages of a queue that are ready."""
    (answer,) = await channel.call(Queue.Declare(queue=queue, passive=True))
    number: int = answer.message_count
    return number


class Delays:
    """The queues in which messages wait; those of one wait for the same time, or the first would hold up the others.

    The server does not tell which queues there are, so the lengths of delay are messages of one more.
    """

    def __init__(
        self,
        queue: str,
        reader: Reader,
        make: Callable[[str, FieldTable], Awaitable[None]],
        put: Callable[[Sequence[Parcel], Sequence[Any]], Awaitable[None]],
    ) -> None:
        """``make`` makes a queue of that name with those arguments; ``put`` publishes."""
        self.names: str = f"{queue}.later"
        """The queue of the lengths."""
        self._queue = queue
        self._reader = reader
        self._make = make
        self._put = put
        self._made: set[int] = set()  # milliseconds; by this connection, or seen by it
        self._names = 0  # that it had when it was read last

    async def queue_for(self, delay: float) -> str:
        """In which a message waits for so many seconds; made if it is not there."""
        length = _rounded(delay)
        if length not in self._made:
            await self._look(length)
        return self._name(length)

    async def queues(self, channel: Channel) -> list[str]:
        """All that there are, also of other processes."""
        if await number_in(channel, self.names) != self._names:
            await self._look()
        return [self._name(length) for length in sorted(self._made)]

    async def _look(self, *more: int) -> None:
        noted: set[int] = set()

        def note(delivery: Delivery) -> None:
            with suppress(ValueError):
                noted.add(int(delivery.properties.message_id or ""))

        async with self._reader.all(self.names, note) as reading:
            self._names = len(reading.unsettled)
            for length in {*noted, *more} - self._made:  # somebody may have deleted it
                await self._make(self._name(length), self._arguments(length))
                self._made.add(length)
            for length in set(more) - noted:
                name = Parcel(self.names, Basic.Properties(message_id=str(length), delivery_mode=2), b"")
                await self._put([name], [name])
                self._names += 1

    def _arguments(self, length: int) -> FieldTable:
        return {
            "x-message-ttl": length,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": self._queue,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",  # which that strategy needs
        }

    def _name(self, length: int) -> str:
        return f"{self.names}.{length}"


def _rounded(delay: float) -> int:
    """Milliseconds, at least as many, of two digits: so that there are few queues for them."""
    wanted = math.ceil(min(delay, LONGEST_DELAY) * 1000)
    unit: int = 10 ** max(0, len(str(wanted)) - 2)
    return min(-(-wanted // unit) * unit, int(LONGEST_DELAY * 1000))
