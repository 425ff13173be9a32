"""``MemoryQueue``: what is kept of a queue in this process, whoever is connected to it."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterator
from itertools import count, islice
from typing import Final, Protocol

from ...broker import DeadLetter, Outgoing

__all__ = ["Kept", "MemoryQueue", "loop_time"]

SEEN_FOR: Final = 3600.0
"""Seconds for which the id of a message is remembered after its ack."""


class Watcher(Protocol):
    """Whoever may have messages, and wait for more."""

    def look_again(self) -> None:
        """Somebody has put or released messages."""


class Kept:
    """A message, and who has it."""

    __slots__ = ("attempt", "due", "message", "owner", "since")

    def __init__(self, message: Outgoing, since: float) -> None:
        self.message: Outgoing = message
        self.since: float = since  # when it was ready first, so that what is given back keeps its place
        self.due: float = since  # the end of its delay, or of its lease
        self.attempt: int = 0
        self.owner: Watcher | None = None


class MemoryQueue:
    """The messages of one name."""

    def __init__(self) -> None:
        self.numbers: Iterator[int] = count(1)
        self.waiting: list[tuple[float, int]] = []  # a heap: when a message is due, and its number
        self.kept: dict[int, Kept] = {}
        self.numbers_of: dict[str, int] = {}  # by id
        self.seen: dict[str, float] = {}  # ids that were acked, and until when they are remembered
        self.dead: dict[int, DeadLetter] = {}
        self.watchers: set[Watcher] = set()

    def set_due(self, number: int, kept: Kept, due: float) -> None:
        """When a message can be received, for the first time or again."""
        kept.due = due
        heapq.heappush(self.waiting, (due, number))

    def put(self, message: Outgoing) -> None:
        """Keep a message, unless its id is known."""
        if message.id not in self.numbers_of and self.seen.get(message.id, 0.0) <= loop_time():
            self.keep(message)

    def keep(self, message: Outgoing) -> None:
        """Keep a message, whoever has its id."""
        number = next(self.numbers)
        self.kept[number] = kept = Kept(message, loop_time() + max(0.0, message.delay))
        self.numbers_of[message.id] = number
        self.set_due(number, kept, kept.since)

    def tell(self) -> None:
        """Let all who wait look again."""
        for watcher in self.watchers:
            watcher.look_again()

    def forget(self, number: int) -> None:
        """A message is settled; its id is remembered for a while."""
        kept = self.kept.pop(number)
        if self.numbers_of.get(kept.message.id) == number:
            del self.numbers_of[kept.message.id]
        now = loop_time()
        self.seen[kept.message.id] = now + SEEN_FOR
        for seen in list(islice(self.seen, 2)):  # more than one comes in, so that it never grows
            if self.seen[seen] <= now:
                del self.seen[seen]


def loop_time() -> float:
    """The clock of all queues here."""
    return asyncio.get_running_loop().time()
