"""``memory://name``: a queue in this process, by the rules of the others; for tests, and for programs that begin small.

All queues of one name in one process are one. It outlives its sessions, not the process.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ....errors import DefinitionError
from ....wording import shown
from ...broker import SUSPECT_AFTER, DeadLetter, Depth, Guarantees, Message, Outgoing, Settings
from .queue import Kept, MemoryQueue, loop_time

__all__ = ["MemoryBroker"]


class _Receipt(NamedTuple):
    number: int
    attempt: int


_queues: dict[str, MemoryQueue] = {}


class MemoryBroker:
    """See the module; all calls return at once, but for ``receive``."""

    guarantees: Guarantees = Guarantees(
        durable=False,
        dedupes=True,
        delays=True,
        counts=True,
        selects=True,
        leases=True,
        orders_by_key=False,
        shared=False,
    )

    def __init__(self, url: str, settings: Settings) -> None:
        parts = urlsplit(url)
        name = parts.netloc + parts.path
        if not name or parts.query:
            raise DefinitionError("remote_queue: expected memory://name")
        if settings.client:
            raise DefinitionError(f"remote_queue: memory:// takes no option {shown(min(settings.client))}")
        self._queue = _queues.setdefault(name, MemoryQueue())
        self._lease = settings.lease
        self._changed = asyncio.Event()  # since receive looked last
        self._is_asked_back = False

    async def open(self) -> None:
        """Nothing to connect to."""
        self._queue.watchers.add(self)

    async def close(self) -> None:
        """What was received stays leased."""
        self.wake()
        self._queue.watchers.discard(self)

    # -- receiving --------------------------------------------------------------------------------

    async def receive(self, limit: int, wait: float, suspects: int) -> list[Message]:
        """See ``Broker``."""
        deadline, self._is_asked_back = loop_time() + wait, False
        while True:
            self._changed.clear()
            taken, left = self._take(limit, suspects), deadline - loop_time()
            if taken or left <= 0 or self._is_asked_back:
                return taken
            if self._queue.waiting:
                left = min(left, max(0.001, self._queue.waiting[0][0] - loop_time()))
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()

    def wake(self) -> None:
        """See ``Broker``."""
        self._is_asked_back = True
        self._changed.set()

    def look_again(self) -> None:
        """Somebody has put or released messages."""
        self._changed.set()

    def _take(self, limit: int, suspects: int) -> list[Message]:
        queue, now = self._queue, loop_time()
        taken: list[Message] = []
        held_back: list[tuple[float, int]] = []
        while queue.waiting and queue.waiting[0][0] <= now and len(taken) < limit:
            entry = heapq.heappop(queue.waiting)
            kept = queue.kept.get(entry[1])
            if kept is None or kept.due != entry[0]:
                continue  # acked, or its lease was extended
            if kept.attempt >= SUSPECT_AFTER:
                if suspects == 0:
                    held_back.append(entry)
                    continue
                suspects -= 1
            kept.attempt += 1
            kept.owner = self
            queue.set_due(entry[1], kept, now + self._lease)
            taken.append(_message(kept, _Receipt(entry[1], kept.attempt)))
        for entry in held_back:
            heapq.heappush(queue.waiting, entry)
        return taken

    def _ours(self, message: Message) -> Kept | None:
        kept = self._queue.kept.get(message.receipt.number)
        return kept if kept is not None and kept.owner is self and kept.attempt == message.receipt.attempt else None

    # -- settling ---------------------------------------------------------------------------------

    async def ack(self, messages: Sequence[Message]) -> int:
        """See ``Broker``."""
        ours = [one for one in messages if self._ours(one) is not None]
        for one in ours:
            self._queue.forget(one.receipt.number)
        return len(ours)

    async def release(self, messages: Sequence[Message], delay: float, counted: bool) -> None:
        """See ``Broker``."""
        for one in messages:
            kept = self._ours(one)
            if kept is not None:
                kept.owner = None
                kept.attempt -= not counted
                self._queue.set_due(
                    one.receipt.number, kept, max(kept.since, loop_time() + delay) if delay > 0 else kept.since
                )
        self._queue.tell()

    async def bury(self, dead: Sequence[tuple[Message, bytes]]) -> None:
        """See ``Broker``."""
        for message, failure in dead:
            if self._ours(message) is not None:
                place = message.receipt.number
                self._queue.dead[place] = DeadLetter(f"{place:020}", message._replace(receipt=None), failure)
                self._queue.forget(place)

    async def extend(self, messages: Sequence[Message]) -> list[Message]:
        """See ``Broker``."""
        lost = []
        for one in messages:
            kept = self._ours(one)
            if kept is None:
                lost.append(one)
            else:
                self._queue.set_due(one.receipt.number, kept, loop_time() + self._lease)
        return lost

    # -- putting ----------------------------------------------------------------------------------

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """See ``Broker``."""
        for one in messages:
            self._queue.put(one)
        self._queue.tell()

    # -- looking ----------------------------------------------------------------------------------

    async def depth(self) -> Depth:
        """See ``Broker``."""
        now = loop_time()
        ready, leased, delayed = 0, 0, 0
        oldest = None
        for kept in self._queue.kept.values():
            if kept.due > now:
                leased += kept.owner is not None
                delayed += kept.owner is None
            else:
                ready += 1
                age = now - kept.since
                oldest = age if oldest is None else max(oldest, age)
        return Depth(ready, leased, delayed, len(self._queue.dead), oldest)

    async def peek(self, limit: int) -> list[Message]:
        """See ``Broker``."""
        now = loop_time()
        ready = sorted((kept.due, number) for number, kept in self._queue.kept.items() if kept.due <= now)
        return [_message(self._queue.kept[number], None) for _, number in ready[:limit]]

    async def dead(self, limit: int, after: str) -> list[DeadLetter]:
        """See ``Broker``."""
        return [one for _, one in sorted(self._queue.dead.items()) if one.place > after][:limit]

    async def requeue(self, places: Sequence[str]) -> int:
        """See ``Broker``."""
        numbers = [int(place) for place in places if place.isdecimal()]
        found = [one for number in numbers if (one := self._queue.dead.pop(number, None)) is not None]
        for one in found:
            self._queue.keep(Outgoing(one.message.id, one.message.body, one.message.headers, time=one.message.time))
        self._queue.tell()
        return len(found)

    async def purge(self, dead: bool) -> int:
        """See ``Broker``."""
        queue = self._queue
        if dead:
            count = len(queue.dead)
            queue.dead.clear()
            return count
        now = loop_time()
        free = [number for number, kept in queue.kept.items() if kept.owner is None or kept.due <= now]
        for number in free:
            queue.forget(number)
        return len(free)


def _message(kept: Kept, receipt: Any) -> Message:
    one = kept.message
    return Message(one.id, one.body, kept.attempt, one.time, one.headers, receipt)
