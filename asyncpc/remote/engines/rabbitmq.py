"""``amqp://host/jobs``: a quorum queue of RabbitMQ.

Each ``receive`` is a consumer of its own with exactly the prefetch asked for, so no message waits in this process that
nobody asked for. The server counts the deliveries that came back; what is given back and was no attempt goes in again,
as a copy that knows how often it was tried. What is delayed waits in one queue for each length of delay,
``jobs.later.…``, from which the server moves it; ``jobs.later`` names them. Dead letters lie in one more; to read them,
one process at a time takes them all, and gives them back.
"""

from __future__ import annotations

import asyncio
import math
import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, Final

from pamqp.commands import Queue
from pamqp.common import FieldTable

from ...errors import DefinitionError, StateError
from ...wording import shown
from ..broker import DeadLetter, Depth, Disconnected, Guarantees, Message, Outgoing, PublishError, Settings
from .rabbitmq_channel import PATIENCE, Channel, Delivery, Parcel, Refused, Unsendable
from .rabbitmq_connection import Connection, read
from .rabbitmq_message import digest, header_of, message_of, place_of, properties_of
from .rabbitmq_reading import Delays, Reader

__all__ = ["RabbitBroker"]

LONGEST_LEASE: Final = 1800.0
"""Seconds after which a server before 3.12 closes the channel of a delivery; clients can neither read nor set it."""

FAILURE: Final = 40_000
"""Bytes of a failure that are kept; headers lie in one frame, of 128 KiB by default."""

KEPT: Final[FieldTable] = {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000_000}
"""No limit: the session counts the attempts, and the server would drop what has reached it (20 from 4.0 on)."""


class _Receipt:
    """A delivery tag, which means something on its own channel only (fault E9)."""

    __slots__ = ("channel", "tag")

    def __init__(self, channel: Channel, tag: int) -> None:
        self.channel: Channel | None = channel  # None once it is settled
        self.tag: int = tag


class RabbitBroker:
    """See the module."""

    guarantees: Guarantees = Guarantees(
        durable=True,
        dedupes=False,
        delays=True,
        counts=True,
        selects=False,
        leases=False,
        orders_by_key=False,
        peeks=False,
    )
    """After ``open`` without ``delays`` where the server is older than 3.10."""

    def __init__(self, url: str, settings: Settings) -> None:
        heartbeat = math.ceil(min(max(settings.lease / 2, 5.0), 30.0))  # a process is dead when it missed two
        self._options, self._queue = read(url, settings.client, heartbeat)
        dead = settings.dead_letter
        self._dead = dead if dead.startswith(f"{self._queue}.") else f"{dead}.{self._queue}"
        self._where = f"{self._options.host}:{self._options.port}/{self._queue}"
        self._lease = settings.lease
        self._connections: list[Connection] = []
        self._intake: Channel | None = None  # what is received, and settled
        self._tools: Channel | None = None
        self._outlet: Channel | None = None  # by a connection of its own: the server may stop reading from that
        self._ready: deque[Delivery] = deque()  # that came after their receive had ended
        self._reader = Reader(self._new_channel)
        self._delays = Delays(self._queue, self._reader, self._make, self._put)
        self._taking = asyncio.Lock()

    async def open(self) -> None:
        """See ``Broker``; raises ``DefinitionError`` for a queue of that name that is something else."""
        try:
            self._connections = [Connection(self._where), Connection(self._where)]
            for connection in self._connections:
                await connection.open(self._options)
            self._check_version(self._connections[0].version)
            for queue in (self._queue, self._dead, self._delays.names):
                await self._make(queue, {})
            self._intake = await self._connections[0].channel()
            self._intake.on_delivery = self._ready.append
            self._tools = await self._connections[0].channel()
            self._outlet = await self._connections[1].channel()
        except BaseException:
            await self.close()
            raise

    def _check_version(self, version: tuple[int, ...]) -> None:
        self.guarantees = self.guarantees._replace(delays=version >= (3, 10))
        if version < (3, 12) and self._lease > LONGEST_LEASE:
            raise DefinitionError(
                f"remote_queue: lease={shown(self._lease)} must be at most {LONGEST_LEASE:g} s: a server of RabbitMQ "
                "before 3.12 takes every message back then (consumer_timeout); the lease of a live process is kept"
            )

    async def _new_channel(self) -> Channel:
        if not self._connections:
            raise Disconnected(f"{self._where}: not connected")
        return await self._connections[0].channel()

    async def _make(self, queue: str, arguments: FieldTable) -> None:
        channel = await self._new_channel()
        try:
            await channel.call(Queue.Declare(queue=queue, durable=True, arguments=KEPT | arguments))
        except Refused as error:
            if error.code != 406:
                raise
            if "'x-queue-type'" in str(error) or "'durable'" in str(error):
                what = f"the queue {shown(queue)} at {self._where} to be a quorum queue"
                raise DefinitionError(f"remote_queue: expected {what}") from None
            # else somebody made it with other limits
        finally:
            await channel.close()

    async def close(self) -> None:
        """See ``Broker``; what came and was not received goes back at once."""
        connections, self._connections = self._connections, []
        try:
            if self._intake is not None and not self._intake.is_over:
                self.wake()
                with suppress(TimeoutError, Disconnected, PublishError):
                    async with asyncio.timeout(PATIENCE / 2), self._taking:
                        await self.release(self._take(len(self._ready)), 0.0, counted=False)
        finally:
            self._intake = self._tools = self._outlet = None
            self._ready.clear()
            self._delays.forget()
            for connection in connections:
                await connection.close()

    def _open(self, channel: Channel | None) -> Channel:
        if channel is None:
            raise Disconnected(f"{self._where}: not connected")
        channel.check()
        return channel

    # -- receiving --------------------------------------------------------------------------------

    async def receive(self, limit: int, wait: float, suspects: int) -> list[Message]:
        """See ``Broker``."""
        async with self._taking:
            if not self._ready:
                await self._open(self._intake).take(self._queue, limit, wait)
            return self._take(limit)

    def wake(self) -> None:
        """See ``Broker``."""
        if self._intake is not None:
            self._intake.wake()

    def _take(self, limit: int) -> list[Message]:
        channel, ready = self._open(self._intake), self._ready
        taken = [ready.popleft() for _ in range(min(limit, len(ready)))]
        return [message_of(one, _Receipt(channel, one.tag)) for one in taken]

    def _ours(self, messages: Sequence[Message]) -> list[Message]:
        channel = self._open(self._intake)
        return [one for one in messages if one.receipt.channel is channel]

    # -- settling ---------------------------------------------------------------------------------

    async def ack(self, messages: Sequence[Message]) -> int:
        """See ``Broker``."""
        ours = self._ours(messages)
        await self._settle(ours, self._open(self._intake).ack)
        return len(ours)

    async def _settle(self, messages: Sequence[Message], how: Callable[[Sequence[int]], None]) -> None:
        if messages:
            how([one.receipt.tag for one in messages])
            for one in messages:
                one.receipt.channel = None
            await self._open(self._intake).sync()

    async def release(self, messages: Sequence[Message], delay: float, counted: bool) -> None:
        """See ``Broker``; what is no attempt, or has a delay, goes to the end of the queue."""
        ours, channel = self._ours(messages), self._open(self._intake)
        delay = delay if self.guarantees.delays else 0.0
        if counted and delay <= 0:
            await self._settle(ours, channel.reject)
            return
        queue = await self._queue_for(delay) if ours else ""
        again = [Parcel(queue, properties_of(one, one.attempt - (not counted)), one.body) for one in ours]
        await self._put(again, ours)
        await self._settle(ours, channel.ack)

    async def bury(self, dead: Sequence[tuple[Message, bytes]]) -> None:
        """See ``Broker``."""
        failures = {id(message): failure for message, failure in dead}
        ours, numbers = self._ours([message for message, _ in dead]), count(time.time_ns())
        letters = []
        for one in ours:
            failure = failures[id(one)]
            text = failure.decode("utf-8", "replace") if len(failure) <= FAILURE else "{}"
            extra = {"asyncpc-failure": text, "asyncpc-place": f"{next(numbers):020}-{digest(one.id.encode())}"}
            letters.append(Parcel(self._dead, properties_of(one, one.attempt, extra), one.body))
        await self._put(letters, ours)
        await self._settle(ours, self._open(self._intake).ack)

    async def extend(self, messages: Sequence[Message]) -> list[Message]:
        """See ``Broker``; a delivery is this process's as long as its channel."""
        kept = set(map(id, self._ours(messages)))
        return [one for one in messages if id(one) not in kept]

    # -- putting ----------------------------------------------------------------------------------

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """See ``Broker``."""
        parcels = [Parcel(await self._queue_for(one.delay), properties_of(one), one.body) for one in messages]
        await self._put(parcels, messages)

    async def _put(self, parcels: Sequence[Parcel], messages: Sequence[Any]) -> None:
        channel = self._open(self._outlet)
        try:
            refused = await channel.publish(parcels)
        except Refused as error:
            if error.code != 406:  # 406: one is too long; the channel is closed, the connection is not
                raise
            self._outlet = await self._connections[1].channel()
            raise PublishError(str(error), messages) from None
        except Unsendable as error:
            raise PublishError(f"{self._where}: {error}", [messages[error.place]]) from None
        if refused:
            why = f"{self._where}: the server refuses them; is the queue full?"
            raise PublishError(why, [messages[place] for place in refused])

    async def _queue_for(self, delay: float) -> str:
        if delay <= 0 or not self.guarantees.delays:
            return self._queue
        return await self._delays.queue_for(delay)

    # -- looking ----------------------------------------------------------------------------------

    async def depth(self) -> Depth:
        """See ``Broker``; of what is unacknowledged, only what this process has."""
        later, unsettled = await self._delays.queues(self._open(self._tools)), self._open(self._intake).unsettled
        asked = [Queue.Declare(queue=one, passive=True) for one in (self._queue, self._dead, *later)]
        answers = await self._open(self._tools).call(*asked)
        ready, dead, *delayed = [one.message_count for one in answers]
        return Depth(ready, len(unsettled) - len(self._ready), sum(delayed), dead, None)

    async def peek(self, limit: int) -> list[Message]:
        """See ``Broker``; cannot be done: whoever reads a message takes it, and the server counts that."""
        raise StateError("RabbitMQ shows no message without counting that as an attempt")

    async def dead(self, limit: int, after: str) -> list[DeadLetter]:
        """See ``Broker``; reads the whole queue, and finds the oldest 65,535."""
        found: list[tuple[str, int, Delivery]] = []

        def note(delivery: Delivery) -> None:
            place = place_of(delivery)
            if place > after:
                insort(found, (place, delivery.tag, delivery))
                del found[limit:]

        async with self._reader.all(self._dead, note):
            pass
        return [
            DeadLetter(place, message_of(one), header_of(one, "asyncpc-failure").encode()) for place, _, one in found
        ]

    async def requeue(self, places: Sequence[str]) -> int:
        """See ``Broker``."""
        wanted, found = set(places), dict[int, Message]()

        def note(delivery: Delivery) -> None:
            if place_of(delivery) in wanted:
                found[delivery.tag] = message_of(delivery)

        async with self._reader.all(self._dead, note) as channel:
            again = [Parcel(self._queue, properties_of(one), one.body) for one in found.values()]
            await self._put(again, again)
            channel.ack(list(found))
        return len(found)

    async def purge(self, dead: bool) -> int:
        """See ``Broker``."""
        tools = self._open(self._tools)
        queues = [self._dead] if dead else [self._queue, *await self._delays.queues(tools)]
        answers = await tools.call(*(Queue.Purge(queue=one) for one in queues))
        return sum(one.message_count for one in answers)
