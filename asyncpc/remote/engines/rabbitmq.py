"""``amqp://host/jobs``: a quorum queue of RabbitMQ.

Each ``receive`` is a consumer of its own with exactly the prefetch asked for, so no message waits in this process that
nobody asked for. The server counts the deliveries that came back; what is given back and was no attempt goes in again,
as a copy that knows how often it was tried. What is delayed waits in a queue for each length of delay, ``jobs.later.…``,
from which the server moves it; ``jobs.later`` holds their names. Dead letters lie in a queue of their own; to read
them, one process at a time takes them all, and gives them back.
"""

from __future__ import annotations

import asyncio
import math
import time
from bisect import insort
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from hashlib import blake2b
from itertools import count
from typing import Any, Final

from pamqp.commands import Basic, Queue
from pamqp.common import FieldTable

from ...errors import DefinitionError, StateError
from ...wording import shown
from ..broker import DeadLetter, Depth, Disconnected, Guarantees, Message, Outgoing, PublishError, Settings
from .rabbitmq_connection import MOST, PATIENCE, Channel, Connection, Delivery, Parcel, Refused, Unsendable, read

__all__ = ["RabbitBroker"]

LONGEST_LEASE: Final = 1800.0
"""Seconds after which a server before 3.12 closes the channel of a delivery; clients can neither read nor set it."""

LONGEST_DELAY: Final = 49 * 86400.0
"""Seconds; the server takes no more milliseconds than 32 bits hold."""

FAILURE: Final = 40_000
"""Bytes of a failure that are kept; headers lie in one frame, of 128 KiB by default."""

KEPT: Final[FieldTable] = {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000_000}
"""No limit: the session counts the attempts, and the server would drop what has reached it (20 from 4.0 on)."""

OURS: Final = ("asyncpc-", "x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count")
"""How the names of headers begin that are the engine's, or the server's."""


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
        self._later = f"{self._queue}.later"
        self._where = f"{self._options.host}:{self._options.port}/{self._queue}"
        self._lease = settings.lease
        self._connections: list[Connection] = []
        self._intake: Channel | None = None  # what is received, and settled
        self._tools: Channel | None = None
        self._outlet: Channel | None = None  # by a connection of its own: the server may stop reading from that
        self._ready: deque[Delivery] = deque()  # that came after their receive had ended
        self._delays: set[int] = set()  # milliseconds, of the queues that there are
        self._names = 0  # in the queue of their names, when it was read
        self._looking = asyncio.Lock()
        self._taking = asyncio.Lock()

    async def open(self) -> None:
        """See ``Broker``; raises ``DefinitionError`` for a queue of that name that is something else."""
        try:
            self._connections = [Connection(self._where), Connection(self._where)]
            for connection in self._connections:  # in turn: one is refused as the other is
                await connection.open(self._options)
            self._check_version(self._connections[0].version)
            for queue in (self._queue, self._dead, self._later):
                await self._make(queue, KEPT)
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

    async def _make(self, queue: str, arguments: FieldTable) -> None:
        channel = await self._connections[0].channel()
        try:
            await channel.call(Queue.Declare(queue=queue, durable=True, arguments=arguments))
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
            self._delays.clear()
            self._names = 0
            await asyncio.gather(*(connection.close() for connection in connections))

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
        return [_message(one, _Receipt(channel, one.tag)) for one in taken]

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
        again = [Parcel(queue, _properties(one, one.attempt - (not counted)), one.body) for one in ours]
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
            extra = {"asyncpc-failure": text, "asyncpc-place": f"{next(numbers):020}-{_digest(one.id.encode())}"}
            letters.append(Parcel(self._dead, _properties(one, one.attempt, extra), one.body))
        await self._put(letters, ours)
        await self._settle(ours, self._open(self._intake).ack)

    async def extend(self, messages: Sequence[Message]) -> list[Message]:
        """See ``Broker``; a delivery is this process's as long as its channel."""
        kept = set(map(id, self._ours(messages)))
        return [one for one in messages if id(one) not in kept]

    # -- putting ----------------------------------------------------------------------------------

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """See ``Broker``."""
        parcels = [Parcel(await self._queue_for(one.delay), _properties(one), one.body) for one in messages]
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
        length = _rounded(delay)
        if length not in self._delays:
            await self._make_delay(length)
        return f"{self._later}.{length}"

    async def _make_delay(self, length: int) -> None:
        async with self._all(self._later, self._note_delay):
            if length not in self._delays:
                name = f"{self._later}.{length}"
                moving: FieldTable = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": self._queue}
                safely: FieldTable = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
                await self._make(name, KEPT | moving | safely | {"x-message-ttl": length})
                await self._put([Parcel(self._later, Basic.Properties(message_id=name, delivery_mode=2), b"")], [name])
                self._delays.add(length)
                self._names += 1

    def _note_delay(self, delivery: Delivery) -> None:
        with suppress(ValueError):
            self._delays.add(int((delivery.properties.message_id or "").rpartition(".")[2]))

    # -- looking ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def _all(self, queue: str, note: Callable[[Delivery], None]) -> AsyncIterator[Channel]:
        """Show each message of a queue; they go back, but for those that are acked meanwhile.

        One process at a time does so, since others would find none; what holds them off is a queue that only one
        connection can have.
        """
        lock = Queue.Declare(queue=f"{queue}.lock", exclusive=True, arguments={"x-queue-type": "classic"})
        async with self._looking:
            channel = await self._locked(lock)
            try:
                channel.on_delivery = note
                await _take_all(channel, queue)
                yield channel
                held = len(channel.unsettled)
                channel.reject(list(channel.unsettled))
                for _ in range(100):  # else the next to look may find some missing
                    if await _number(channel, queue) >= held:
                        break
                    await asyncio.sleep(0.02)
                await channel.call(Queue.Delete(queue=lock.queue))
            finally:
                await channel.close()

    async def _locked(self, lock: Queue.Declare) -> Channel:
        ends = time.monotonic() + PATIENCE
        while True:
            self._open(self._intake)
            channel = await self._connections[0].channel()
            try:
                await channel.call(lock)
            except Refused as error:
                if error.code != 405 or time.monotonic() > ends:
                    raise
                await asyncio.sleep(0.1)
            else:
                return channel

    async def depth(self) -> Depth:
        """See ``Broker``; of what is unacknowledged, only what this process has."""
        tools, unsettled = self._open(self._tools), self._open(self._intake).unsettled
        if await _number(tools, self._later) != self._names:
            await self._read_names()
        ready, dead, *delayed = await self._numbers(self._queue, self._dead, *self._later_queues())
        return Depth(ready, len(unsettled) - len(self._ready), sum(delayed), dead, None)

    async def _read_names(self) -> None:
        self._names = 0

        def note(delivery: Delivery) -> None:
            self._note_delay(delivery)
            self._names += 1

        async with self._all(self._later, note):
            pass

    def _later_queues(self) -> list[str]:
        return [f"{self._later}.{length}" for length in sorted(self._delays)]

    async def _numbers(self, *queues: str) -> list[int]:
        answers = await self._open(self._tools).call(*(Queue.Declare(queue=one, passive=True) for one in queues))
        return [one.message_count for one in answers]

    async def peek(self, limit: int) -> list[Message]:
        """See ``Broker``; cannot be done: whoever reads a message takes it, and the server counts that."""
        raise StateError("RabbitMQ shows no message without counting that as an attempt")

    async def dead(self, limit: int, after: str) -> list[DeadLetter]:
        """See ``Broker``; reads the whole queue, and finds the oldest 65,535."""
        found: list[tuple[str, int, Delivery]] = []

        def note(delivery: Delivery) -> None:
            place = _place(delivery)
            if place > after:
                insort(found, (place, delivery.tag, delivery))
                del found[limit:]

        async with self._all(self._dead, note):
            pass
        return [DeadLetter(place, _message(one), _header(one, "asyncpc-failure").encode()) for place, _, one in found]

    async def requeue(self, places: Sequence[str]) -> int:
        """See ``Broker``."""
        wanted, found = set(places), dict[int, Message]()

        def note(delivery: Delivery) -> None:
            if _place(delivery) in wanted:
                found[delivery.tag] = _message(delivery)

        async with self._all(self._dead, note) as channel:
            again = [Parcel(self._queue, _properties(one), one.body) for one in found.values()]
            await self._put(again, again)
            channel.ack(list(found))
        return len(found)

    async def purge(self, dead: bool) -> int:
        """See ``Broker``."""
        if not dead and await _number(self._open(self._tools), self._later) != self._names:
            await self._read_names()
        queues = [self._dead] if dead else [self._queue, *self._later_queues()]
        answers = await self._open(self._tools).call(*(Queue.Purge(queue=one) for one in queues))
        return sum(one.message_count for one in answers)


async def _take_all(channel: Channel, queue: str) -> None:
    number, before = 1, -1
    while (number or before < len(channel.unsettled)) and len(channel.unsettled) < MOST:
        number, before = await _number(channel, queue), len(channel.unsettled)
        if number:
            await channel.take(queue, number, PATIENCE, min(number, MOST))
        else:  # or the queue has no leader yet, and the server knows no better
            await channel.take(queue, 1, 0.0)


async def _number(channel: Channel, queue: str) -> int:
    (answer,) = await channel.call(Queue.Declare(queue=queue, passive=True))
    return int(answer.message_count)


def _rounded(delay: float) -> int:
    """Milliseconds, at least as many, of two digits: so that there are few queues for them."""
    wanted = math.ceil(min(delay, LONGEST_DELAY) * 1000)
    unit = 10 ** max(0, len(str(wanted)) - 2)
    return min(-(-wanted // unit) * unit, int(LONGEST_DELAY * 1000))


def _properties(
    message: Message | Outgoing, attempts: int = 0, extra: Mapping[str, str] | None = None
) -> Basic.Properties:
    headers: dict[str, Any] = {**message.headers, **(extra or {}), "asyncpc-id": message.id}
    if message.time:
        headers["asyncpc-time"] = str(message.time)
    if attempts:
        headers["asyncpc-attempts"] = str(attempts)
    return Basic.Properties(headers=headers, delivery_mode=2)


def _message(one: Delivery, receipt: _Receipt | None = None) -> Message:
    headers = one.properties.headers or {}
    identity = _header(one, "asyncpc-id") or one.properties.message_id or _digest(one.body)
    returned = headers.get("x-delivery-count", 0)
    attempt = int(_float(_header(one, "asyncpc-attempts"), 0)) + 1
    if receipt is not None and isinstance(returned, int):
        attempt += returned
    put = _float(_header(one, "asyncpc-time"), 0.0) or _stamp(one) or time.time()
    others = {name: value for name, value in headers.items() if isinstance(value, str) and not name.startswith(OURS)}
    return Message(identity, one.body, attempt, put, others, receipt)


def _header(one: Delivery, name: str) -> str:
    value = (one.properties.headers or {}).get(name)
    return value if isinstance(value, str) else ""


def _stamp(one: Delivery) -> float:
    return one.properties.timestamp.timestamp() if one.properties.timestamp is not None else 0.0


def _place(one: Delivery) -> str:
    """Of a letter that another program wrote, too."""
    identity = _digest((one.properties.message_id or "").encode() + one.body)
    return _header(one, "asyncpc-place") or f"{int(_stamp(one) * 1e9):020}-{identity}"


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=8).hexdigest()


def _float(text: str, other: float) -> float:
    """What a header says, if it can be believed (fault F10)."""
    try:
        number = float(text or "")
    except ValueError:
        return other
    return number if 0 <= number < 1e12 else other
