"""``amqp://host/jobs``: a quorum queue of RabbitMQ.

The server sends as many messages as were asked for, and as many more as are settled; those wait in this process until
the next ``receive``. It counts the deliveries that came back; what is given back and was no attempt goes in again, as a
copy that knows how often it was tried. What is delayed waits in one queue for each length of delay,
``jobs.later.…``, from which the server moves it; ``jobs.later`` names them. ``jobs.suspects`` has what is handed out
alone. Dead letters lie in one more; to read them, one process at a time takes them all, and gives them back.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from bisect import insort
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from typing import Final

from pamqp.commands import Queue

from ....errors import DefinitionError, StateError
from ....wording import shown
from ...broker import DeadLetter, Depth, Disconnected, Guarantees, Message, Outgoing, PublishError, Settings
from ..messages import confirmed
from .connection import read
from .intake import Delivery, Intake
from .link import Link
from .message import header_of, letters_of, message_of, place_of, properties_of
from .outlet import Parcel

__all__ = ["RabbitBroker"]

GIVING_BACK: Final = 0.5
"""Seconds that may pass at the end until what came and was not received is back."""

LONGEST_LEASE: Final = 1800.0
"""Seconds after which a server before 3.12 closes the channel of a delivery; clients can neither read nor set it."""


class RabbitBroker:
    """See the module."""

    guarantees: Guarantees = Guarantees(
        durable=True,
        dedupes=False,
        delays=True,
        counts=True,
        selects=True,
        leases=False,
        orders_by_key=False,
        peeks=False,
        isolates=True,
    )
    """After ``open`` without ``delays`` where the server is older than 3.10."""

    def __init__(self, url: str, settings: Settings) -> None:
        heartbeat = math.ceil(min(max(settings.lease / 2, 5.0), 30.0))  # a process is dead when it missed two
        self._options, self._queue = read(url, settings.client, heartbeat)
        dead = settings.dead_letter
        self._dead = dead if dead.startswith(f"{self._queue}.") else f"{dead}.{self._queue}"
        if re.fullmatch(r"suspects|later(\.\d+)?", self._dead.removeprefix(f"{self._queue}.")):
            raise DefinitionError(
                f"remote_queue: dead_letter={shown(dead)} is a name that a queue on RabbitMQ has for something else; "
                "choose another"
            )
        scheme = "amqps" if self._options.context else "amqp"
        self._where = f"{scheme}://{self._options.host}:{self._options.port}/{self._queue}"
        self._lease = settings.lease
        self._must_exist = settings.must_exist
        self._link: Link | None = None  # while it is connected

    async def open(self) -> None:
        """See ``Broker``; raises ``DefinitionError`` for a queue of that name that is something else."""
        link = Link(self._where, self._queue)
        try:
            self._check_version(await link.open(self._options, self._dead, self._must_exist))
        except BaseException:
            await link.close()
            raise
        self._link = link

    def _check_version(self, version: tuple[int, ...]) -> None:
        self.guarantees = self.guarantees._replace(delays=version >= (3, 10))
        if version < (3, 12) and self._lease > LONGEST_LEASE:
            raise DefinitionError(
                f"remote_queue: lease={shown(self._lease)} must be at most {LONGEST_LEASE:g} s: a server of RabbitMQ "
                "before 3.12 takes every message back then (consumer_timeout); the lease of a live process is kept"
            )

    async def close(self) -> None:
        """See ``Broker``; what came and was not received goes back at once."""
        link, self._link = self._link, None
        if link is None:
            return
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(GIVING_BACK):
                    await link.rest()
        finally:
            await link.close()

    def _linked(self) -> Link:
        if self._link is None:
            raise Disconnected(f"{self._where}: not connected")
        return self._link

    # -- receiving --------------------------------------------------------------------------------

    async def receive(self, limit: int, wait: float, suspects: int) -> list[Message]:
        """See ``Broker``."""
        return await self._linked().receive(limit, wait, suspects)

    def wake(self) -> None:
        """See ``Broker``."""
        if self._link is not None:
            self._link.wake()

    # -- settling ---------------------------------------------------------------------------------

    async def ack(self, messages: Sequence[Message]) -> int:
        """See ``Broker``."""
        link = self._linked()
        ours = _ours(link, messages)
        await link.settle(ours, Intake.ack)
        return len(ours)

    async def release(self, messages: Sequence[Message], delay: float, counted: bool) -> None:
        """See ``Broker``; what is no attempt, or has a delay, goes to the end of the queue."""
        link = self._linked()
        ours, delay = _ours(link, messages), delay if self.guarantees.delays else 0.0
        if counted and delay <= 0:
            await link.settle(ours, Intake.reject)
        elif ours:
            await link.put_again(await self._queue_for(link, delay), ours, counted)

    async def bury(self, dead: Sequence[tuple[Message, bytes]]) -> None:
        """See ``Broker``."""
        link, failures = self._linked(), {id(message): failure for message, failure in dead}
        ours, numbers = _ours(link, [message for message, _ in dead]), count(time.time_ns())
        letters = []
        for one in ours:
            choice = letters_of(one, failures[id(one)], next(numbers))
            parcels = (Parcel(self._dead, properties, one.body) for properties in choice)
            letters.append(next(filter(link.fits, parcels)))
        try:
            await link.put(letters, ours)
        except PublishError as error:
            await link.settle(confirmed(ours, error), Intake.ack)
            raise
        await link.settle(ours, Intake.ack)

    async def extend(self, messages: Sequence[Message]) -> list[Message]:
        """See ``Broker``; a delivery is this process's as long as its channel."""
        kept = set(map(id, _ours(self._linked(), messages)))
        return [one for one in messages if id(one) not in kept]

    # -- putting ----------------------------------------------------------------------------------

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """See ``Broker``."""
        link = self._linked()
        parcels = [Parcel(await self._queue_for(link, one.delay), properties_of(one), one.body) for one in messages]
        await link.put(parcels, messages)

    async def _queue_for(self, link: Link, delay: float) -> str:
        return await link.delays.queue_for(delay) if delay > 0 and self.guarantees.delays else self._queue

    # -- looking ----------------------------------------------------------------------------------

    async def depth(self) -> Depth:
        """See ``Broker``; of what other processes hold, nothing, and what this one has not received is ready."""
        link = self._linked()
        later = await link.delays.queues(link.tools)
        names = self._queue, link.suspects.queue, self._dead, *later
        asked = [Queue.Declare(queue=one, passive=True) for one in names]
        ready, suspects, dead, *delayed = [one.message_count for one in await link.tools.call(*asked)]
        came = sum([len(intake.ready) for intake in link.intakes])
        unsettled = sum([len(intake.unsettled) for intake in link.intakes])
        return Depth(ready + suspects + came, unsettled - came, sum(delayed), dead, None)

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

        async with self._linked().reader.all(self._dead, note):
            pass
        return [
            DeadLetter(place, message_of(one), header_of(one, "asyncpc-failure").encode()) for place, _, one in found
        ]

    async def requeue(self, places: Sequence[str]) -> int:
        """See ``Broker``."""
        link, wanted, found = self._linked(), set(places), dict[int, Message]()

        def note(delivery: Delivery) -> None:
            if place_of(delivery) in wanted:
                found[delivery.tag] = message_of(delivery)

        async with link.reader.all(self._dead, note) as channel:
            again = [Parcel(self._queue, properties_of(one), one.body) for one in found.values()]
            await link.put(again, again)
            channel.ack(list(found))
        return len(found)

    async def purge(self, dead: bool) -> int:
        """See ``Broker``."""
        link = self._linked()
        queues = [self._dead] if dead else [self._queue, link.suspects.queue, *await link.delays.queues(link.tools)]
        answers = await link.tools.call(*(Queue.Purge(queue=one) for one in queues))
        forgotten: int = sum(one.message_count for one in answers)
        return forgotten if dead else forgotten + await link.forget_ready()


def _ours(link: Link, messages: Sequence[Message]) -> list[Message]:
    """Those of which this connection has the deliveries."""
    for intake in link.intakes:
        intake.check()
    return [one for one in messages if one.receipt.channel in link.intakes]
