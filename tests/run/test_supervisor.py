"""The supervisor, fault by fault: each test says which one of the design's list it protects against.

All in virtual time: times are exact, and a run that hangs is a :class:`virtual.Deadlock` that names who waits where.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import sys
import tracemalloc
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import pytest
from spy import spying
from support import balanced, both, endless, ignore, left, workers

from asyncpc import (
    Batch,
    Pipeline,
    PipelineError,
    Report,
    Running,
    StateError,
    WorkerCancelled,
    consumer,
    feed,
    merge,
    producer,
    source,
    testing,
)
from asyncpc.testing import idle, now

SLACK = 0.1
"""Seconds that a run may take beyond its deadline."""


# -- who cancelled whom ---------------------------------------------------------------------------


@both
@pytest.mark.parametrize("who", ["handle-1", "endless"])
def test_b1_a_worker_cancelled_from_outside_fails_the_run_by_name(who: str, eager: bool) -> None:
    """Fault B1: a cancelled worker must not be passed over in silence; its item is listed."""

    @consumer(concurrency=2)
    async def handle(n: int) -> None:
        await asyncio.sleep(1)

    async def run() -> None:
        async with Pipeline(endless, handle) as running:
            await asyncio.sleep(0.5)
            workers()[who].cancel()
            await running.wait()

    async def main() -> None:
        with pytest.raises(PipelineError) as caught:
            await run()
        (error,) = caught.value.exceptions
        assert isinstance(error, WorkerCancelled)
        assert who in str(error)
        if who == "handle-1":
            assert (0, "handle") in left(caught.value.report)
        assert not workers()

    testing.run(main(), eager=eager)


def _fails(where: str) -> Pipeline[Any, Any]:
    """A pipeline that fails in the very first step of one of its tasks."""

    @producer
    async def bad() -> AsyncIterator[int]:
        if where == "source":
            raise ValueError(where)
        yield 1

    @asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        if where == "resource":
            raise ValueError(where)
        yield
        if where == "exit":
            raise ValueError(where)

    @consumer(context=resource, concurrency=3)
    async def handle(n: int, given: None) -> None:
        if where == "handler":
            raise ValueError(where)

    return bad >> handle


@both
@pytest.mark.parametrize("where", ["source", "resource", "handler", "exit"])
def test_b3_b9_a_failure_in_the_first_step_comes_out(where: str, eager: bool) -> None:
    """Fault B3: with eager tasks a worker can fail inside create_task. Fault B9: Python never has to print about it."""

    async def main() -> None:
        with pytest.raises(PipelineError) as caught:
            await _fails(where)
        assert {(type(error), str(error)) for error in caught.value.exceptions} == {(ValueError, where)}
        assert not workers()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        testing.run(main(), eager=eager)
        gc.collect()


@both
def test_b4_a_handler_that_swallows_cancellations_is_abandoned_by_name(eager: bool) -> None:
    """Fault B4: two cancels, then it is left behind and named; the run ends in time, its item is listed."""
    release = asyncio.Event()

    @consumer(concurrency=2)
    async def stubborn(n: int) -> None:
        while n == 0 and not release.is_set():
            with suppress(asyncio.CancelledError):
                await release.wait()

    async def main() -> None:
        async with Pipeline(stubborn) as running:
            for n in range(4):
                await running.put(n)
            report = await running.drain(timeout=1)
            assert now() <= 1 + SLACK
        assert report.abandoned == ("stubborn-1",)
        assert left(report) == [(0, "stubborn")]
        release.set()
        await idle()
        assert not workers()
        assert running.report is report

    testing.run(main(), eager=eager)


# -- the caller is cancelled ----------------------------------------------------------------------


class Opened:
    """Counts what is open: sources, generators, resources."""

    def __init__(self) -> None:
        self.now = 0
        self.ever = 0

    def __enter__(self) -> None:
        self.now += 1
        self.ever += 1

    def __exit__(self, *_: object) -> None:
        self.now -= 1


async def steps(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def _whole(opened: Opened) -> Pipeline[Any, Any]:
    """A pipeline with one of everything, which never waits for a timer: the steps of the loop are its clock."""

    @producer
    async def numbers() -> AsyncIterator[int]:
        with opened:
            for n in range(4):
                await steps(2)
                yield n

    def iterator() -> Iterator[int]:
        with opened:
            yield from range(3)

    @asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        with opened:
            await asyncio.sleep(0)
            yield
            await asyncio.sleep(0)

    @consumer(concurrency=2)
    async def twice(n: int) -> AsyncIterator[int]:
        with opened:
            yield n
            await asyncio.sleep(0)
            yield n

    @consumer(context=resource, concurrency=2)
    async def slow(n: int, given: None) -> int:
        await steps(4)
        return n

    return Pipeline(merge(numbers, iterator()), twice >> slow, maxsize=1)


@both
@pytest.mark.parametrize("again", [None, 0, 1, pytest.param(3, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("how", ["await", "async with", "stream"])
def test_b5_b6_b7_a_cancel_at_any_step_ends_the_run(how: str, again: int | None, eager: bool) -> None:
    """Faults B5, B6: cancel the caller after 1, 2, 3 … steps of the loop, until the run is over before.

    No task is left, all is closed, CancelledError comes out. Fault B7: also if cancelled again, ``again`` steps later.
    """

    async def run(opened: Opened) -> None:
        pipeline = _whole(opened)
        if how == "await":
            await pipeline
        elif how == "async with":
            async with pipeline as running:
                await running.wait()
        else:
            async with pipeline.stream() as values:
                async for _ in values:
                    pass

    async def cancelled_after(count: int) -> bool:
        opened = Opened()
        caller = asyncio.get_running_loop().create_task(run(opened))
        await steps(count)
        if caller.done():
            assert opened.ever > 10
            return False
        caller.cancel()
        if again is not None:
            await steps(again)
            caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert not workers()
        assert opened.now == 0
        return True

    async def main() -> None:
        counts = itertools.count(1)
        while await cancelled_after(next(counts)):
            pass
        assert next(counts) > 20

    testing.run(main(), eager=eager)


@both
def test_b7_a_second_cancel_cuts_the_clean_up_short(eager: bool) -> None:
    """Fault B7: the first cancel grants drain_timeout, the second ends it within 100 ms; the item is still listed."""
    cleaned: list[str] = []

    @consumer
    async def handle(n: int) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(10)
            cleaned.append("too late")

    async def main() -> None:
        pipeline = Pipeline(endless, handle, drain_timeout=60)
        caller = asyncio.get_running_loop().create_task(pipeline._complete())
        await asyncio.sleep(1)
        caller.cancel()
        await asyncio.sleep(1)
        assert not caller.done()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert now() <= 2 + SLACK
        assert not workers()
        assert not cleaned

    testing.run(main(), eager=eager)


@both
@pytest.mark.parametrize("timeout", [0.0, 60.0])
def test_b7_an_error_in_one_clean_up_does_not_cut_the_others_short(timeout: float, eager: bool) -> None:
    """Fault B7: the failure of a worker that is being cancelled is told, but is no second round of cancellation."""
    cleaned: list[int] = []

    @consumer(concurrency=3)
    async def handle(n: int) -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            if n == 0:
                raise ValueError from None
            await asyncio.sleep(0.01)
            cleaned.append(n)
            raise

    async def run() -> None:
        async with Pipeline(range(3), handle) as running:
            await asyncio.sleep(1)
            await running.drain(timeout)

    async def main() -> None:
        with pytest.raises(PipelineError) as caught:
            await run()
        assert cleaned == [1, 2]
        assert now() == pytest.approx(1 + timeout + 0.01)
        assert [type(error) for error in caught.value.exceptions] == [ValueError]
        assert caught.value.report.abandoned == ()
        assert left(caught.value.report) == [(1, "handle"), (2, "handle")]

    testing.run(main(), eager=eager)


@both
def test_b7_a_failure_and_a_cancel_in_the_same_tick_abandon_nobody(eager: bool) -> None:
    """Fault B7: even without any time to drain, each worker hears of the cancellation before it is given up."""

    @consumer(concurrency=2)
    async def handle(n: int) -> None:
        await asyncio.sleep(1)
        if n == 0:
            raise ValueError
        await asyncio.sleep(1000)

    async def main() -> None:
        pipeline = Pipeline(range(2), handle, drain_timeout=0)
        caller = asyncio.get_running_loop().create_task(pipeline._complete())
        await asyncio.sleep(0)
        assert pipeline._run is not None
        run = pipeline._run
        await asyncio.sleep(1)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert run.outcome.report is not None
        assert run.outcome.report.abandoned == ()
        assert not workers()

    testing.run(main(), eager=eager)


@both
@pytest.mark.parametrize("cancels", [3, 4, 6])
def test_b7_an_impatient_caller_abandons_nobody_who_obeys(cancels: int, eager: bool) -> None:
    """Fault B7, invariant 6: each worker has time to obey the second cancel, however often the caller is cancelled."""

    @consumer(concurrency=2)
    async def handle(n: int) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            try:
                await asyncio.sleep(1000)
            finally:
                await steps(3)

    async def main() -> None:
        pipeline = Pipeline(range(2), handle)
        caller = asyncio.get_running_loop().create_task(pipeline._complete())
        await asyncio.sleep(1)
        run = pipeline._run
        assert run is not None
        for _ in range(cancels):
            caller.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert run.outcome.report is not None
        assert run.outcome.report.abandoned == ()
        assert not workers()

    testing.run(main(), eager=eager)


async def _in_scope(pipeline: Pipeline[Any, Any], give_up: list[Callable[[], None]]) -> None:
    with anyio.CancelScope() as scope:
        give_up.append(scope.cancel)
        await pipeline


async def _in_time(pipeline: Pipeline[Any, Any], give_up: list[Callable[[], None]]) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(None) as timeout:
            give_up.append(lambda: timeout.reschedule(0))
            await pipeline


@pytest.mark.realtime
@pytest.mark.parametrize("limited", [_in_scope, _in_time])
async def test_a_cancelled_run_has_time_to_clean_up(limited: Callable[..., Coroutine[Any, Any, None]]) -> None:
    """Also in an anyio scope, which delivers its cancel again and again: that is one cancel, not many (fault B7)."""
    begun, cleaned, give_up = list[int](), list[int](), list[Callable[[], None]]()

    @consumer(concurrency=2)
    async def handle(n: int) -> None:
        begun.append(n)
        if len(begun) == 2:
            give_up[0]()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.12)  # longer than two rounds of cancellation leave
            cleaned.append(n)

    await limited(Pipeline([1, 2], handle), give_up)
    assert sorted(cleaned) == [1, 2]


@pytest.mark.realtime
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_cancelled_block_has_time_to_clean_up_in_a_scope(streamed: bool) -> None:
    """The scope's cancel reaches the block first, then is delivered again and again: still one cancel (fault B7)."""
    cleaned: list[int] = []

    @consumer
    async def handle(n: int) -> None:
        scope.cancel()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.12)
            cleaned.append(n)

    pipeline = source([1]) >> handle
    with anyio.CancelScope() as scope:
        async with pipeline.stream() if streamed else pipeline:
            await asyncio.Event().wait()
    assert cleaned == [1]


@both
@pytest.mark.parametrize("how", ["fails", "is cancelled"])
def test_the_clean_up_of_a_closing_source_is_not_cut_short(how: str, eager: bool) -> None:
    """Fault B7: it was told to close; when the run fails or is cancelled meanwhile, it is not told again."""
    closed: list[float] = []

    @producer
    async def careful() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(2)
            closed.append(now())

    @consumer
    async def handle(n: int) -> None:
        await asyncio.sleep(2)
        if how == "fails":
            raise ValueError
        await asyncio.Event().wait()

    async def main() -> None:
        async with Pipeline(careful, handle, drain_timeout=10) as running:
            await asyncio.sleep(1)
            running.stop()  # the source closes, until 3.0; the handler goes on
            await asyncio.sleep(1.5)
            if how == "is cancelled":
                raise asyncio.CancelledError

    with pytest.raises((PipelineError, asyncio.CancelledError)):
        testing.run(main(), eager=eager)
    assert closed == pytest.approx([3.0])


# -- KeyboardInterrupt, failures ------------------------------------------------------------------


@both
@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["handler", "source"])
def test_b13_an_interrupt_stops_the_run_and_comes_out(interrupt: type[BaseException], where: str, eager: bool) -> None:
    """Fault B13: as itself, not in a group, and with nothing left running."""

    @producer
    async def numbers() -> AsyncIterator[int]:
        for n in range(10):
            yield n
        if where == "source":
            raise interrupt
        await asyncio.Event().wait()

    @consumer(concurrency=2)
    async def handle(n: int) -> None:
        await asyncio.sleep(1)
        if where == "handler" and n == 3:
            raise interrupt

    async def main() -> None:
        caught: BaseException | None = None
        try:
            await (numbers >> handle)
        except (KeyboardInterrupt, SystemExit) as error:
            caught = error
        assert type(caught) is interrupt
        assert not workers()

    testing.run(main(), eager=eager)


@both
@pytest.mark.parametrize("named", ["key", "priority", "key in batches"])
@pytest.mark.parametrize("maxsize", [2, 0])
def test_an_interrupted_function_of_an_item_leaves_the_counts_right(named: str, maxsize: int, eager: bool) -> None:
    """Protects the counts when Ctrl-C meets ``key=``: the value is nowhere, and its item has failed."""

    def by(n: int) -> int:
        if n == 3:
            raise KeyboardInterrupt
        return n

    @consumer
    async def first(n: int) -> int:
        return n

    async def handle(n: Any) -> None:
        await asyncio.sleep(0)

    options: dict[str, Any] = {"priority": by} if named == "priority" else {"key": by}
    if named == "key in batches":
        options["batch"] = Batch(2)
    second: Any = consumer(maxsize=maxsize, **options)(handle)

    async def main() -> None:
        with pytest.raises(KeyboardInterrupt):
            async with Pipeline(range(6), first >> second) as running:
                await running.wait()
        report = running.report
        assert report is not None
        assert balanced(report)
        assert (report.stages[0].done, report.stages[0].failed) == (3, 1)
        assert report.stages[0].emitted == report.stages[1].received == 3

    testing.run(main(), eager=eager)


@both
def test_c4_dead_consumers_and_a_full_queue_end_the_run(eager: bool) -> None:
    """Fault C4: all consumers are dead, the source waits for room: the run ends and lists what it had."""

    @consumer(concurrency=2, maxsize=1)
    async def handle(n: int) -> None:
        await asyncio.sleep(1)
        raise ValueError(n)

    async def main() -> None:
        with pytest.raises(PipelineError) as caught:
            await Pipeline(itertools.count(), handle)
        assert now() == 1.0
        report = caught.value.report
        assert len(caught.value.exceptions) == report.failed == 2
        assert left(report) == [(2, "handle")]

    testing.run(main(), eager=eager)


@both
def test_clean_up_may_feed_while_the_run_is_cancelled(eager: bool) -> None:
    """Invariant 2: END must not come while a handler is at work, cancelled or not; what it feeds is listed."""

    @consumer(concurrency=2)
    async def handle(n: int) -> int:
        try:
            await asyncio.Event().wait()
        finally:
            if n == 1:
                feed(2)
        return n

    async def main() -> Report:
        async with Pipeline([1], handle).stream() as values:
            await asyncio.sleep(1)
        assert values.report is not None
        return values.report

    assert sorted(left(testing.run(main(), eager=eager))) == [(1, "handle"), (2, "handle")]


# -- stop and drain -------------------------------------------------------------------------------


@both
def test_c1_a_drain_handles_what_is_buffered(eager: bool) -> None:
    """Fault C1: by default nothing that was accepted is given up."""
    first, second = spying(0.1), spying(1)

    async def main() -> None:
        async with Pipeline(source(range(30)), first >> second, maxsize=5) as running:
            await asyncio.sleep(3)
            report = await running.drain(timeout=100)
        assert report.complete
        assert report.produced == len(first.done) == len(second.done) < 30
        assert second.done == list(range(report.produced))

    testing.run(main(), eager=eager)


@both
@pytest.mark.parametrize("timeout", [0, 0.5, 2])
def test_c2_a_stuck_handler_is_cancelled_at_the_deadline(timeout: float, eager: bool) -> None:
    """Fault C2: one deadline over all phases, to the tick if the handlers obey; what is left is listed by stage."""

    @consumer
    async def stuck(n: int) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with Pipeline(source(range(9)), spying() >> stuck, maxsize=2) as running:
            await asyncio.sleep(1)
            report = await running.drain(timeout)
            assert now() == 1 + timeout
        assert [item for item, stage in left(report) if stage == "stuck"] == [0, 1, 2, 3]
        assert report.abandoned == ()

    testing.run(main(), eager=eager)


@both
def test_c14_stop_twice_and_after_the_end(eager: bool) -> None:
    """Fault C14: any number of stops and drains, at any time, and all get the same report."""

    async def main() -> None:
        async with endless >> ignore as running:
            running.stop()
            running.stop()
            first, second = await asyncio.gather(running.drain(), running.drain(timeout=5))
            running.stop(0)
            assert first is second is await running.drain() is await running.wait()
        running.stop()
        assert running.report is first

    testing.run(main(), eager=eager)


def test_c14_a_later_stop_only_ever_brings_the_deadline_forward() -> None:
    """Fault C14: stop(1) then stop(100) ends after 1; stop(100) then stop(1) too."""

    async def main(first: float, second: float) -> None:
        with suppress(PipelineError):
            async with Pipeline(spying(1000)) as running:
                await running.put(1)
                running.stop(first)
                running.stop(second)
        assert now() == 1.0

    testing.run(main(1, 100))
    testing.run(main(100, 1))


@both
def test_c14_stop_and_drain_inside_a_handler(eager: bool) -> None:
    """Fault C14: a handler cannot wait for its own end: drain() there starts it and returns the books so far."""
    handle: list[Running[int, Any]] = []
    books: list[Report] = []

    @consumer(concurrency=2)
    async def stopping(n: int) -> None:
        if n == 3:
            handle[0].stop()
            books.append(await handle[0].drain())

    async def main() -> None:
        async with endless >> stopping as running:
            handle.append(running)
            report = await running.wait()
        assert report.complete
        assert 4 <= report.done <= 6
        assert left(books[0]) == [(3, "stopping")]

    testing.run(main(), eager=eager)


def test_c14_a_pipeline_runs_once_at_a_time_and_again_afterwards() -> None:
    """Fault C14, invariant 9: starting twice is refused by name; a definition holds nothing of an earlier run."""

    async def main() -> None:
        pipeline = Pipeline(range(3), ignore)
        async with pipeline as running:
            with pytest.raises(StateError, match="running already"):
                await pipeline
            await running.wait()
        assert (await pipeline).done == 3
        assert (await pipeline).done == 3

    testing.run(main())
    testing.run(main())


def test_c14_stopped_before_it_could_start() -> None:
    """Fault C14: leaving the block at once starts nothing that is not ended again."""

    async def main() -> None:
        async with endless >> ignore as running:
            pass
        assert running.report is not None
        assert running.report.complete
        assert now() == 0.0

    testing.run(main())


# -- start ----------------------------------------------------------------------------------------


def test_a_run_that_nobody_names_is_not_collected() -> None:
    """Tasks are held weakly by asyncio; the run holds itself until it has ended (fault B9)."""
    handled: list[int] = []

    @consumer
    async def handle(n: int) -> None:
        await asyncio.sleep(1)
        handled.append(n)

    async def start() -> None:
        running = await Pipeline(handle).__aenter__()
        await running.put(1)
        running.stop()

    async def main() -> None:
        await start()
        await asyncio.sleep(0)
        gc.collect()
        await asyncio.sleep(5)

    testing.run(main())
    assert handled == [1]


@pytest.mark.parametrize("way", ["awaited", "collected", "streamed", "failed", "merged", "entered twice"])
def test_a_run_that_has_ended_leaves_nothing_to_collect(way: str) -> None:
    """Protects programs with many short runs: each is freed at its end, with no work for the collector."""

    @consumer(concurrency=2, on_error="skip" if way == "failed" else "stop")
    async def handle(n: int) -> int:
        if way == "failed":
            raise ValueError
        return n

    pipeline = source(range(200)) >> handle >> handle
    if way == "merged":
        pipeline = merge(source(range(200)), source(range(200))) >> handle
    elif way == "entered twice":
        pipeline = merge(source(range(200)) >> handle, source(range(200))) >> handle

    async def run() -> None:
        if way == "collected":
            await pipeline.collect()
        elif way == "streamed":
            async with pipeline.stream() as values:
                async for _ in values:
                    pass
        else:
            await pipeline

    async def main() -> int:
        await run()
        gc.collect()
        gc.disable()
        try:
            await run()
            await asyncio.sleep(0)  # the loop lets go of the last task
            return gc.collect()
        finally:
            gc.enable()

    assert asyncio.run(main()) == 0


@pytest.mark.parametrize("most", [0, 1])
def test_a_task_factory_that_refuses_leaves_nothing_running(most: int) -> None:
    """A worker that cannot start is a failure like any other: the rest is cancelled, all is awaited (fault B9)."""

    @producer
    async def numbers() -> AsyncIterator[int]:
        yield 1

    @consumer(concurrency=3)
    async def handle(n: int) -> None: ...

    async def main() -> None:
        loop = asyncio.get_running_loop()
        made: list[Any] = []

        def refuse(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
            if len(made) == most:
                raise RuntimeError("no more tasks")
            task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **options)
            made.append(task)
            return task

        loop.set_task_factory(refuse)
        with pytest.raises(PipelineError) as failed:
            await (numbers >> handle)
        loop.set_task_factory(None)
        assert [str(error) for error in failed.value.exceptions] == ["no more tasks"]
        assert [left.item for left in failed.value.report.unfinished] == [1] * most
        assert all(task.done() for task in made)

    testing.run(main())


@pytest.mark.parametrize("refused", ["first", "second"])
def test_a_source_that_cannot_start_leaves_no_other_behind(refused: str) -> None:
    """Invariant 6: the run must not be over while it is being started."""

    @producer
    async def first() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    @producer
    async def second() -> AsyncIterator[int]:
        yield 2
        await asyncio.Event().wait()

    @consumer
    async def handle(n: int) -> None: ...

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def refuse(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
            if options["name"] == f"asyncpc:{refused}":
                raise RuntimeError("no more tasks")
            return asyncio.Task(work, loop=loop, **options)

        loop.set_task_factory(refuse)
        with pytest.raises(PipelineError, match="failed"):
            await (merge(first, second) >> handle)
        loop.set_task_factory(None)
        assert [task.get_name() for task in asyncio.all_tasks() if "asyncpc" in task.get_name()] == []

    testing.run(main())


def test_a_block_keeps_its_run_until_it_is_left() -> None:
    """A run that has ended still belongs to its block: another cannot begin and be mistaken for it."""

    @consumer
    async def handle(n: int) -> None: ...

    async def main() -> None:
        pipeline = source([1]) >> handle
        async with pipeline as running:
            await running.wait()
            with pytest.raises(StateError, match="running already"):
                await pipeline
        assert (await pipeline).done == 1

    testing.run(main())


def test_a_worker_at_work_takes_three_kilobytes() -> None:
    """Protects programs with ten thousand workers: what each adds to the memory while its handler waits."""

    async def bytes_of(workers: int) -> int:
        over = asyncio.Event()

        @consumer(concurrency=workers)
        async def wait(item: None) -> None:
            await over.wait()

        gc.collect()
        tracemalloc.start()
        try:
            async with Pipeline(wait) as running:
                for _ in range(workers):
                    await running.put(None)
                for _ in range(30):
                    await asyncio.sleep(0)
                taken, _ = tracemalloc.get_traced_memory()
                over.set()
        finally:
            tracemalloc.stop()
        return taken

    tracer = sys.gettrace()
    sys.settrace(None)  # that of coverage keeps something for each frame
    try:
        with asyncio.Runner(debug=False) as runner:  # debugging keeps a traceback for each task
            _, few, many = [runner.run(bytes_of(workers)) for workers in (10, 10, 1_010)]  # the first warms up
    finally:
        sys.settrace(tracer)
    assert (many - few) / 1_000 <= 3_200  # 2,900 without what the tests add
