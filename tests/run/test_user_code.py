"""Code of the user that misbehaves at an awkward point: a stop from inside, a stray cancel, a slow clean-up, a log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from support import balanced, both, cancelled_with, counts_by_stage, error_types, named

from asyncpc import (
    Batch,
    Pipeline,
    PipelineError,
    Report,
    WorkerCancelled,
    consumer,
    merge,
    producer,
    source,
    testing,
)
from asyncpc.testing import now


def in_virtual_time(main: Callable[[], Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test of ``main``, with and without eager tasks."""

    def test(eager: bool) -> None:
        testing.run(main(), eager=eager)

    test.__name__, test.__doc__ = main.__name__, main.__doc__
    return both(test)


async def give(n: int) -> int:
    return n


async def see(n: object) -> None: ...


ignore = consumer(see)


async def stray() -> None:
    """Await something that somebody else has cancelled."""
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


# -- a cancel that the task's own code asked for --------------------------------------------------


class Closing:
    """Something that needs an ``await`` to be closed."""

    def __init__(self) -> None:
        self.closed: list[str] = []

    async def close(self, name: str) -> None:
        await asyncio.sleep(0.01)
        self.closed.append(name)


@in_virtual_time
async def test_a_source_that_stops_its_run_is_closed() -> None:
    """The cancel is the source's own, so Python delivers it at the next ``await``: not at one of its ``finally``."""
    closing = Closing()

    @producer
    async def stops() -> AsyncIterator[int]:
        try:
            await asyncio.sleep(0)  # an eager task runs before the block has its run
            for n in range(100):
                yield n
                if n == 4:
                    running.stop()
        finally:
            await closing.close("source")

    async with stops >> ignore as running:
        await running.wait()
    assert closing.closed == ["source"]


def refuse_to_drop(item: object) -> None:
    raise ValueError("on_drop")


@consumer(overflow="drop_newest", on_drop=refuse_to_drop, maxsize=1)
async def full(n: int) -> None:
    await asyncio.sleep(0.05)


@in_virtual_time
async def test_a_resource_is_closed_when_its_own_worker_ends_the_run() -> None:
    """As above: the callback that fails is called by the worker that the failure cancels."""
    closing = Closing()

    @asynccontextmanager
    async def resource() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await closing.close("resource")

    @consumer(context=resource)
    async def uses(n: int, context: int) -> int:
        return n

    @consumer
    async def generates(n: int) -> AsyncIterator[int]:
        try:
            for value in range(100):
                yield value
        finally:
            await closing.close("generator")

    for stage in uses, generates:
        with pytest.raises(PipelineError, match="failed"):
            await (source(range(100)) >> stage >> full)
    assert closing.closed == ["resource", "generator"]


def test_a_source_that_starts_after_the_failure_gives_nothing() -> None:
    """With eager tasks (3.12+) the first may end the run before the second has a task to cancel."""
    second: list[int] = []

    @producer
    async def one() -> AsyncIterator[int]:
        for n in range(10):
            yield n

    @producer
    async def two() -> AsyncIterator[int]:
        while True:
            second.append(1)
            yield 1
            await asyncio.sleep(0)

    async def main() -> None:
        with pytest.raises(PipelineError) as failed:
            await Pipeline(merge(one, two), full, drain_timeout=2)
        assert len(failed.value.exceptions) == 1
        assert now() == 0

    testing.run(main(), eager=True)
    assert second == []


# -- a stray cancel -------------------------------------------------------------------------------


@in_virtual_time
async def test_a_function_of_an_item_that_raises_a_cancel_fails_that_item() -> None:
    """``future.result()`` is enough: no writer may take that for its own cancel, and count the value as there."""

    def look(n: int) -> int:
        if n == 2:
            raise asyncio.CancelledError
        return n

    for option in "key", "priority":
        options: dict[str, Any] = {option: look}
        looks = named("looks", see, **options)
        report = await (source(range(5)) >> named("same", give, on_error="skip") >> looks)
        assert list(counts_by_stage(report).values()) == [(5, 4, 1), (4, 4, 0)]
        with pytest.raises(PipelineError) as failed:
            await (source(range(5)) >> looks)
        assert error_types(failed.value) == [WorkerCancelled]
        assert f"{option}= of stage" in str(failed.value.exceptions[0])


@in_virtual_time
async def test_an_on_error_that_raises_a_cancel_fails_the_run() -> None:
    """Nobody cancelled the worker: its item has failed, once, and the error says which callback it was."""

    async def told(failure: object) -> None:
        await stray()

    @consumer(batch=Batch(3), on_error=told)
    async def batch(rows: list[int]) -> list[int]:
        return list(rows)

    @consumer(on_error=told)
    async def one(n: int) -> int:
        raise ValueError(n)

    @consumer(key=lambda n: 1 // (n - 1))
    async def refuses_1(n: int) -> None: ...

    for stage in batch, one:
        with pytest.raises(PipelineError) as failed:
            await (source(range(3)) >> stage >> refuses_1)
        assert error_types(failed.value) == [WorkerCancelled]
        assert "on_error= raised CancelledError" in str(failed.value.exceptions[0])
        assert balanced(failed.value.report)


@in_virtual_time
async def test_an_on_drop_that_raises_a_cancel_fails_the_run() -> None:
    """The writer was not cancelled either: it goes on, and the item was dropped."""

    def cancels(item: object) -> None:
        raise asyncio.CancelledError

    drops = named("drops", full.__wrapped__, overflow="drop_newest", on_drop=cancels, maxsize=1)
    with pytest.raises(PipelineError) as failed:
        await (source(range(9)) >> drops)
    assert set(error_types(failed.value)) == {WorkerCancelled}
    assert "on_drop= of stage 'drops'" in str(failed.value.exceptions[0])
    assert balanced(failed.value.report)


@in_virtual_time
async def test_an_on_unfinished_that_raises_a_cancel_hides_nothing() -> None:
    """The caller was not cancelled; what the run failed with comes out, and this beside it."""

    @consumer
    async def fails(n: int) -> None:
        raise ValueError("cause")

    async def left(items: object) -> None:
        await stray()

    with pytest.raises(PipelineError) as failed:
        await Pipeline(source(range(3)), fails, on_unfinished=left)
    assert error_types(failed.value) == [ValueError, WorkerCancelled]


# -- a slow clean-up ------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_stops_the_run_before_the_resource_is_closed(workers: int) -> None:
    """Others learn of it at once, and the deadline runs, however long the exit of the resource takes."""
    handled: list[int] = []

    @asynccontextmanager
    async def resource() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(3600)

    @consumer(context=resource, concurrency=workers)
    async def fails(n: int, context: int) -> None:
        if n == 0:
            raise ValueError("boom")
        await asyncio.sleep(0.01)
        handled.append(n)

    @producer
    async def numbers() -> AsyncIterator[int]:
        for n in range(10**9):
            yield n

    async def main() -> None:
        with pytest.raises(PipelineError) as failed:
            await Pipeline(numbers, fails, drain_timeout=0.5)
        assert error_types(failed.value) == [ValueError]
        assert now() <= 0.6

    testing.run(main())
    assert handled == []


def test_a_refused_source_that_closes_slowly_meets_the_deadline() -> None:
    """The queue refused its item, so the run ends; a ``finally`` that hangs must not keep that from everybody."""

    @producer
    async def hangs() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(3600)

    async def main() -> None:
        with pytest.raises(PipelineError) as failed:
            await Pipeline(hangs, named("refuses", see, key=lambda n: 1 // 0), drain_timeout=0.5)
        assert error_types(failed.value) == [ZeroDivisionError]
        assert now() <= 0.6

    testing.run(main())


@in_virtual_time
async def test_the_first_cancel_leaves_the_clean_up_its_time_after_a_failure() -> None:
    """Only a second cancel of the caller cuts it short; the round of cancels that the failure made is not one."""
    cleaned: list[int] = []

    @consumer(concurrency=2)
    async def one_fails(n: int) -> None:
        if n == 1:
            await asyncio.sleep(0.05)
            raise ValueError
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0.5)
            cleaned.append(n)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await (source(range(2)) >> one_fails)
    assert cleaned == [0]


# -- errors of a run whose caller was cancelled ---------------------------------------------------


@contextmanager
def logged() -> Iterator[list[str]]:
    """What the package logs as errors meanwhile."""
    found: list[str] = []

    class Keeps(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    logger, handler = logging.getLogger("asyncpc"), Keeps(logging.ERROR)
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)


@asynccontextmanager
async def cannot_commit() -> AsyncIterator[int]:
    try:
        yield 1
    finally:
        raise RuntimeError("commit failed")


@consumer(context=cannot_commit)
async def commits(n: int, context: int) -> None:
    await asyncio.sleep(10)


@pytest.mark.parametrize("how", ["await", "collect", "stream"])
def test_a_cancel_tells_what_the_run_failed_with(how: str) -> None:
    """The caller gets a cancel, which has no room for errors: they are its cause, and in the log."""
    pipeline = source([1, 2]) >> commits

    async def stream() -> None:
        async with pipeline.stream() as values:
            async for _ in values:
                pass

    ways: dict[str, Any] = {"await": lambda: pipeline, "collect": pipeline.collect, "stream": stream}

    async def main() -> asyncio.CancelledError:
        return await cancelled_with(ways[how])

    with logged() as found:
        cancelled = testing.run(main())
    assert isinstance(cancelled.__cause__, PipelineError)
    assert error_types(cancelled.__cause__) == [RuntimeError]
    report = cancelled.report  # type: ignore[attr-defined]
    assert isinstance(report, Report)
    assert report.left_by_stage() == {"commits": 1}  # the other has failed
    assert len(found) == 1
    assert "failed while its caller was cancelled: RuntimeError: commit failed" in found[0]


@in_virtual_time
async def test_a_cancelled_collect_has_what_came_before() -> None:
    """Like the error of a run that failed: nobody has another way to get it."""

    @consumer(name="slow")
    async def slow(n: int) -> int:
        await asyncio.sleep(1)
        return n

    async def collecting() -> None:
        async with asyncio.timeout(2.5):
            await (source(range(9)) >> slow).collect()

    with pytest.raises(TimeoutError) as timed_out:
        await collecting()
    cancelled = timed_out.value.__cause__
    assert isinstance(cancelled, asyncio.CancelledError)
    assert cancelled.results == [0, 1]  # type: ignore[attr-defined]
    assert cancelled.report.left_by_stage() == {"slow": 7}  # type: ignore[attr-defined]


# -- a log that raises ----------------------------------------------------------------------------


class Failed(BaseException):
    """As that of ``pytest.fail``: no ``Exception``."""


@consumer(on_error="skip", name="skips")
async def skips(n: int) -> None:
    raise ValueError(n)


@consumer(on_error="skip", batch=Batch(3), name="skips")
async def skips_all(rows: list[int]) -> None:
    raise ValueError(rows)


@contextmanager
def log_raises(error: type[BaseException]) -> Iterator[None]:
    """Let the user's log handler raise ``error``, whatever it is given."""

    class Raises(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise error

    logger, handler = logging.getLogger("asyncpc"), Raises()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@pytest.mark.parametrize("stage", [skips, skips_all], ids=["one", "batch"])
def test_a_log_handler_that_raises_breaks_no_count(stage: Any) -> None:
    """Bookkeeping first: what such a handler raises goes nowhere, whatever class it has."""
    with log_raises(Failed):
        report = testing.run(source(range(3)) >> stage)
    assert (report.stages[0].done, report.stages[0].failed) == (0, 3)


@pytest.mark.parametrize(("stage", "failed", "left"), [(skips, 1, 2), (skips_all, 3, 0)], ids=["one", "batch"])
def test_an_interrupt_in_a_log_handler_counts_its_item_once(stage: Any, failed: int, left: int) -> None:
    """Ctrl-C may come anywhere, so also while the failure of an item is logged."""
    reports: list[Report | None] = []

    async def main() -> None:
        async with source(range(3)) >> stage as running:
            try:
                await running.wait()
            finally:
                reports.append(running.report)

    with log_raises(KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert reports[0] is not None
    assert (reports[0].stages[0].done, reports[0].stages[0].failed) == (0, failed)
    assert len(reports[0].unfinished) == left


def test_a_log_handler_that_raises_does_not_hold_up_the_end() -> None:
    """What a source failed with is logged when everything else of its end is done."""

    @producer
    async def fails() -> AsyncIterator[int]:
        yield 1
        raise ValueError("source")

    async def main() -> float:
        with pytest.raises(PipelineError):
            async with Pipeline(fails, ignore, drain_timeout=3) as running:
                await running.wait()
        return now()

    with log_raises(Failed):
        assert testing.run(main()) == 0
