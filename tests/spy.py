"""Handlers that remember what they saw, for tests that look at a stage from outside."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from asyncpc import Consumer, consumer
from asyncpc.testing import Spy

__all__ = ["Flaky", "Sink", "spying"]


class Sink:
    """A handler that remembers what came, in which order, and when (loop time), and takes ``seconds`` for each.

    With a ``name`` it passes each item on, marked with that name, so that results tell which branch they came through.
    """

    def __init__(self, name: str = "", *, seconds: float = 0.0, **options: Any) -> None:
        self.items: list[Any] = []
        self.times: list[float] = []
        self.name = name
        self.seconds = seconds
        self.consumer: Consumer[Any, Any, ..., Any] = consumer(name=name or "sink", **options)(self)

    async def __call__(self, item: Any) -> Any:
        self.items.append(item)
        self.times.append(asyncio.get_running_loop().time())
        if self.seconds:
            await asyncio.sleep(self.seconds)
        return (self.name, item) if self.name else None


class Flaky:
    """A handler that fails the first ``times`` calls of each item, and remembers when it was called with what."""

    def __init__(self, times: float, error: Callable[[Any], BaseException] = ValueError, seconds: float = 0.0) -> None:
        self.times = times
        self.error = error
        self.seconds = seconds
        self.calls: list[tuple[float, Any]] = []
        self.counts: Counter[Any] = Counter()

    async def __call__(self, item: Any) -> Any:
        self.calls.append((asyncio.get_running_loop().time(), item))
        self.counts[item] += 1
        await asyncio.sleep(self.seconds)
        if self.counts[item] <= self.times:
            raise self.error(item)
        return item


def spying(seconds: float = 0.0, **options: Any) -> Spy[Any, Any]:
    """A stage ``spy`` that takes ``seconds`` per item."""

    async def spy(item: Any) -> Any:
        await asyncio.sleep(seconds)
        return item

    return Spy(consumer(**options)(spy))
