"""``nats://host/jobs``: a work-queue stream of NATS JetStream, with one consumer that all processes pull from.

What was put lies under the subject ``jobs``, what is delayed under ``jobs.later.…`` until the server moves it, and dead
letters under ``dead.jobs`` in a stream of their own. The server takes the ack of an old delivery for one of the newest
(fault E13), so a delivery is let go here a little before its lease ends there. It counts every delivery, so what is
given back and was no attempt goes in again, as a copy that knows how often it was tried. A server that was killed may
have forgotten its last deliveries; it never answers their acks, so they count as lost here too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from ...broker import (
    SUSPECT_AFTER,
    DeadLetter,
    Depth,
    Disconnected,
    Guarantees,
    Message,
    Outgoing,
    PublishError,
    Settings,
)
from ..messages import AT_ONCE, confirmed
from .address import read
from .connection import Connection, Request
from .link import Link
from .message import KEPT_FREE, back_after, delivered, digest, headers_of, later, letter
from .pulls import Pulls
from .putting import put, put_all
from .streams import Streams

__all__ = ["NatsBroker"]

MARGIN: Final = 2.0
"""Seconds before the end of a lease after which a delivery counts as lost; at most a quarter of the lease."""

GIVING_BACK: Final = 1.0
"""Seconds that may pass at the end until what came and was not received is back."""


class NatsBroker:
    """See the module."""

    guarantees: Guarantees = Guarantees(
        durable=True, dedupes=True, delays=True, counts=True, selects=False, leases=True, orders_by_key=False
    )
    """After ``open`` without ``delays`` where the server is older than 2.12."""

    def __init__(self, url: str, settings: Settings) -> None:
        self._options, self._queue = read(url, settings.client)
        self._is_encrypted = url.lower().startswith("tls:")
        self._where = f"{self._options['servers']}/{self._queue}"
        self._dead_letter = settings.dead_letter
        self._lease = settings.lease
        self._must_exist = settings.must_exist
        self._ours_for = settings.lease - min(settings.lease / 4, MARGIN)
        self._link: Link | None = None  # while it is connected
        self._giving_back: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """See ``Broker``; raises ``DefinitionError`` for a stream of that name that is something else."""
        connection = Connection(self._where, self._is_encrypted)
        await connection.open(self._options)
        streams = Streams(connection, self._queue, self._dead_letter)
        try:
            if self._must_exist:
                await streams.find()
            await streams.make(self._lease)
        except BaseException:
            await connection.close()
            raise
        pulls = Pulls(connection, streams.consumer, lambda one: delivered(one, self._ours_for, connection))
        self._link = Link(connection, streams, pulls)  # now that it is whole: other calls may come at any time
        self.guarantees = self.guarantees._replace(delays=streams.can_delay)

    async def close(self) -> None:
        """See ``Broker``; what came and was not received goes back at once."""
        link, self._link = self._link, None
        if link is None:
            return
        link.pulls.wake()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(GIVING_BACK):
                    await self._given_back()
                    await self._give_back(link)
        finally:
            if self._giving_back is not None:
                self._giving_back.cancel()
            await link.connection.close()

    def _linked(self) -> Link:
        if self._link is None:
            raise Disconnected(f"{self._where}: not connected")
        return self._link

    # -- receiving --------------------------------------------------------------------------------

    async def receive(self, limit: int, wait: float, suspects: int) -> list[Message]:
        """See ``Broker``; the lease is that of whoever receives, not of those who only put or look."""
        link = self._linked()
        link.pulls.is_woken = False
        await self._given_back()
        await link.streams.set_lease(self._lease)
        await link.pulls.wait(limit, wait)
        messages = link.pulls.take(limit)
        if link.pulls.is_woken or any(one.attempt > SUSPECT_AFTER for one in messages):
            # nothing is to wait here when nobody asks for more, or beside a suspect, while that is at work
            with suppress(Disconnected):  # these can be settled by the next connection, too
                await link.pulls.stop()
            messages += link.pulls.take(limit - len(messages))
            await self._give_back(link)
        return messages

    def wake(self) -> None:
        """See ``Broker``; also without such a call, what would come here later goes to others."""
        link = self._link
        if link is None or link.pulls.wake() or not link.pulls.is_open:
            return
        if self._giving_back is None or self._giving_back.done():  # else that one will do
            name = f"asyncpc: {self._queue} gives back"
            self._giving_back = asyncio.create_task(self._give_back(link), name=name)

    async def _given_back(self) -> None:
        if self._giving_back is not None and not self._giving_back.done():
            await asyncio.wait([self._giving_back])  # whoever waits for it neither ends with it nor cancels it

    async def _give_back(self, link: Link) -> None:
        """Ask for no more; what came and was not received goes to others."""
        with suppress(Disconnected, PublishError):  # then its lease runs out
            await link.pulls.stop()
            await self._release(link, link.pulls.take(len(link.pulls.ready)), 0.0, counted=False)

    # -- settling ---------------------------------------------------------------------------------

    async def ack(self, messages: Sequence[Message]) -> int:
        """See ``Broker``."""
        link = self._linked()
        ours = link.ours(messages)
        await link.settle(ours)
        return len(ours)

    async def release(self, messages: Sequence[Message], delay: float, counted: bool) -> None:
        """See ``Broker``; what is no attempt, or has a delay, goes to the end of the queue.

        What the server does not take as a copy, since that is too long, goes back as it is, and counts as an attempt.
        """
        await self._release(self._linked(), messages, delay, counted)

    async def _release(self, link: Link, messages: Sequence[Message], delay: float, counted: bool) -> None:
        ours = link.ours(messages)
        if counted and not (delay > 0 and self.guarantees.delays):
            await link.settle(ours, back_after(delay))
            return
        again = []
        for one in ours:
            outgoing = Outgoing(one.id, one.body, one.headers, delay, time=one.time)
            again.append(self._request(outgoing, f"%release/{one.receipt.name}", one.attempt - (not counted)))
        try:
            await put(link.connection, again, ours)
        except PublishError as error:
            await link.settle(error.unconfirmed, back_after(delay))
            ours = confirmed(ours, error)
        await link.settle(ours)

    async def bury(self, dead: Sequence[tuple[Message, bytes]]) -> None:
        """See ``Broker``."""
        link, failures = self._linked(), {id(message): failure for message, failure in dead}
        ours = link.ours([message for message, _ in dead])
        dead_subject, longest = link.streams.dead_subject, link.connection.longest
        letters = [letter(dead_subject, self._queue, one, failures[id(one)], longest) for one in ours]
        try:
            await put(link.connection, letters, ours)
        except PublishError as error:
            await link.settle(confirmed(ours, error))
            raise
        await link.settle(ours)

    async def extend(self, messages: Sequence[Message]) -> list[Message]:
        """See ``Broker``; also of those that came and were not received yet."""
        link, ends = self._linked(), time.monotonic() + self._ours_for
        ours = link.ours([*messages, *link.pulls.ready])
        kept = set(map(id, ours))
        await link.answer(ours, b"+WPI")
        for one in ours:
            one.receipt.ends = ends if one.receipt.ends else 0.0  # it may be settled meanwhile
        return [one for one in messages if id(one) not in kept]

    # -- putting ----------------------------------------------------------------------------------

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """See ``Broker``."""
        connection = self._linked().connection
        requests = [self._request(one) for one in messages]
        longest = connection.longest - min(KEPT_FREE, connection.longest // 4)
        await put_all(connection, requests, messages, longest)

    def _request(self, message: Outgoing, unique: str = "", attempts: int = 0) -> Request:
        if message.delay > 0 and self.guarantees.delays:
            return later(self._queue, message, unique, attempts)
        return Request(self._queue, message.body, headers_of(message, unique, attempts))

    # -- looking ----------------------------------------------------------------------------------

    async def depth(self) -> Depth:
        """See ``Broker``; a delivery whose process was killed counts as unacknowledged until it is received again."""
        return await self._linked().streams.depth()

    async def peek(self, limit: int) -> list[Message]:
        """See ``Broker``; shows what was not received before."""
        return await self._linked().streams.peek(limit)

    async def dead(self, limit: int, after: str) -> list[DeadLetter]:
        """See ``Broker``."""
        return await self._linked().streams.letters(limit, after)

    async def requeue(self, places: Sequence[str]) -> int:
        """See ``Broker``."""
        connection, streams, _ = self._linked()
        found = await streams.letters_at(places)
        again = []
        for place, one in found:
            outgoing = Outgoing(one.id, one.body, one.headers, time=one.time)
            again.append(self._request(outgoing, f"%requeue/{streams.dead}/{place}/{digest(one.id)}"))
        await put(connection, again, again)
        await streams.forget_letters([place for place, _ in found])
        return len(found)

    async def purge(self, dead: bool) -> int:
        """See ``Broker``."""
        streams = self._linked().streams
        if dead:
            return await streams.purge(streams.dead, streams.dead_subject)
        number = await streams.purge(self._queue, f"{self._queue}.later.*")
        if await streams.under_way() == 0:
            return number + await streams.purge(self._queue, self._queue)
        while messages := await self.receive(AT_ONCE, 0.0, 1):  # a purge would take what somebody works on too
            number += await self.ack(messages)
        return number
