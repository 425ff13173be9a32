"""``overflow=`` and ``on_drop=``: what becomes of an item that finds the queue full. All in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, cast

import pytest
from spy import Sink
from support import balanced, both

from asyncpc import (
    Batch,
    Pipeline,
    PipelineError,
    QueueShutDown,
    Report,
    broadcast,
    consumer,
    merge,
    producer,
    source,
    testing,
)
from asyncpc.testing import idle, now


@both
@pytest.mark.parametrize(("overflow", "kept"), [("drop_oldest", [0, 8, 9]), ("drop_newest", [0, 1, 2])])
@pytest.mark.parametrize("way", ["source", "put", "put_nowait", "stage"])
def test_a_full_queue_drops_and_tells(way: str, overflow: Any, kept: list[int], eager: bool) -> None:
    """A sensor that is faster than its reader: never waits, never grows, and every dropped item is counted and told."""
    sink, dropped = Sink(), list[int]()

    @consumer(maxsize=2, overflow=overflow, on_drop=dropped.append)
    async def slow(n: int) -> None:
        await sink(n)
        await asyncio.sleep(1)

    @consumer
    async def same(n: int) -> int:
        if n == 1:
            await asyncio.sleep(0.1)
        return n

    async def readings() -> AsyncIterator[int]:
        for n in range(10):
            yield n
            if n == 0:
                await asyncio.sleep(0.1)

    async def main() -> Report:
        if way in ("source", "stage"):
            return await (source(readings()) >> slow if way == "source" else source(readings()) >> same >> slow)
        async with Pipeline(slow) as running:
            for n in range(10):
                if way == "put":
                    await running.put(n)
                else:
                    running.put_nowait(n)
                if n == 0:
                    await asyncio.sleep(0.1)
        assert running.report is not None
        return running.report

    report = testing.run(main(), eager=eager)
    assert sink.items == kept
    assert sorted(dropped + kept) == list(range(10))
    assert (report.dropped, report.done, report.produced) == (7, 3, 10)


def test_overflow_raise_is_queue_full_at_once() -> None:
    """A caller of put that would rather answer 503 than wait."""

    async def main() -> None:
        @consumer(maxsize=1, overflow="raise")
        async def slow(n: int) -> None:
            await asyncio.sleep(1)

        async with Pipeline(slow) as running:
            await running.put(1)
            await idle()
            await running.put(2)
            with pytest.raises(asyncio.QueueFull, match="stage 'slow': its queue is full"):
                await running.put(3)
        assert running.report is not None
        assert (running.report.produced, running.report.done) == (2, 2)

    testing.run(main())


def test_an_on_drop_that_raises_fails_the_run_and_not_the_caller() -> None:
    """Whoever put the item has nothing to do with it; and an error is never silent."""

    def broken(n: int) -> None:
        raise OSError("no log")

    async def main() -> None:
        @consumer(maxsize=1, overflow="drop_newest", on_drop=broken)
        async def slow(n: int) -> None:
            await asyncio.sleep(1)

        async with Pipeline(slow) as running:
            await running.put(1)
            await idle()
            await running.put(2)
            await running.put(3)

    with pytest.raises(PipelineError) as failed:
        testing.run(main())
    assert [type(error) for error in failed.value.exceptions] == [OSError]


@both
@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest"])
def test_an_on_drop_that_raises_fails_the_run_at_once(overflow: Any, eager: bool) -> None:
    """Invariant 7: not only at its end; what is under way is cancelled, and no more is taken."""

    def dropped(item: int) -> None:
        raise ValueError(item)

    @consumer(maxsize=1, overflow=overflow, on_drop=dropped)
    async def slow(n: int) -> None:
        await asyncio.sleep(1000)

    async def main() -> None:
        async with Pipeline(slow) as running:
            await running.put(0)
            await asyncio.sleep(1)
            running.put_nowait(1)
            running.put_nowait(2)  # drops one, and has nothing to do with what becomes of that
            assert running.statistics().state == "failed"
            with pytest.raises(QueueShutDown):
                running.put_nowait(3)
            try:
                await running.wait()
            finally:
                assert now() < 1.1

    with pytest.raises(PipelineError) as failed:
        testing.run(main(), eager=eager)
    assert [type(error) for error in failed.value.exceptions] == [ValueError]
    assert balanced(failed.value.report)


@both
def test_an_interrupt_of_on_drop_keeps_the_books(eager: bool) -> None:
    """Fault B13: whoever put the item may catch it; the item was dropped all the same."""

    def interrupt(item: int) -> None:
        raise SystemExit

    @consumer(maxsize=1, overflow="drop_newest", on_drop=interrupt)
    async def handle(item: int) -> None:
        await asyncio.sleep(1)

    async def main() -> Report:
        async with Pipeline(handle) as running:
            await running.put(0)
            await asyncio.sleep(0.1)
            await running.put(1)
            with pytest.raises(SystemExit):
                running.put_nowait(2)
        return cast(Report, running.report)

    report = testing.run(main(), eager=eager)
    assert (report.produced, report.done, report.dropped) == (3, 2, 1)


@consumer
async def same(n: int) -> int:
    return n


@consumer
async def twice(n: int) -> AsyncIterator[int]:
    yield n
    yield n


@consumer(batch=Batch(3, within=1))
async def batched(rows: list[int]) -> list[int]:
    return rows


@producer
def in_thread() -> Iterator[int]:
    yield from range(9)


async def fails(n: int) -> None:
    raise ValueError(n)


WAYS: dict[str, Any] = {
    "source": lambda slow: source(range(9)) >> slow,
    "merged": lambda slow: merge(source(range(9)), source(range(9)) >> same) >> slow,
    "stage": lambda slow: source(range(9)) >> same >> slow,
    "generator": lambda slow: source(range(9)) >> twice >> slow,
    "batch": lambda slow: source(range(9)) >> batched >> slow,
    "in order": lambda slow: source(range(9)) >> consumer(ordered=True, concurrency=2)(same.__wrapped__) >> slow,
    "branch": lambda slow: source(range(9)) >> broadcast(slow, same),
    "dead letter": lambda slow: source(range(9)) >> consumer(on_error=slow)(fails),
}


@both
@pytest.mark.parametrize("interrupt", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest"])
@pytest.mark.parametrize("way", list(WAYS))
def test_an_interrupt_of_on_drop_ends_the_run_and_keeps_the_books(
    way: str, overflow: Any, interrupt: type[BaseException], eager: bool
) -> None:
    """Fault B13: it comes out of the run; the value was dropped first, so it counts as come in and as dropped."""

    def dropped(item: object) -> None:
        raise interrupt

    @consumer(maxsize=1, overflow=overflow, on_drop=dropped)
    async def slow(item: object) -> None:
        await asyncio.sleep(1)

    report = interrupted(WAYS[way](slow), interrupt, lambda main: testing.run(main(), eager=eager))
    assert balanced(report)
    assert report.dropped >= 1


@pytest.mark.realtime
def test_an_interrupt_of_on_drop_keeps_the_books_of_a_source_in_a_thread() -> None:
    """The item of the thread was dropped in the event loop."""

    def dropped(item: object) -> None:
        raise SystemExit

    @consumer(maxsize=1, overflow="drop_newest", on_drop=dropped)
    async def slow(item: object) -> None:
        await asyncio.sleep(100)

    report = interrupted(in_thread() >> slow, SystemExit, lambda main: asyncio.run(main()))
    assert balanced(report)
    assert report.dropped >= 1


def interrupted(
    pipeline: Pipeline[Any, Any], interrupt: type[BaseException], run: Callable[[Callable[[], Any]], None]
) -> Report:
    """The report of a run that an interrupt comes out of."""
    reports = list[Report]()

    async def main() -> None:
        async with pipeline as running:
            try:
                await running.wait()
            finally:
                reports.append(cast(Report, running.report))

    with pytest.raises(interrupt):
        run(main)
    return reports[0]
