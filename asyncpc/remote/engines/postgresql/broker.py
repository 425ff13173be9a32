"""``postgresql://[user:password@]host[:port]/database?queue=jobs``: a queue in the tables of a PostgreSQL database.

The tables are in the schema ``asyncpc``; ``&schema=`` names another. A row tells when its message is due, and until
when it is leased, so nothing has to clean up after a killed process. Times are the server's. No index has the lease:
to receive a message changes no index, which would be half the work of the server.

A process that only publishes has one connection; one that receives has a second, which also hears of new messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any, Final, TypeVar

from ....wording import summary
from ...broker import (
    DeadLetter,
    Depth,
    Disconnected,
    Guarantees,
    Message,
    Outgoing,
    PublishError,
    Settings,
    no_queue,
    places_to_know,
)
from ..rows import Receipt, message_in, texts_of
from . import tables
from .connection import UNSTORABLE, Address, Connection
from .intake import Intake

__all__ = ["PostgreSQLBroker"]

V = TypeVar("V")

LARGEST: Final = 16_000_000
"""Bytes of bodies after which a statement takes no further message."""

FORGET_EVERY: Final = 1.0
"""Seconds after which a process that settles messages also forgets old ids; sooner after ``MOST`` messages."""


class PostgreSQLBroker:
    """See the module. ``settings.client`` goes to ``asyncpg.connect``: behind a pooler, ``statement_cache_size=0``."""

    guarantees: Guarantees = Guarantees(
        durable=True,
        dedupes=True,
        delays=True,
        counts=True,
        selects=True,
        leases=True,
        orders_by_key=False,
        transactions=True,
    )

    def __init__(self, url: str, settings: Settings) -> None:
        self._address = address = Address.of(url)
        self._settings = settings
        self._channel = "asyncpc_" + sha256(f"{address.schema}.{address.queue}".encode()).hexdigest()[:32]
        self._settling = Connection(address, settings.client)
        self._intake = Intake(address, settings, self._channel, self._tell)
        self._settled = 0  # messages, since ids were forgotten last
        self._forget_at = 0.0

    # -- connecting -------------------------------------------------------------------------------

    async def open(self) -> None:
        """See ``Broker``. Several processes may do it at once; no right is needed to make tables that are there."""
        await self._settling.open()
        try:
            if not await self._settling.run("fetchval", tables.IS_THERE):
                if self._settings.must_exist:
                    raise no_queue(f"at {self._address.shown}")
                await self._settling.run("execute", tables.MAKE)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """See ``Broker``; what was received stays leased."""
        await self._intake.close()
        await self._settling.close()

    # -- receiving --------------------------------------------------------------------------------

    async def receive(self, limit: int, wait: float, suspects: int) -> list[Message]:
        """See ``Broker``."""
        return await self._intake.receive(limit, wait, suspects)

    def wake(self) -> None:
        """See ``Broker``."""
        self._intake.wake()

    async def _tell(self, what: str) -> None:
        await self._settling.run("execute", "SELECT pg_notify($1, $2)", self._channel, what)

    # -- settling ---------------------------------------------------------------------------------

    async def ack(self, messages: Sequence[Message]) -> int:
        """See ``Broker``."""
        ours = 0
        for part in _parts(messages):
            ours += _count(await self._settling.run("execute", tables.ACK, *_receipts(part)))
        await self._forget(ours)
        return ours

    async def release(self, messages: Sequence[Message], delay: float, counted: bool) -> None:
        """See ``Broker``."""
        told = (self._channel, tables.LATER if delay > 0 else tables.EARLIER)
        for part in _parts(messages):
            await self._settling.run("execute", tables.RELEASE, *_receipts(part), *told, delay, 0 if counted else 1)
        self._intake.look_at_all()

    async def extend(self, messages: Sequence[Message]) -> list[Message]:
        """See ``Broker``."""
        kept: set[tuple[int, int]] = set()
        for part in _parts(messages):
            rows = await self._settling.run("fetch", tables.EXTEND, *_receipts(part), self._settings.lease)
            kept.update((row[0], row[1]) for row in rows)
        return [one for one in messages if one.receipt not in kept]

    async def bury(self, dead: Sequence[tuple[Message, bytes]]) -> None:
        """See ``Broker``; one step."""
        for part in _parts(dead):
            failures = [failure for _, failure in part]
            receipts = _receipts([message for message, _ in part])
            gone = await self._settling.run("execute", tables.BURY, *receipts, failures, self._settings.dead_letter)
            await self._forget(_count(gone))

    async def _forget(self, settled: int) -> None:
        """Now and then, forget ids that were put an hour ago: more than come in, so that they never grow in number."""
        self._settled += settled
        now = asyncio.get_running_loop().time()
        if self._settled >= tables.MOST or (self._settled and now >= self._forget_at):
            limit, self._settled, self._forget_at = 2 * self._settled, 0, now + FORGET_EVERY
            with suppress(Disconnected):  # the messages are settled; the next call finds out
                await self._settling.run("execute", tables.FORGET, limit)

    # -- putting ----------------------------------------------------------------------------------

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """See ``Broker``."""
        done = 0
        for part in _puts(messages):
            try:
                await self._settling.run("fetchval", tables.PUT, *self._columns(part, tables.LATER))
            except UNSTORABLE as error:
                what = f"{self._address.shown}: cannot hold a message: {summary(error)}"
                raise PublishError(what, messages[done:]) from None
            done += len(part)

    async def publish_in(self, connection: Any, messages: Sequence[Outgoing]) -> None:
        """Put the messages inside the transaction of an asyncpg connection to the same database.

        They can be received once the caller commits; a rollback takes them back. An error is the client's own, and
        ends the caller's transaction.
        """
        for part in _puts(messages):
            await connection.execute(self._address.in_schema(tables.PUT), *self._columns(part, tables.EARLIER))

    def _columns(self, messages: Sequence[Outgoing], told: str) -> Iterator[Any]:
        yield from (self._address.queue, self._channel, told)
        yield [one.id for one in messages]
        yield [one.body for one in messages]
        yield [*texts_of(_short([one.headers for one in messages]))]
        yield _short([max(0.0, one.delay) for one in messages])
        yield _short([one.time for one in messages])
        yield _short([1 + place for place in places_to_know(messages)])

    # -- looking ----------------------------------------------------------------------------------

    async def depth(self) -> Depth:
        """See ``Broker``; the time it takes grows with the number of messages, some 0.2 s for a million."""
        letters = (self._address.queue, self._settings.dead_letter)
        row = await self._settling.run("fetchrow", tables.DEPTH, *letters)
        oldest = None if row[4] is None else max(0.0, row[4])  # the sender's clock may be ahead
        return Depth(row[0], row[1], row[2], row[3], oldest)

    async def peek(self, limit: int) -> list[Message]:
        """See ``Broker``."""
        return [
            message_in(row, None) for row in await self._settling.run("fetch", tables.PEEK, self._address.queue, limit)
        ]

    async def dead(self, limit: int, after: str) -> list[DeadLetter]:
        """See ``Broker``."""
        letters = (self._address.queue, self._settings.dead_letter)
        rows = await self._settling.run("fetch", tables.DEAD, *letters, sum(_numbers([after])), limit)
        return [DeadLetter(str(row[5]), message_in(row, None), row[6]) for row in rows]

    async def requeue(self, places: Sequence[str]) -> int:
        """See ``Broker``."""
        count = 0
        for part in _parts(places):
            letters = (self._address.queue, self._settings.dead_letter, self._channel, list(_numbers(part)))
            count += await self._settling.run("fetchval", tables.REQUEUE, *letters)
        return count

    async def purge(self, dead: bool) -> int:
        """See ``Broker``; in several steps, so that none takes long."""
        count, queue = 0, self._address.queue
        purge = (tables.PURGE_DEAD, queue, self._settings.dead_letter) if dead else (tables.PURGE, queue)
        while gone := _count(await self._settling.run("execute", *purge)):
            count += gone
        return count


def _parts(sequence: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """What goes into one statement each."""
    return (sequence[begin : begin + tables.MOST] for begin in range(0, len(sequence), tables.MOST))


def _puts(messages: Sequence[Outgoing]) -> Iterator[Sequence[Outgoing]]:
    """What goes into one statement each: also of large messages no more than the server takes."""
    if 0 < len(messages) <= tables.MOST and sum([len(one.body) for one in messages]) <= LARGEST:  # most often
        yield messages
        return
    begin = size = 0
    for end, one in enumerate(messages):
        if end - begin == tables.MOST or (size > 0 and size + len(one.body) > LARGEST):
            yield messages[begin:end]
            begin, size = end, 0
        size += len(one.body)
    if messages:
        yield messages[begin:]


def _short(values: list[V]) -> list[V]:
    """The values, or one if all are equal: most often they are, and the client takes long for each value."""
    return values[:1] if values.count(values[0]) == len(values) else values


def _receipts(messages: Iterable[Message]) -> tuple[list[int], list[int]]:
    receipts: list[Receipt] = [one.receipt for one in messages]
    return [seq for seq, _ in receipts], [delivery for _, delivery in receipts]


def _count(status: str) -> int:
    """The rows of a status, as ``DELETE 3``."""
    return int(status.rpartition(" ")[2])


def _numbers(places: Sequence[str]) -> Iterator[int]:
    """What can be the place of a dead letter."""
    return (int(place) for place in places if place.isascii() and place.isdecimal() and len(place) < 19)
