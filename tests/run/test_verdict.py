"""The sentence that says what limits a run."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from spy import Sink, spying
from support import AnyStage, named, no_wait, same

from asyncpc import Breaker, Pipeline, Rate, Report, Retry, RetryLater, consumer, merge, producer, source, testing
from asyncpc.testing import now
from asyncpc.testing.clock import measuring_with

# -- what limits a run ----------------------------------------------------------------------------


def test_waiting_times_are_exact_and_the_bottleneck_is_named() -> None:
    """The numbers that a user tunes by: seconds waited for items and for room, in each stage, also while it runs."""

    async def main() -> None:
        fast = spying(1, name="fast")
        slow = spying(10, name="slow", concurrency=2)
        async with Pipeline(range(10), fast >> slow, maxsize=1) as running:
            await asyncio.sleep(0.5)
            half = running.statistics()
            assert half.elapsed == 0.5
            assert half.stages[0].in_flight == 1
            assert half.stages[1].get_waited == 2 * 0.5
            await asyncio.sleep(29.5)
            assert running.bottleneck().startswith("slow: busy ")
            assert "of 2 workers; fast waits " in running.bottleneck()
            report = await running.wait()
        first, second = report.stages
        assert report.elapsed == now() == 52.0
        assert first.out_waited == second.put_waited > 30
        assert first.out_waited + first.get_waited + 10 * 1 == pytest.approx(52)
        assert second.get_waited == pytest.approx(2 * 52 - 10 * 10)
        assert (first.done, first.emitted, second.received, second.rate) == (10, 10, 10, 10 / 52)

    with measuring_with(now):
        testing.run(main())


def test_a_slow_source_is_named_as_the_bottleneck() -> None:
    """The stages are idle: no amount of workers would help, and the sentence says so."""

    @producer
    async def slow() -> AsyncIterator[int]:
        for n in range(5):
            await asyncio.sleep(1)
            yield n

    async def main() -> None:
        async with slow >> spying(0.01) as running:
            assert running.bottleneck() == "nothing has happened yet"
            await running.wait()
            assert running.bottleneck().startswith("slow: too slow to keep the stages busy; spy waits 99%")

    testing.run(main())


@pytest.mark.realtime
def test_a_handler_that_blocks_is_named_as_the_bottleneck() -> None:
    """Protects from a wrong trail: while an async handler blocks all seem to wait, but nobody can go on."""

    @consumer(concurrency=10)
    async def blocks(item: int) -> None:
        until = time.perf_counter() + 0.002
        while time.perf_counter() < until:
            pass

    @consumer(concurrency=10)
    async def waits(item: int) -> None:
        await asyncio.sleep(0.002)

    async def words(stage: Any) -> str:
        report: Report = await (source(range(50)) >> stage)
        return report.statistics.bottleneck()

    assert asyncio.run(words(blocks)).startswith("blocks: holds up the event loop ")
    assert asyncio.run(words(waits)).startswith("waits: busy ")


def test_the_slowest_of_branches_that_meet_is_named() -> None:
    """Each stage is told its own waiting, not that of the others that give to the same queue."""

    @consumer
    async def slow(n: int) -> int:
        await asyncio.sleep(0.02)
        return n

    @consumer(concurrency=16)
    async def quick(n: int) -> int:
        return n

    @consumer(maxsize=1)
    async def join(n: int) -> None:
        await asyncio.sleep(0.001)

    report = testing.run(merge(source(range(60)) >> slow, source(range(300)) >> quick) >> join)
    waited = {stage.name: stage.out_waited for stage in report.stages}
    assert report.statistics.bottleneck().startswith("slow: busy"), report.statistics.bottleneck()
    assert waited["slow"] < 0.2 < waited["quick"]


def test_h18_a_source_that_blocks_is_named() -> None:
    """``next()`` of a plain iterable holds up the loop like a handler that blocks, and more workers would not help."""

    def rows() -> Iterator[int]:
        for n in range(40):
            until = time.perf_counter() + 0.002
            while time.perf_counter() < until:
                pass
            yield n

    async def waits() -> AsyncIterator[int]:
        for n in range(40):
            await asyncio.sleep(0.002)
            yield n

    async def limit(items: Any) -> str:
        return (await (source(items) >> named("stage", Sink()))).statistics.bottleneck()

    blocks = asyncio.run(limit(rows()))
    assert blocks.startswith("source(generator): holds up the event loop")
    assert "run_in='thread'" in blocks
    assert "holds up" not in asyncio.run(limit(waits()))


# -- what limits is named (H17) -------------------------------------------------------------------


def limit_of(stage: AnyStage, items: int = 50, after: float = 20.0) -> tuple[str, str]:
    """What ``bottleneck()`` says of a run with a backlog, in the midst of it and at its end."""

    async def main() -> tuple[str, str]:
        async with Pipeline(named("first", same), stage, maxsize=100, drain_timeout=1e6) as running:
            for n in range(items):
                await running.put(n)
            await asyncio.sleep(after)
            during = running.bottleneck()
            report = await running.drain()
        return during, report.statistics.bottleneck()

    return testing.run(main())


@pytest.mark.parametrize("concurrency", [1, 4])
def test_h17_a_rate_that_limits_is_named(concurrency: int) -> None:
    """More workers would only wait with the others for their turn."""
    stage = named("call", Sink(seconds=0.01), rate=Rate(1), concurrency=concurrency)
    for told in limit_of(stage):
        assert told.startswith("call")
        assert "rate" in told
        assert "busy" not in told


@pytest.mark.parametrize("how", ["retry", "later"])
def test_h17_a_back_off_that_limits_is_named(how: str) -> None:
    """The workers wait for the next attempt; they do no work."""
    calls: Counter[int] = Counter()

    async def handle(n: int) -> None:
        calls[n] += 1
        if calls[n] < 3:
            raise RetryLater(5) if how == "later" else ConnectionError

    for told in limit_of(named("call", handle, retry=Retry(5, wait=lambda attempt: 5.0), concurrency=2)):
        assert told.startswith("call")
        assert "back-off" in told or "retr" in told
        assert "busy" not in told


def test_h17_a_breaker_that_limits_is_named() -> None:
    """The stage rests, and so do its workers."""
    calls: Counter[int] = Counter()

    async def handle(n: int) -> None:
        calls[n] += 1
        if calls[n] == 1:
            raise ConnectionError

    stage = named("call", handle, breaker=Breaker(1, reset_after=5), retry=Retry(2, wait=no_wait))
    for told in limit_of(stage):
        assert told.startswith("call")
        assert "breaker" in told
        assert "busy" not in told


def test_h17_a_limit_that_does_not_limit_is_not_named() -> None:
    """A stage whose work takes the time is busy, whatever options it has."""
    stage = named("call", Sink(seconds=1.0), rate=Rate(1000), breaker=Breaker(3, 10), retry=3)
    for told in limit_of(stage):
        assert told.startswith("call: busy")
        assert "rate" not in told
        assert "breaker" not in told
