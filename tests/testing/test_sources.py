"""``Feed`` and ``collect``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from support import both

from asyncpc import Pipeline, PipelineError, StateError, consumer, producer, testing
from asyncpc.testing import Feed, Spy, collect, idle, leak_check, now


@both
def test_the_test_says_when_an_item_comes(eager: bool) -> None:
    """Protects Feed: items come when they are given, in order, and no earlier."""

    async def main() -> None:
        feed, spy = Feed("a"), Spy()
        async with feed >> spy as running:
            await idle()
            assert spy.items == ["a"]
            await asyncio.sleep(5)
            feed.give("b", "c")
            await idle()
            assert (spy.items, spy.times) == (["a", "b", "c"], [0, 5, 5])
            feed.end()
            assert (await running.wait()).complete
        with pytest.raises(StateError, match="it has ended"):
            feed.give("d")

    testing.run(main(), eager=eager)


def test_it_says_how_much_it_was_asked_for() -> None:
    """Protects tests of backpressure: two workers, four in the queue, and one that waits for room."""

    async def main() -> None:
        feed, spy = Feed[int](*range(100)), Spy(consumer(concurrency=2)(stuck))
        async with Pipeline(feed, spy, maxsize=4) as running:
            await idle()
            assert (spy.running, running.statistics().stages[0].queued) == (2, 4)
            assert 6 <= feed.asked <= 7
            await running.drain(0)

    async def stuck(item: int) -> None:
        await asyncio.sleep(1000)

    testing.run(main())


def test_it_fails_after_what_it_was_given() -> None:
    """Protects ``fail``: the items before the error are handled, and the error is the source's."""

    async def main() -> None:
        feed, spy = Feed(1, 2), Spy()
        feed.fail(OSError("gone"))
        with pytest.raises(PipelineError) as failed:
            await (feed >> spy)
        assert [str(error) for error in failed.value.exceptions] == ["gone"]
        assert spy.items == [1, 2]

    testing.run(main())


def test_collect_reads_sources_and_pipelines() -> None:
    """Protects collect: all of it, or the beginning of what never ends; and then it is closed."""
    closed: list[float] = []

    @producer
    async def ticks() -> AsyncIterator[int]:
        try:
            for number in range(1_000_000):
                yield number
                await asyncio.sleep(1)
        finally:
            closed.append(now())

    async def double(item: int) -> int:
        return 2 * item

    async def main() -> None:
        with leak_check():
            assert await collect(ticks(), most=3) == [0, 1, 2]
            assert await collect(ticks(), most=0) == []
            assert await collect(ticks() >> consumer(double), most=3) == [0, 2, 4]
            assert await collect(Feed(1)) == [1]
        assert closed == [2, 4]

    with pytest.raises(testing.Deadlock, match="in main"):  # of the last feed, which was not ended
        testing.run(main())
