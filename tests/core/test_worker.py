"""The loop of a consumer's worker: its resource, and who cancelled whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncContextDecorator, asynccontextmanager, suppress
from typing import Any

import pytest
from spy import Sink, spying
from support import EAGER, AnyStage, both, counts, error_types, left, named, no_wait

from asyncpc import (
    Batch,
    Breaker,
    Failure,
    Pipeline,
    PipelineError,
    Rate,
    Report,
    Retry,
    TooManyFailures,
    WorkerCancelled,
    consumer,
    source,
    testing,
)
from asyncpc.testing import now

# -- a resource per worker ------------------------------------------------------------------------


def test_each_worker_has_a_resource_of_its_own() -> None:
    """Entered once per worker, closed after its last item, in the worker's own task."""
    log: list[tuple[str, str]] = []

    def name() -> str:
        task = asyncio.current_task()
        assert task is not None
        return task.get_name()

    @asynccontextmanager
    async def resource() -> AsyncIterator[str]:
        log.append(("open", name()))
        yield name()
        log.append(("close", name()))

    @consumer(concurrency=2, context=resource)
    async def handle(n: int, given: str) -> None:
        await asyncio.sleep(1)
        assert given == name()
        log.append(("item", given))

    async def main() -> None:
        await Pipeline(range(4), handle)
        for worker in ("asyncpc:handle-1", "asyncpc:handle-2"):
            assert [what for what, who in log if who == worker] == ["open", "item", "item", "close"]

    testing.run(main())


@pytest.mark.parametrize("eager", EAGER)
@pytest.mark.parametrize("items", [0, 5])
def test_a_pool_smaller_than_the_concurrency_ends(items: int, eager: bool) -> None:
    """END does not wait for a worker that still waits for its resource: nobody needs it any more."""
    opened: list[int] = []

    async def main() -> None:
        pool = asyncio.Semaphore(2)

        @asynccontextmanager
        async def acquire() -> AsyncIterator[None]:
            async with pool:
                opened.append(1)
                yield

        @consumer(concurrency=4, context=acquire)
        async def handle(n: int, resource: None) -> None:
            await asyncio.sleep(0.01)

        report = await (source(range(items)) >> handle)
        assert report.done == items

    testing.run(main(), eager=eager)
    assert len(opened) == 2


def test_a_cancel_in_a_resources_exit_is_a_failure_with_a_name() -> None:
    """An exit that was cut short is not a success, even if every item was handled (fault B1)."""

    @asynccontextmanager
    async def careless() -> AsyncIterator[None]:
        yield
        task = asyncio.ensure_future(asyncio.sleep(100))
        task.cancel()
        await task

    @consumer(context=careless)
    async def handle(n: int, resource: None) -> None: ...

    async def main() -> None:
        with pytest.raises(PipelineError) as failed:
            await (source(range(5)) >> handle)
        assert isinstance(failed.value.exceptions[0], WorkerCancelled)
        assert failed.value.report.done == 5

    testing.run(main())


async def _awaited(pipeline: Pipeline[Any, Any]) -> Any:
    return await pipeline


def test_a_context_manager_that_can_be_called_is_entered() -> None:
    """``AsyncContextDecorator`` makes instances callable; they are context managers all the same."""
    entered: list[str] = []

    class Decorating(AsyncContextDecorator, AbstractAsyncContextManager["Decorating"]):
        async def __aexit__(self, *details: object) -> None:
            entered.append("left")

    @consumer(context=Decorating())
    async def handle(n: int, resource: Decorating) -> None:
        entered.append("used")

    testing.run(_awaited(source([1]) >> handle))
    assert entered == ["used", "left"]


def test_a_resource_that_nobody_needs_is_not_opened_half() -> None:
    """END may come in the moment a worker begins to open: then it opens nothing that would be cut off at closing."""
    opened: list[str] = []

    @asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        opened.append("open")
        yield
        await asyncio.sleep(1)
        opened.append("closed")

    @consumer(concurrency=3, context=resource)
    async def handle(n: int, resource: None) -> None: ...

    async def main() -> None:
        async with Pipeline(handle):
            pass

    testing.run(main())
    assert opened.count("open") == opened.count("closed")


def test_an_exit_that_raises_does_not_hide_the_handlers_error() -> None:
    """Both come out (invariant 7)."""

    @asynccontextmanager
    async def raising() -> AsyncIterator[None]:
        try:
            yield
        finally:
            raise OSError("exit")

    @consumer(context=raising)
    async def bad(n: int, resource: None) -> None:
        raise ValueError(n)

    async def main() -> None:
        with pytest.raises(PipelineError) as failed:
            await (source([1]) >> bad)
        assert [repr(error) for error in failed.value.exceptions] == ["ValueError(1)", "OSError('exit')"]

    testing.run(main())


@pytest.mark.parametrize("eager", EAGER)
def test_a_resource_that_never_opens_does_not_hold_up_the_end(eager: bool) -> None:
    """One connection hangs, the other worker does all the work; the run ends, and the hanging one is cancelled."""
    cancelled: list[float] = []
    opened: list[int] = []

    @asynccontextmanager
    async def connect() -> AsyncIterator[None]:
        opened.append(1)
        if len(opened) == 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(now())
                raise
        yield

    @consumer(concurrency=2, context=connect)
    async def handle(n: int, resource: None) -> int:
        await asyncio.sleep(1)
        return n

    @consumer(concurrency=2)
    async def end(n: int) -> None: ...

    async def main() -> None:
        report = await (source(range(5)) >> handle >> end)
        assert report.done == 5
        assert cancelled == [5.0]

    testing.run(main(), eager=eager)


def test_a_resource_that_fails_to_close_lets_the_others_close() -> None:
    """The failure comes out; the siblings' closing is not cut short by it."""
    closed: list[int] = []
    opened: list[int] = []

    @asynccontextmanager
    async def resource() -> AsyncIterator[int]:
        opened.append(1)
        number = len(opened)
        yield number
        if number == 1:
            raise OSError("closing")
        await asyncio.sleep(1)
        closed.append(number)

    @consumer(concurrency=3, context=resource)
    async def handle(n: int, number: int) -> None: ...

    async def main() -> None:
        with pytest.raises(PipelineError) as failed:
            await (source([1]) >> handle)
        assert [repr(error) for error in failed.value.exceptions] == ["OSError('closing')"]
        assert sorted(closed) == [2, 3]

    testing.run(main())


# -- who cancelled whom ---------------------------------------------------------------------------


@both
def test_b1_a_handler_that_raises_cancelled_error_is_named(eager: bool) -> None:
    """Fault B1, invariant 7: a CancelledError that nobody asked for ends no worker unseen; its item has failed."""

    @consumer
    async def handle(n: int) -> None:
        raise asyncio.CancelledError

    async def main() -> None:
        with pytest.raises(PipelineError) as caught:
            await Pipeline([1, 2], handle)
        assert [type(error) for error in caught.value.exceptions] == [WorkerCancelled]
        assert left(caught.value.report) == [(2, "handle")]
        assert caught.value.report.failed == 1

    testing.run(main(), eager=eager)


@both
def test_b4_a_worker_that_swallowed_its_cancel_takes_nothing_more(eager: bool) -> None:
    """Fault B4, invariant 7: the run ends as soon as the handler returns, although it ignored the cancellation."""
    spy = spying()

    @consumer(concurrency=2)
    async def handle(n: int) -> None:
        if n == 0:
            await asyncio.sleep(1)
            raise ValueError
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(5)
        await asyncio.sleep(1)
        await spy(n)

    async def main() -> None:
        with pytest.raises(PipelineError) as caught:
            await Pipeline(range(10), handle)
        assert now() == 2.0
        assert spy.done == [1]
        assert left(caught.value.report) == [(n, "handle") for n in range(2, 10)]

    testing.run(main(), eager=eager)


async def inner_cancel() -> None:
    """Wait for a task that somebody else cancels."""
    task = asyncio.create_task(asyncio.sleep(1000))
    asyncio.get_running_loop().call_soon(task.cancel)
    await task


CANCELLED = ["plain", "generator", "ordered", "timeout", "rate", "breaker", "context"]
cancelled_kinds = pytest.mark.parametrize("kind", CANCELLED)


def cancelling_stage(kind: str, calls: list[int], **options: Any) -> AnyStage:
    """A stage ``stage`` of that kind whose call for item 1 ends with somebody else's cancel."""

    async def plain(n: int) -> int:
        calls.append(n)
        if n == 1:
            await inner_cancel()
        return n

    async def generator(n: int) -> AsyncIterator[int]:
        yield await plain(n)

    class Resource:
        async def __aenter__(self) -> None: ...

        async def __aexit__(self, *details: object) -> None: ...

    async def with_resource(n: int, resource: None) -> int:
        return await plain(n)

    more: dict[str, dict[str, Any]] = {
        "ordered": {"ordered": True},
        "timeout": {"timeout": 10},
        "rate": {"rate": Rate(1000)},
        "breaker": {"breaker": Breaker(5, 10)},
        "context": {"context": Resource},
    }
    function: Any = {"generator": generator, "context": with_resource}.get(kind, plain)
    return named("stage", function, **options, **more.get(kind, {}))


@both
@cancelled_kinds
def test_h13_somebody_elses_cancel_is_a_failure_of_the_item(kind: str, eager: bool) -> None:
    """The handler's own task was not cancelled: with ``on_error="skip"`` the item failed, and the run goes on."""
    calls, sink = list[int](), Sink()
    report = testing.run(
        source(range(4)) >> cancelling_stage(kind, calls, on_error="skip") >> consumer(sink), eager=eager
    )
    assert counts(report.stages[0]) == (4, 3, 1)
    assert sink.items == [0, 2, 3]
    assert ": WorkerCancelled" in report.stages[0].last_failure


@both
@cancelled_kinds
def test_h13_it_is_told_as_any_failure_and_never_retried(kind: str, eager: bool) -> None:
    """``retry`` is for what an ``Exception`` says, and a cancel is none."""
    calls, told = list[int](), list[Failure]()
    stage = cancelling_stage(kind, calls, on_error=told.append, retry=Retry(3, wait=no_wait))
    report = testing.run(source(range(3)) >> stage, eager=eager)
    assert calls == [0, 1, 2]
    assert [(one.item, one.stage, one.attempts) for one in told] == [(1, "stage", 1)]
    assert told[0].error.startswith("WorkerCancelled")
    assert (report.failed, report.stages[0].retried) == (1, 0)


@both
@cancelled_kinds
def test_h13_by_default_the_run_fails_and_the_item_has_failed(kind: str, eager: bool) -> None:
    """As any failure does without a policy: the error names the worker, and no item is unfinished."""
    with pytest.raises(PipelineError) as failed:
        testing.run(source([0, 1]) >> cancelling_stage(kind, []), eager=eager)
    assert error_types(failed.value) == [WorkerCancelled]
    report = failed.value.report
    assert counts(report.stages[0]) == (2, 1, 1)
    assert report.unfinished == ()


@both
def test_h13_a_batch_fails_as_one(eager: bool) -> None:
    """All items of the batch, as with any other failure of its handler."""

    @consumer(batch=Batch(3), on_error="skip", retry=2)
    async def handle(rows: list[int]) -> None:
        if 1 in rows:
            await inner_cancel()

    report = testing.run(source(range(6)) >> handle, eager=eager)
    assert counts(report.stages[0]) == (6, 3, 3)


@both
def test_h13_it_counts_against_max_failures(eager: bool) -> None:
    """One too many ends the run with the error that says so."""

    @consumer(on_error="skip", max_failures=1)
    async def handle(n: int) -> None:
        await inner_cancel()

    with pytest.raises(PipelineError) as failed:
        testing.run(source(range(3)) >> handle, eager=eager)
    assert error_types(failed.value) == [TooManyFailures]


@both
def test_h13_a_caller_is_not_cancelled_by_it(eager: bool) -> None:
    """A ``CancelledError`` out of ``call`` would look as if the caller had been cancelled; the run goes on."""

    async def main() -> None:
        async with Pipeline(cancelling_stage("plain", [])) as running:
            with pytest.raises(WorkerCancelled):
                await running.call(1)
            assert await running.call(2) == 2

    testing.run(main(), eager=eager)


@both
def test_h13_the_cancel_of_a_worker_itself_is_none_of_its_item(eager: bool) -> None:
    """Fault B1: whoever cancels the task of a worker ends the run, whatever ``on_error`` says; the item is listed."""

    @consumer(on_error="skip")
    async def handle(n: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    with pytest.raises(PipelineError) as failed:
        testing.run(source([1]) >> handle, eager=eager)
    assert error_types(failed.value) == [WorkerCancelled]
    assert (failed.value.report.failed, len(failed.value.report.unfinished)) == (0, 1)


@both
def test_h13_an_inner_cancel_at_the_deadline_is_a_cancel(eager: bool) -> None:
    """The run cancels the worker, the worker its task: neither is a failure."""

    @consumer(on_error="skip")
    async def handle(n: int) -> None:
        await asyncio.create_task(asyncio.sleep(1000))

    async def main() -> Report:
        async with Pipeline(handle) as running:
            await running.put(1)
            await asyncio.sleep(1)
            return await running.drain(timeout=0)

    report = testing.run(main(), eager=eager)
    assert (report.failed, len(report.unfinished)) == (0, 1)
