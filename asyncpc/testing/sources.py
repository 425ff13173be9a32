"""``Feed``: a source that the test drives; and ``collect``, which reads one to its end."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext, suppress
from typing import Any, Generic, TypeVar

from ..errors import StateError
from ..graph.definitions import define_origin
from ..graph.layout import Layout
from ..graph.pipeline import Pipeline, Source

__all__ = ["Feed", "collect"]

T = TypeVar("T")


class Feed(Source[T], Generic[T]):
    """A source that gives what the test gives it, when the test gives it.

    ::

        feed = Feed[int]()
        async with feed >> double >> show as running:
            feed.give(1, 2)
            await idle()
            feed.end()
            await running.wait()

    Leaving the block stops the source, so what it was just given is not read: wait for :func:`idle`, or end the feed
    and wait for the run.
    """

    def __init__(self, *items: T, name: str = "feed") -> None:
        super().__init__(Layout((define_origin(self._read, None, name, None),)))
        self.asked: int = 0
        """How many items the pipeline has asked for, the one that it waits for included."""
        self._items: deque[T] = deque(items)
        self._changed = asyncio.Event()
        self._has_ended = False
        self._error: BaseException | None = None

    def give(self, *items: T) -> None:
        """Give these items, as soon as the pipeline asks for them; raises ``StateError`` after the end."""
        if self._has_ended:
            raise StateError("Feed: it has ended, so it gives nothing more")
        self._items += items
        self._changed.set()

    def end(self) -> None:
        """End, after what was given."""
        self._has_ended = True
        self._changed.set()

    def fail(self, error: BaseException) -> None:
        """Raise ``error`` in the source, after what was given."""
        self._error = error
        self.end()

    async def _read(self) -> AsyncIterator[T]:
        while True:
            self.asked += 1
            while not self._items and not self._has_ended:
                self._changed.clear()
                await self._changed.wait()
            if not self._items:
                break
            yield self._items.popleft()
        if self._error is not None:
            raise self._error


async def collect(values: AsyncIterable[T] | Pipeline[Any, T], most: int | None = None) -> list[T]:
    """What a source gives, or the last stage of a pipeline: all of it, or the first ``most``; then it is closed."""
    found: list[T] = []
    async with _opened(values) as opened:
        iterator = aiter(opened)
        with suppress(StopAsyncIteration):
            while len(found) != most:
                found.append(await anext(iterator))
    return found


def _opened(values: Any) -> AbstractAsyncContextManager[AsyncIterable[Any]]:
    if isinstance(values, Pipeline):
        return values.stream()
    iterator = aiter(values)
    return aclosing(iterator) if hasattr(iterator, "aclose") else nullcontext(iterator)
