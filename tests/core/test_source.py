"""The loop of a producer's worker: it is asked while there is room, stops at once, and may start again."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from spy import Sink, spying
from support import Odd, both, error_types, ignore, named, refuse_odd

from asyncpc import BoundedQueue, Pipeline, PipelineError, Restart, consumer, merge, producer, source, testing
from asyncpc.testing import now


@consumer(key=refuse_odd)
async def refusing(item: int) -> None:
    pass


# -- backpressure ---------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("maxsize", [1, 2, 5])
def test_backpressure_reaches_the_source(maxsize: int, eager: bool) -> None:
    """Invariant 1: the source is never asked for an item while the queue is full, also when every stage is slow."""
    queues: list[BoundedQueue[Any]] = []
    asked_when: list[int] = []

    class Watched:
        def __aiter__(self) -> Watched:
            self.n = -1
            return self

        async def __anext__(self) -> int:
            asked_when.append(queues[0].qsize() if queues else 0)
            self.n += 1
            if self.n == 40:
                raise StopAsyncIteration
            return self.n

    async def main() -> None:
        pipeline = Pipeline(source(Watched()), spying(0.1) >> spying(0.3), maxsize=maxsize)
        async with pipeline as running:
            assert pipeline._run is not None
            queues.append(pipeline._run.first)
            report = await running.wait()
        assert max(asked_when) < maxsize
        assert [stage.peak_queued for stage in report.stages] == [maxsize, maxsize]

    testing.run(main(), eager=eager)


@both
@pytest.mark.parametrize("why", ["key", "overflow"])
def test_h3_an_item_of_a_source_that_is_refused_was_not_taken(why: str, eager: bool) -> None:
    """The source ends with the error; what it gave before is handled, and the refused item is nowhere."""
    slow, given = Sink(seconds=1.0), list[int]()
    error: type[Exception]

    @producer
    async def numbers() -> AsyncIterator[int]:
        for n in range(6):
            given.append(n)
            yield n

    if why == "overflow":
        stage, error = named("stage", slow, maxsize=2, overflow="raise"), asyncio.QueueFull
    else:
        stage, error = named("stage", slow, key=lambda n: {0: 0, 1: 1, 2: 2}[n]), KeyError
    with pytest.raises(PipelineError) as failed:
        testing.run(numbers >> stage, eager=eager)
    report = failed.value.report
    assert error_types(failed.value) == [error]
    assert slow.items == given[:-1]
    assert report.produced == report.stages[0].received == report.done == len(slow.items)
    assert report.unfinished == ()


# -- stop and failure -----------------------------------------------------------------------------


def test_b10_sources_are_closed_in_their_own_task_before_the_run_returns() -> None:
    """Fault B10: a ``finally`` with an ``await`` in it, in a source, runs in the task that iterated it."""
    tasks: list[tuple[asyncio.Task[Any] | None, ...]] = []

    @producer
    async def numbers() -> AsyncIterator[int]:
        mine = asyncio.current_task()
        try:
            for n in itertools.count():
                yield n
        finally:
            await asyncio.sleep(1)
            tasks.append((mine, asyncio.current_task()))

    @consumer
    async def fail(n: int) -> None:
        await asyncio.sleep(1)
        raise ValueError

    async def main() -> None:
        with pytest.raises(PipelineError):
            await Pipeline(numbers, fail, maxsize=1)
        ((opened, closed),) = tasks
        assert opened is closed
        assert now() == 2.0

    testing.run(main())


@producer
async def idle_source() -> AsyncIterator[int]:
    await asyncio.Event().wait()
    yield 0


@both
def test_c13_what_a_failing_source_gave_is_handled_first(eager: bool) -> None:
    """Fault C13: a source that raises half way loses nothing that it gave, and stops its sisters."""
    spy = spying(1)

    @producer
    async def half() -> AsyncIterator[int]:
        for n in range(5):
            yield n
        raise ValueError("half way")

    async def main() -> None:
        with pytest.raises(PipelineError, match="failed") as caught:
            await Pipeline(merge(half, idle_source), spy)
        assert spy.done == [0, 1, 2, 3, 4]
        assert [str(error) for error in caught.value.exceptions] == ["half way"]
        assert caught.value.report.complete

    testing.run(main(), eager=eager)


def test_a_source_that_swallows_its_cancel_gives_one_more_item_at_most() -> None:
    """The intake ends at once, even so (promise 5)."""
    given: list[int] = []

    @producer
    async def stubborn() -> AsyncIterator[int]:
        for n in range(1000):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(1)
            given.append(n)
            yield n

    @consumer
    async def handle(n: int) -> None: ...

    async def main() -> None:
        async with stubborn >> handle as running:
            await asyncio.sleep(3.5)
            report = await running.drain()
        assert report.done == len(given) == 4
        assert now() == 3.5

    testing.run(main())


# -- restarts -------------------------------------------------------------------------------------


@both
def test_c5_restarts_are_bounded(eager: bool) -> None:
    """Fault C5: a source that always raises is started ``times`` more often, after its backoff; then the run fails."""
    started: list[float] = []

    @producer(restart=Restart(times=3, within=600, backoff=lambda attempt: 10.0 * attempt))
    async def flaky() -> AsyncIterator[int]:
        started.append(now())
        yield len(started)
        raise ValueError(len(started))

    async def main() -> None:
        with pytest.raises(PipelineError) as caught:
            await (flaky >> ignore)
        assert started == [0.0, 10.0, 30.0, 60.0]
        assert [str(error) for error in caught.value.exceptions] == ["4"]
        assert caught.value.report.done == 4
        assert caught.value.report.sources[0].restarts == 3

    testing.run(main(), eager=eager)


def test_c5_old_restarts_are_forgiven() -> None:
    """Fault C5: only restarts of the last ``within`` seconds count; a source may fail for ever if it does so slowly."""

    @producer(restart=Restart(times=1, within=10, backoff=lambda attempt: 0.0))
    async def slow() -> AsyncIterator[int]:
        await asyncio.sleep(11)
        yield 1
        raise ValueError

    async def main() -> None:
        async with slow >> ignore as running:
            await asyncio.sleep(11 * 20 + 1)
            report = await running.drain()
        assert report.done == 20

    testing.run(main())


def test_c5_a_stop_during_the_backoff_is_heard() -> None:
    """Fault C5: waiting for a restart does not hold up the drain."""

    @producer(restart=Restart(backoff=lambda attempt: 1000.0))
    async def flaky() -> AsyncIterator[int]:
        yield 1
        raise ValueError

    async def main() -> None:
        async with flaky >> ignore as running:
            await asyncio.sleep(5)
            report = await running.drain()
        assert (now(), report.done) == (5.0, 1)

    testing.run(main())


# -- an error while a source is closed ------------------------------------------------------------


@both
@pytest.mark.parametrize("stop", ["stop", "drain", "leave"])
def test_an_item_that_was_refused_is_told_though_a_stop_comes(stop: str, eager: bool) -> None:
    """Protects invariant 7: the source takes its time to close, and is cancelled by the stop meanwhile."""

    @producer
    async def numbers() -> AsyncIterator[int]:
        try:
            for item in range(10):
                yield item
        finally:
            await asyncio.sleep(1)

    async def main() -> None:
        async with Pipeline(numbers, refusing) as running:
            await asyncio.sleep(0.5)
            if stop == "stop":
                running.stop()
                await running.wait()
            elif stop == "drain":
                await running.drain()

    async def fails() -> None:
        with pytest.raises(PipelineError) as failed:
            await main()
        assert [type(error) for error in failed.value.exceptions] == [Odd]
        assert failed.value.report.done == 1

    testing.run(fails(), eager=eager)


@both
def test_two_errors_at_the_end_of_a_source_both_come_out(eager: bool) -> None:
    """Protects the reason: the item was refused, and closing the source because of that fails too."""

    @producer
    async def numbers() -> AsyncIterator[int]:
        try:
            for item in range(10):
                yield item
        finally:
            raise OSError("while it was closed")

    async def main() -> None:
        with pytest.raises(PipelineError) as failed:
            await Pipeline(numbers, refusing)
        assert {type(error) for error in failed.value.exceptions} == {Odd, OSError}

    testing.run(main(), eager=eager)


@both
def test_a_source_that_may_start_again_is_forgiven_what_was_refused(eager: bool) -> None:
    """Protects ``restart=``: it holds for a refused item as well, whatever closing the source raises."""
    given: list[int] = []

    @producer(restart=Restart(3, within=100, backoff=lambda attempt: 0))
    async def numbers() -> AsyncIterator[int]:
        item = 0
        try:
            for item in range(2 * len(given), 8):
                given.append(item)
                yield item
        finally:
            await asyncio.sleep(0)
            if item % 2:
                raise OSError("while it was closed")

    async def main() -> Any:
        return await Pipeline(numbers, refusing)

    report = testing.run(main(), eager=eager)
    assert (given, report.sources[0].restarts) == ([0, 1, 4, 5], 2)


@both
def test_an_item_refused_when_it_is_left_ends_the_source(eager: bool) -> None:
    """Protects a worker that somebody cancels while its item waits for room: a restart must not swallow that."""

    @producer(restart=Restart(3, within=100, backoff=lambda attempt: 0))
    async def numbers() -> AsyncIterator[int]:
        for item in (0, 1, 2):
            yield item
            await asyncio.sleep(0.2)

    @consumer(key=refuse_odd, maxsize=1)
    async def stuck(item: int) -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        async with Pipeline(numbers, stuck) as running:
            await asyncio.sleep(0.1)
            await running.put(4)  # it takes the room for which the source was asked
            await asyncio.sleep(0.4)
            {task.get_name(): task for task in asyncio.all_tasks()}["asyncpc:numbers"].cancel()
            await running.wait()

    async def fails() -> None:
        with pytest.raises(PipelineError) as failed:
            await main()
        assert [type(error) for error in failed.value.exceptions] == [Odd]
        assert failed.value.report.done == 2

    testing.run(fails(), eager=eager)
