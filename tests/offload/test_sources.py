"""Sources that block: they are read in threads, while there is room; nothing lost, the bound kept."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest
from support import BUSY, PATIENCE, ignore, until

from asyncpc import DefinitionError, Pipeline, PipelineError, QueueShutDown, Report, consumer, merge, producer, source

pytestmark = pytest.mark.realtime


async def test_a_sync_source_is_asked_only_while_there_is_room() -> None:
    """Backpressure reaches a generator in a thread: it is at most one item ahead of the queue."""
    given = 0
    gate = asyncio.Event()

    @producer
    def numbers() -> Iterator[int]:
        nonlocal given
        for n in range(1, 1001):
            given = n
            yield n

    @consumer
    async def wait(n: int) -> None:
        await gate.wait()

    async with Pipeline(numbers, wait, maxsize=5) as running:
        await until(lambda: given == 6)
        await asyncio.sleep(0.02)
        assert given == 6  # five queued, one in hand
        gate.set()
        report = await running.wait()
    assert report.done == 1000
    assert report.stages[0].peak_queued <= 5
    assert [n async for n in numbers()] == list(range(1, 1001))


@pytest.mark.parametrize("moment", [0, 1, 10, 100, 1000])
@pytest.mark.parametrize("maxsize", [1, 5, 128])
async def test_a_stop_loses_nothing_that_a_source_gave(maxsize: int, moment: int) -> None:
    """Stopped at any moment, each item the generator gave is handled, and its ``finally`` has run in its thread."""
    given, handled, closed = 0, 0, list[threading.Thread]()

    @producer
    def numbers() -> Iterator[int]:
        nonlocal given
        try:
            while True:
                given += 1
                yield given
        finally:
            closed.append(threading.current_thread())

    @consumer
    async def count(n: int) -> None:
        nonlocal handled
        handled += 1
        if not n % 50:
            await asyncio.sleep(0)

    async with Pipeline(numbers, count, maxsize=maxsize) as running:
        await until(lambda: handled > moment)
        report = await running.drain()
    assert given == handled == report.produced == report.done
    await until(lambda: bool(closed))  # on a busy machine the stop may leave the thread to itself
    assert [thread.name for thread in closed] == ["asyncpc:numbers"]


async def test_a_stop_does_not_wait_for_a_source_that_blocks(caplog: pytest.LogCaptureFixture) -> None:
    """The intake ends at once; the thread is left until its item comes, which is not taken, and the log says so."""
    items: queue.SimpleQueue[int] = queue.SimpleQueue()
    asked: list[None] = []
    closed = threading.Event()

    @producer
    def blocked() -> Iterator[int]:
        try:
            while True:
                asked.append(None)
                yield items.get()
        finally:
            closed.set()

    items.put(1)
    async with Pipeline(blocked, ignore) as running:
        await until(lambda: running.statistics().done == 1 and len(asked) == 2)  # and so it blocks
        began = time.monotonic()
        report = await running.drain()
        assert time.monotonic() - began < BUSY
    assert (report.produced, report.done) == (1, 1)
    assert not closed.is_set()
    items.put(2)
    await until(closed.is_set)
    await until(lambda: "after it was stopped: QueueShutDown: an item that it produced was not taken" in caplog.text)


async def test_an_error_of_a_sync_source_comes_out() -> None:
    """What it gave is handled first (fault C13)."""

    @producer
    def broken() -> Iterator[int]:
        yield from range(3)
        raise OSError("no more")

    with pytest.raises(PipelineError) as caught:
        await (broken >> ignore)
    assert isinstance(caught.value.exceptions[0], OSError)
    assert caught.value.report.done == 3


async def test_an_order_that_fails_fails_its_source() -> None:
    """What ``priority=`` raises is an error of the source; the item was not taken: the counts agree (invariant 4)."""

    @producer
    def numbers() -> Iterator[int]:
        yield from range(3)

    @consumer(priority=lambda n: 1 / (n - 1))
    async def handle(n: int) -> None: ...

    with pytest.raises(PipelineError) as caught:
        await (numbers >> handle)
    assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]
    assert caught.value.report.produced == caught.value.report.done == 1


async def test_a_source_that_puts_elsewhere_fails_when_that_is_closed() -> None:
    """``QueueShutDown`` out of the source itself is a failure like any other, no quiet end (invariant 7)."""

    @producer
    def relay() -> Iterator[int]:
        yield 1
        raise QueueShutDown("the other one")

    with pytest.raises(PipelineError) as caught:
        await (relay >> ignore)
    assert isinstance(caught.value.exceptions[0], QueueShutDown)
    assert caught.value.report.done == 1


async def test_a_failure_of_a_source_left_behind_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Its run is over, so nobody can raise it; the log names the source."""
    asked, release = threading.Event(), threading.Event()

    @producer
    def blocked() -> Iterator[int]:
        asked.set()
        assert release.wait(PATIENCE)
        raise OSError("too late")
        yield

    async with Pipeline(blocked, ignore) as running:
        await until(asked.is_set)
        await running.drain()
    release.set()
    await until(lambda: "source 'blocked', after it was stopped: OSError: too late" in caplog.text)


async def test_sync_and_async_sources_share_a_queue() -> None:
    """Neither starves the other, and the bound holds for both."""
    count = 600

    @producer
    def blocking(first: int) -> Iterator[int]:
        yield from range(first, count, 3)

    @producer
    async def coming() -> AsyncIterator[int]:
        for n in range(2, count, 3):
            yield n

    seen: list[int] = []

    @consumer(concurrency=3)
    async def note(n: int) -> None:
        await asyncio.sleep(0)
        seen.append(n)

    for maxsize in (1, 8):
        seen.clear()
        report = await Pipeline(merge(blocking(0), coming, blocking(1)), note, maxsize=maxsize)
        assert sorted(seen) == list(range(count))
        assert report.stages[0].peak_queued <= maxsize + 1


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
async def test_overflow_policies_hold_for_threads(overflow: Any) -> None:
    """A queue that drops does so for items from threads as well, and each is counted."""

    @producer
    def numbers() -> Iterator[int]:
        yield from range(500)

    @consumer(maxsize=2, overflow=overflow)
    async def slow(n: int) -> None:
        await asyncio.sleep(0.001)

    async with Pipeline(numbers, slow) as running:
        report = await running.wait()
    assert report.produced == 500 == report.done + report.dropped
    assert report.dropped > 0


async def test_h18_a_blocking_iterable_is_read_in_a_thread() -> None:
    """``source(items, run_in="thread")``: it blocks its own thread, and the loop goes on meanwhile."""
    go_on, threads, ticks = threading.Event(), set[str](), 0

    def rows() -> Iterator[int]:
        threads.add(threading.current_thread().name)
        go_on.wait(20)
        yield from range(3)

    got: list[int] = []

    @consumer
    async def keep(n: int) -> None:
        got.append(n)

    async def tick() -> None:
        nonlocal ticks
        for _ in range(5):
            await asyncio.sleep(0)
            ticks += 1
        go_on.set()

    ticker = asyncio.create_task(tick())
    report = await (source(rows(), "rows", run_in="thread") >> keep)
    await ticker
    assert (got, ticks, report.produced) == ([0, 1, 2], 5, 3)
    assert threads == {"asyncpc:rows"}


def test_h18_what_cannot_be_read_in_a_thread_is_refused() -> None:
    """An async iterable belongs to the loop; and there is no third place."""

    async def numbers() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(DefinitionError, match="is async, so it is read in the loop"):
        source(numbers(), run_in="thread")
    with pytest.raises(DefinitionError, match="must be 'loop' or 'thread'"):
        source([1], run_in="process")  # type: ignore[arg-type]  # the mistake that is refused


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts how often threads called."""

    def __init__(self) -> None:
        self.calls = 0
        super().__init__()

    def call_soon_threadsafe(self, *args: Any, **options: Any) -> asyncio.Handle:  # type: ignore[override]  # as it is
        self.calls += 1
        return super().call_soon_threadsafe(*args, **options)


def test_a_blocking_source_of_a_stage_with_priorities_waits_for_room() -> None:
    """Invariant 1: it was asked while there was room, and gives when there is none any more."""
    asked, gives = threading.Event(), threading.Event()

    @producer
    def numbers() -> Iterator[int]:
        asked.set()
        gives.wait(PATIENCE)
        yield 9

    async def main() -> Report:
        loop = cast(CountingLoop, asyncio.get_running_loop())
        over = asyncio.Event()

        @consumer(priority=lambda n: n, maxsize=2)
        async def handle(n: int) -> None:
            await over.wait()

        async with Pipeline(numbers, handle) as running:
            await until(asked.is_set)
            await running.put(1)
            await until(lambda: running.statistics().stages[0].in_flight == 1)
            running.put_nowait(2)
            running.put_nowait(3)
            with pytest.raises(asyncio.QueueFull):
                running.put_nowait(4)
            calls = loop.calls
            gives.set()
            await until(lambda: loop.calls > calls)  # it has called to give its item
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert running.statistics().stages[0].queued == 2
            over.set()
            return await running.wait()

    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        report = runner.run(main())
    assert (report.done, report.stages[0].peak_queued) == (4, 2)


def test_blocking_sources_of_a_stage_with_priorities_keep_its_bound() -> None:
    """Invariant 1: each of eight saw the room for one; it was eight above the bound of two."""
    together = threading.Barrier(8)

    @producer
    def numbers(first: int) -> Iterator[int]:
        for n in range(20):
            together.wait(PATIENCE)
            yield first + n

    @consumer(priority=lambda n: n, maxsize=2)
    async def handle(n: int) -> None:
        await asyncio.sleep(0)

    parts: Any = merge(*[cast(Any, numbers(100 * one)) for one in range(8)])  # more than its overloads name

    async def main() -> Report:
        return cast(Report, await (parts >> handle))

    report = asyncio.run(main())
    assert report.done == 160
    assert report.stages[0].peak_queued <= 2
