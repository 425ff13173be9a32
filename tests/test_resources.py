"""Per-worker resources and awkward surroundings: what a context may do, and who may cancel or wait for whom."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncContextDecorator, asynccontextmanager, suppress
from itertools import pairwise
from typing import Any

import anyio
import pytest
from virtual import EAGER, measuring_with, now, ran, run_virtual

from asyncpc import (
    BoundedQueue,
    DefinitionError,
    Pipeline,
    PipelineError,
    StateError,
    WorkerCancelled,
    consumer,
    merge,
    producer,
    source,
)


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

    run_virtual(main, eager=eager)
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

    run_virtual(main)


def test_a_context_manager_that_can_be_called_is_entered() -> None:
    """``AsyncContextDecorator`` makes instances callable; they are context managers all the same."""
    entered: list[str] = []

    class Decorating(AsyncContextDecorator, AbstractAsyncContextManager["Decorating"]):
        async def __aexit__(self, *details: object) -> None:
            entered.append("left")

    @consumer(context=Decorating())
    async def handle(n: int, resource: Decorating) -> None:
        entered.append("used")

    run_virtual(lambda: _awaited(source([1]) >> handle))
    assert entered == ["used", "left"]


async def _awaited(pipeline: Pipeline[Any, Any]) -> Any:
    return await pipeline


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


def test_waiting_in_a_handler_for_the_own_run_is_refused() -> None:
    """It would wait for itself, without a deadline."""
    told: list[str] = []

    async def main() -> None:
        @consumer
        async def handle(n: int) -> None:
            with pytest.raises(StateError, match=r"stop\(\)") as refused:
                await running.wait()
            told.append(str(refused.value))

        async with Pipeline(handle) as running:
            await running.put(1)

    run_virtual(main)
    assert len(told) == 1


def test_a_generator_handler_shares_the_loop() -> None:
    """A handler that gives values without end and never waits lets others run every 128 values (invariant 10)."""

    @consumer
    async def flood(n: int) -> AsyncIterator[int]:
        for k in range(10_000):
            given.append(k)
            yield k

    given: list[int] = []
    seen: list[int] = []

    async def look_on() -> None:
        while True:
            seen.append(len(given))
            await asyncio.sleep(0)

    async def main() -> None:
        looking = asyncio.create_task(look_on())
        await Pipeline([1], flood)
        looking.cancel()

    run_virtual(main)
    assert max(after - before for before, after in pairwise(seen)) <= 128


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

    run_virtual(main)
    assert handled == [1]


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

    run_virtual(main)


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

    run_virtual(main)


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

    run_virtual(main)
    assert opened.count("open") == opened.count("closed")


def test_a_failure_can_be_pickled_and_copied() -> None:
    """A pipeline run in another process can fail in full: exceptions and report come back."""

    @consumer(name="bad")
    async def bad(n: int) -> None:
        raise ValueError(n)

    async def main() -> PipelineError:
        with pytest.raises(PipelineError) as failed:
            await (source([1, 2]) >> bad)
        return failed.value

    failed = run_virtual(main)
    for again in (pickle.loads(pickle.dumps(failed)), copy.copy(failed)):
        assert type(again) is PipelineError
        assert again.report == failed.report
        assert [repr(error) for error in again.exceptions] == ["ValueError(1)"]


def test_put_many_does_not_believe_a_wrong_length_hint() -> None:
    """An iterator that says it has no more, and has, is read to its end."""

    class Modest:
        def __init__(self) -> None:
            self.left = iter(range(10))

        def __iter__(self) -> Iterator[int]:
            return self

        def __next__(self) -> int:
            return next(self.left)

        def __length_hint__(self) -> int:
            return 0

    async def main() -> None:
        queue: BoundedQueue[int] = BoundedQueue(3)

        async def read() -> list[int]:
            return [item async for item in queue]

        reading = asyncio.create_task(read())
        await queue.put_many(Modest())
        queue.close()
        assert await reading == list(range(10))
        assert queue.statistics().peak_queued <= 4
        assert now() == 0

    run_virtual(main)


def test_the_latency_of_a_handler_is_without_the_wait_for_room() -> None:
    """Who looks for the slow stage must not be shown the one before it."""

    @consumer(name="fast")
    async def fast(n: int) -> int:
        return n

    @consumer(maxsize=1)
    async def slow(n: int) -> None:
        await asyncio.sleep(3)

    with measuring_with(now):
        report = ran(source(range(50)) >> fast >> slow)
    assert report.stages[0].latency_p50 < 0.001
    assert report.stages[1].latency_p50 == pytest.approx(3, rel=0.1)


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

    run_virtual(main)


def test_a_failed_run_has_a_failed_exit_status() -> None:
    """Also when no item failed: a source that raises must not look well to the shell."""

    @producer
    async def bad() -> AsyncIterator[int]:
        yield 1
        raise ValueError

    @consumer
    async def handle(n: int) -> None: ...

    async def main() -> None:
        with pytest.raises(PipelineError) as failed:
            await (bad >> handle)
        assert (failed.value.report.done, failed.value.report.exit_status) == (1, 1)

    run_virtual(main)


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

    run_virtual(main)


def test_stages_of_the_same_name_are_told_apart() -> None:
    """Also when a name looks like what asyncpc would add."""

    @consumer(name="a")
    async def first(n: int) -> int:
        return n

    @consumer(name="a#2")
    async def other(n: int) -> int:
        return n

    async def main() -> None:
        report = await (source([1]) >> first >> first >> other)
        assert [stage.name for stage in report.stages] == ["a", "a#2", "a#2#2"]

    run_virtual(main)


def test_a_queue_can_be_joined_in_one_loop_after_another() -> None:
    """A queue whose loop has been closed belongs to the next one, ``join`` included."""
    queue: BoundedQueue[int] = BoundedQueue()

    async def use() -> None:
        await queue.put(1)
        joining = asyncio.create_task(queue.join())
        await asyncio.sleep(0)
        await queue.get()
        queue.task_done()
        await joining

    run_virtual(use)
    run_virtual(use)


async def test_mistakes_of_composition_name_the_cure() -> None:
    """A called handler, an undecorated source, a bare generator as a resource: each says what to write."""

    @consumer
    async def handle(n: int) -> None: ...

    async def bare() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(DefinitionError, match="coroutine object: pass the function itself"):
        source([1]) >> handle(1)  # type: ignore[operator]  # the mistake under test
    with pytest.raises(DefinitionError, match="decorate 'bare' with @producer"):
        Pipeline(bare, handle)  # type: ignore[call-overload]  # the mistake under test
    with pytest.raises(DefinitionError, match="decorate it with @asynccontextmanager"):
        consumer(context=bare)(handle.__wrapped__)  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(DefinitionError, match="drain_timeout='5'"):
        Pipeline(handle, drain_timeout="5")  # type: ignore[call-overload]  # the mistake under test
    assert (source(range(10**30)) >> handle)._plan.origins[0].total is None


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

    run_virtual(main, eager=eager)


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

    run_virtual(main)


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

    run_virtual(main)
