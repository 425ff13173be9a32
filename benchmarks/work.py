"""The work every implementation does in a round: the same sources and handlers, and the check that it was done."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

Handle = Callable[[Any], Awaitable[Any]]
Source = Callable[[], AsyncIterator[Any]]
Sleep = Callable[[float], Awaitable[object]]


class WrongResult(Exception):
    """An implementation lost, doubled or invented items, so its time is worth nothing."""


@dataclass(frozen=True)
class Shape:
    """How much work there is, and through what."""

    items: int
    wait: float | None = None
    """Seconds the handler sleeps; None is no work, 0 is one turn of the loop."""
    concurrency: int = 4
    """Consumers of each stage."""
    bound: int = 128
    """Items each queue holds."""
    stages: int = 1
    producers: int = 1


class Job:
    """One round's work; ``sleep`` is the one of the implementation's event loop.

    Each handler call leaves its item in ``seen``, so the check needs no work of its own while the clock runs.
    """

    def __init__(self, shape: Shape, sleep: Sleep = asyncio.sleep) -> None:
        self.shape = shape
        self.seen: Any = [] if shape.items <= 100_000 else array("q")  # millions of ints would weigh on the memory
        self.sources: list[Source] = [partial(self.numbers, first) for first in range(shape.producers)]
        self.handlers: list[Handle] = [_pass_on] * (shape.stages - 1) + [_last(self.seen, shape.wait, sleep)]

    async def numbers(self, first: int) -> AsyncIterator[float]:
        """The part of 0 … items that one of the producers gives."""
        for n in range(first, self.shape.items, self.shape.producers):
            yield n

    def check(self, who: str) -> None:
        """Raise :class:`WrongResult` unless count and sum say that every item was handled once."""
        items = self.shape.items
        if (len(self.seen), sum(self.seen)) != (items, items * (items - 1) // 2):
            raise WrongResult(f"{who}: {len(self.seen)} items handled of {items}, with the sum {sum(self.seen)}")


def compute(size: int) -> int:
    """Work for one processor; it gives back what it was given."""
    total = 0
    for n in range(size):
        total += n & 7
    return size


async def _pass_on(item: Any) -> Any:
    return item


def _last(seen: Any, wait: float | None, sleep: Sleep) -> Handle:
    async def handle(item: Any) -> None:
        seen.append(item)

    async def handle_slowly(item: Any) -> None:
        assert wait is not None
        await sleep(wait)
        seen.append(item)

    return handle if wait is None else handle_slowly


class ShortJob(Job):
    """A job whose source is a plain function, as in a program that defines a pipeline where it runs it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)

        async def numbers() -> AsyncIterator[int]:
            for n in range(shape.items):
                yield n

        self.sources = [numbers]


class Gated(Job):
    """A job that is timed by its source, from the moment all consumers wait: what an item costs, without the start."""

    seconds = 0.0

    async def numbers(self, first: int) -> AsyncIterator[float]:
        """All items, once the consumers have come to rest."""
        for _ in range(5):
            await asyncio.sleep(0)
        started = perf_counter()
        for n in range(self.shape.items):
            yield n
        self.seconds = perf_counter() - started


class OpenLoop(Job):
    """Items that come when they are due, whether or not the consumers keep up; ``waits`` are due … handled.

    Open, since a source that waits for the pipeline would leave out the very items that had to wait longest.
    """

    def __init__(self, shape: Shape, gap: float) -> None:
        super().__init__(shape)
        self.waits: list[float] = []
        self.gap = gap  # seconds from item to item
        self.handlers = [self.handle]

    async def numbers(self, first: int) -> AsyncIterator[float]:
        """The moments that the items are due."""
        clock, started = perf_counter, perf_counter()
        for n in range(self.shape.items):
            due = started + n * self.gap
            while clock() < due:  # noqa: ASYNC110  # polling on purpose: timers are 1 ms coarse, gaps 1 µs
                await asyncio.sleep(0)
            yield due

    async def handle(self, due: float) -> None:
        """Note how long the item took to get here."""
        self.waits.append(perf_counter() - due)

    def check(self, who: str) -> None:
        """Count the items."""
        if len(self.waits) != self.shape.items:
            raise WrongResult(f"{who}: {len(self.waits)} items handled of {self.shape.items}")
