"""``redis[s]://[user:password@]host[:6379][/database]/queue``: a queue in a stream of Redis, 6.2 or later.

``?remember=600`` keeps the ids of messages for ten minutes instead of one, to take none twice; 0 saves their memory.
What happens on the server is in ``script``. ``receive`` waits on a connection of its own; all other calls take
turns on another. Neither is used again after a call on it was broken off (fault E1).
"""

from __future__ import annotations

import asyncio
import math
import os
import random
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha1
from time import time
from typing import Any, Final

from ....wording import shown
from ...broker import DeadLetter, Depth, Disconnected, Guarantees, Message, Outgoing, PublishError, Settings, no_queue
from .entries import Receipt, arguments_of, dead_letter, is_entry, message, names_of, parts, shared
from .line import Command, Full, Line, Refused, address_of, keys_of, lines_to
from .putting import LONGEST, check_sizes, longest_at
from .reading import Reader
from .script import AT_ONCE, GROUP, SCRIPT

__all__ = ["RedisBroker"]

TENDED_EVERY: Final = 1.0
"""Seconds, about, between the looks of a broker that receives for due messages and for leases that have run out."""

BYTES_AT_ONCE: Final = 1_000_000
"""Of the bodies that pass, or are copied, in one step: little enough for a slow line, and for others who wait."""

SHA: Final = sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()


class RedisBroker:
    """See the module; every call but ``receive`` is one script for each 500 messages."""

    def __init__(self, url: str, settings: Settings) -> None:
        where, queue, remember = address_of(url)
        self._line = lines_to(where, settings.client)
        self.guarantees: Guarantees = Guarantees(
            durable=True,
            dedupes=remember > 0,
            delays=True,
            counts=True,
            selects=True,
            leases=True,
            orders_by_key=False,
        )
        self._queue = queue
        self._keys: tuple[str, ...] = keys_of(queue, settings.dead_letter)
        self._consumers: list[str] = []  # a new one each time we connect, so that no old receipt is taken for a new one
        self._lease = int(settings.lease * 1000)
        self._must_exist = settings.must_exist
        self._remember = remember
        self._calls: Line | None = None
        self._reader: Reader | None = None
        self._longest = LONGEST  # bytes of a message that can be put
        self._size = 10_000  # of a message that was received lately
        self._tend_at, self._has_suspects = 0.0, True
        self._is_sure: object = False

    async def open(self) -> None:
        """See ``Broker``."""
        await self.close()
        self._calls = calls = self._line()
        self._reader = reader = Reader(self._line(), calls, self._queue)
        self._tend_at, self._has_suspects = 0.0, True
        try:
            await calls.connect()
            await reader.connect()
            await calls.call(("SCRIPT", "LOAD", SCRIPT))
            if self._must_exist and await calls.call(("EXISTS", self._queue)) == [0]:
                raise no_queue(f"in Redis by the name {shown(self._queue)}")
            self._longest = await longest_at(calls)
            self._consumers.append(f"{os.getpid()}-{os.urandom(6).hex()}")
            await self._run("open")
            _, self._is_sure = await calls.call(*self._surely())
        except BaseException:
            await self._hang_up()
            raise

    async def close(self) -> None:
        """See ``Broker``; consumers that have nothing are forgotten."""
        try:
            if self._reader is not None and self._reader.is_open:
                with suppress(Disconnected, TimeoutError):
                    async with asyncio.timeout(2.0):  # a stalled server may be the reason to close
                        await self._run("close", *self._consumers)
        finally:
            await self._hang_up()

    async def _hang_up(self) -> None:
        for line in (self._calls, self._reader):
            if line is not None:
                await line.close()
        self._calls = self._reader = None

    async def _run(self, what: str, *arguments: str | bytes | int, consumer: str = "") -> Any:
        """What the script's function of that name answers, for our newest consumer or an older one."""
        if self._calls is None:
            raise Disconnected("the connection to Redis is not open")
        ours: Command = (len(self._keys), *self._keys, what, consumer or self._consumers[-1], self._lease)
        (answer,) = await self._calls.call(("EVALSHA", SHA, *ours, *arguments))
        return answer

    # -- receiving --------------------------------------------------------------------------------

    async def receive(self, limit: int, wait: float, suspects: int) -> list[Message]:
        """See ``Broker``."""
        if (reader := self._reader) is None:
            raise Disconnected("the connection to Redis is not open")
        ends, reader.is_woken = _now() + wait, False
        limit = max(1, min(limit, BYTES_AT_ONCE // self._size))
        messages: list[Message] = []
        while not messages:
            if _now() >= self._tend_at or (suspects and self._has_suspects):
                messages = await self._tend(limit, suspects)
            if not messages:
                messages = await reader.read(self._consumers[-1], limit, min(ends, self._tend_at) - _now())
                if reader.is_woken or _now() >= ends:
                    break
        if messages:
            self._size = 1 + sum(len(one.body) for one in messages) // len(messages)
        return messages

    def wake(self) -> None:
        """See ``Broker``."""
        if self._reader is not None:
            self._reader.wake()

    async def _tend(self, limit: int, suspects: int) -> list[Message]:
        """Promote what is due, and take what others had too long, or was delivered too often for a batch."""
        taken, pause, left = await self._run("tend", limit, suspects)
        every = TENDED_EVERY * random.uniform(0.75, 1.25)  # spreads the processes
        self._tend_at = _now() + (min(every, pause / 1000) if pause >= 0 else every)
        self._has_suspects = left > 0
        me = self._consumers[-1]
        return [message(entry, fields, Receipt(me, stream, entry, count)) for stream, entry, count, fields in taken]

    # -- settling ---------------------------------------------------------------------------------

    async def ack(self, messages: Sequence[Message]) -> int:
        """See ``Broker``."""
        return sum([await self._ack(*place, some) for place, some in parts(messages)])

    async def _ack(self, consumer: str, stream: int, messages: Sequence[Message]) -> int:
        """Without a look at each, if nobody has taken anything from us: the server would need half as long again."""
        if self._calls is not None and self._is_sure and consumer == self._consumers[-1]:
            key, entries = self._keys[stream - 1], [one.receipt.entry for one in messages]
            acks: tuple[Command, ...] = (("XACK", key, GROUP, *entries), ("XDEL", key, *entries))
            try:
                *_, counts, _, self._is_sure = await self._calls.call(("MULTI",), *acks, ("EXEC",), *self._surely())
            except Refused:  # a full server takes no transaction, but the script
                _, self._is_sure = await self._calls.call(*self._surely())
            else:
                if counts is not None:
                    return int(counts[0])
        return int(await self._run("ack", stream, *names_of(messages), consumer=consumer))

    def _surely(self) -> tuple[Command, Command]:
        """Let the next transaction fail if anything is taken from us before; and see whether something was already."""
        key = f"{self._keys[-1]}{self._consumers[-1]}"
        return ("WATCH", key), ("EXISTS", key)

    async def release(self, messages: Sequence[Message], delay: float, counted: bool) -> None:
        """See ``Broker``; they go to the end of the queue."""
        for (consumer, stream), some in parts(messages, BYTES_AT_ONCE):
            how = (stream, math.ceil(1000 * delay), int(counted))
            await self._run("release", *how, *names_of(some), consumer=consumer)
        self._tend_at = min(self._tend_at, _now() + delay)
        self._has_suspects = True

    async def bury(self, dead: Sequence[tuple[Message, bytes]]) -> None:
        """See ``Broker``."""
        failures, buried = {one.receipt: failure for one, failure in dead}, set[int]()
        for (consumer, stream), some in parts([one for one, _ in dead], BYTES_AT_ONCE):
            named = [
                part for one in some for part in (one.receipt.entry, one.receipt.deliveries, failures[one.receipt])
            ]
            try:
                await self._run("bury", stream, *named, consumer=consumer)
            except Full as error:
                raise PublishError(str(error), [one for one, _ in dead if id(one) not in buried]) from None
            buried.update(map(id, some))

    async def extend(self, messages: Sequence[Message]) -> list[Message]:
        """See ``Broker``."""
        ours: set[tuple[str, int, bytes]] = set()
        for (consumer, stream), some in parts(messages):
            entries = await self._run("extend", stream, *names_of(some), consumer=consumer)
            ours.update((consumer, stream, entry) for entry in entries)
        return [one for one in messages if one.receipt[:3] not in ours]

    # -- putting ----------------------------------------------------------------------------------

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """See ``Broker``."""
        check_sizes(messages, self._longest)
        confirmed = 0
        for some in shared(messages, BYTES_AT_ONCE):
            try:
                await self._run("publish", self._remember, *arguments_of(some))
            except Full as error:
                raise PublishError(str(error), messages[confirmed:]) from None  # to connect again would not help
            confirmed += len(some)
        delays = [one.delay for one in messages if one.delay > 0]
        self._tend_at = min(self._tend_at, _now() + min(delays, default=math.inf))

    # -- looking ----------------------------------------------------------------------------------

    async def depth(self) -> Depth:
        """See ``Broker``."""
        ready, unacknowledged, delayed, dead, oldest = await self._run("depth")
        age = max(0.0, time() - message(oldest[0], oldest[1], None).time) if oldest else None
        return Depth(ready, unacknowledged, delayed, dead, age)

    async def peek(self, limit: int) -> list[Message]:
        """See ``Broker``."""
        return [message(entry, fields, None) for entry, fields in (await self._run("peek", limit))[:limit]]

    async def dead(self, limit: int, after: str) -> list[DeadLetter]:
        """See ``Broker``."""
        start = f"({after}" if is_entry(after) else "-"
        return [dead_letter(entry, fields) for entry, fields in await self._run("dead", start, limit)]

    async def requeue(self, places: Sequence[str]) -> int:
        """See ``Broker``."""
        entries = [place for place in places if is_entry(place)]
        return sum(
            [await self._run("requeue", *entries[start : start + AT_ONCE]) for start in range(0, len(entries), AT_ONCE)]
        )

    async def purge(self, dead: bool) -> int:
        """See ``Broker``; also forgets what others have had longer than their lease."""
        if dead:
            return int(await self._run("purge_dead"))
        total, (count, before) = 0, await self._run("purge", "")
        while count:
            total += count
            count, _ = await self._run("purge", before)
        return total


def _now() -> float:
    return asyncio.get_running_loop().time()
