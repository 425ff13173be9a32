"""The supervisor, fault by fault: each test says which one of the design's list it protects against.

All in virtual time: times are exact, and a run that hangs is a :class:`virtual.Deadlock` that names who waits where.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import logging
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from functools import wraps
from inspect import signature
from types import FrameType
from typing import Any

import pytest
from spy import Spy
from virtual import EAGER, idle, now, ran, run_virtual

import asyncpc
from asyncpc import (
    BoundedQueue,
    DefinitionError,
    DrainTimeout,
    Pipeline,
    PipelineError,
    QueueShutDown,
    Report,
    Restart,
    Running,
    StateError,
    WorkerCancelled,
    consumer,
    feed,
    merge,
    producer,
    source,
)
from asyncpc.run.accounting import Accounts as Books_
from asyncpc.run.state import ADVANCES, State

SLACK = 0.1
"""Seconds that a run may take beyond its deadline."""

variable: ContextVar[Any] = ContextVar("variable")

both = pytest.mark.parametrize("eager", EAGER)


def workers() -> dict[str, asyncio.Task[Any]]:
    """The tasks of all runs in this loop, by name."""
    tasks = {task.get_name().removeprefix("asyncpc:"): task for task in asyncio.all_tasks()}
    return {name: task for name, task in tasks.items() if task.get_name() == f"asyncpc:{name}"}


def left(report: Report) -> list[tuple[Any, str]]:
    return [(one.item, one.stage) for one in report.unfinished]


@consumer
async def ignore(item: object) -> None:
    """Take everything, at once."""


@producer
async def endless() -> AsyncIterator[int]:
    for n in itertools.count():
        yield n
        await asyncio.sleep(0.01)


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

    run_virtual(main, eager=eager)


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

    run_virtual(main, eager=eager)


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
        run_virtual(main, eager=eager)
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

    run_virtual(main, eager=eager)


@both
def test_b4_a_worker_that_swallowed_its_cancel_takes_nothing_more(eager: bool) -> None:
    """Fault B4, invariant 7: the run ends as soon as the handler returns, although it ignored the cancellation."""
    spy = Spy()

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
        assert spy.handled == [1]
        assert left(caught.value.report) == [(n, "handle") for n in range(2, 10)]

    run_virtual(main, eager=eager)


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
@pytest.mark.parametrize("again", [None, 0, 1, 3])
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

    run_virtual(main, eager=eager)


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

    run_virtual(main, eager=eager)


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

    run_virtual(main, eager=eager)


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

    run_virtual(main, eager=eager)


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

    run_virtual(main, eager=eager)


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

    run_virtual(main)


# -- context variables ----------------------------------------------------------------------------


class Array:
    """A value that cannot be compared, as numpy's arrays cannot."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth value of an array is ambiguous")

    __hash__ = object.__hash__


@both
@pytest.mark.parametrize("make", [object, Array])
@pytest.mark.parametrize("generates", [False, True])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_b12_each_call_sees_the_callers_context(
    make: Callable[[], object], generates: bool, concurrency: int, eager: bool
) -> None:
    """Fault B12: each call sees what the caller has set; what a call sets is seen by no other, whatever the value."""
    callers = make()
    seen: list[object] = []

    async def work() -> None:
        seen.append(variable.get())
        mine = make()
        variable.set(mine)
        await asyncio.sleep(0.001)
        assert variable.get() is mine

    @consumer(concurrency=concurrency)
    async def handle(n: int) -> int:
        await work()
        return n

    @consumer(concurrency=concurrency)
    async def generate(n: int) -> AsyncIterator[int]:
        await work()
        yield n
        await asyncio.sleep(0.001)
        yield n

    async def main() -> None:
        variable.set(callers)
        await Pipeline(range(9), (generate if generates else handle) >> ignore)
        assert len(seen) == 9
        assert all(value is callers for value in seen)
        assert variable.get() is callers

    run_virtual(main, eager=eager)


def test_b12_a_resource_may_set_variables_for_its_worker() -> None:
    """Fault B12: what ``context=`` sets when it is entered is there for each call, and can be reset when it is left."""
    seen: list[str] = []

    @asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        token = variable.set("from the resource")
        yield
        variable.reset(token)

    @consumer(context=resource)
    async def handle(n: int, given: None) -> None:
        seen.append(variable.get())
        variable.set(n)

    async def main() -> None:
        await Pipeline(range(3), handle)
        assert seen == ["from the resource"] * 3

    run_virtual(main)


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

    run_virtual(main, eager=eager)


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

    run_virtual(main, eager=eager)


@both
def test_c13_what_a_failing_source_gave_is_handled_first(eager: bool) -> None:
    """Fault C13: a source that raises half way loses nothing that it gave, and stops its sisters."""
    spy = Spy(1)

    @producer
    async def half() -> AsyncIterator[int]:
        for n in range(5):
            yield n
        raise ValueError("half way")

    async def main() -> None:
        with pytest.raises(PipelineError, match="failed") as caught:
            await Pipeline(merge(half, idle_source), consumer(spy))
        assert spy.handled == [0, 1, 2, 3, 4]
        assert [str(error) for error in caught.value.exceptions] == ["half way"]
        assert caught.value.report.complete

    run_virtual(main, eager=eager)


@producer
async def idle_source() -> AsyncIterator[int]:
    await asyncio.Event().wait()
    yield 0


def test_every_failure_comes_out_in_the_group() -> None:
    """Invariant 7: errors that siblings raise while they are cancelled are told too, and ``except*`` finds them."""

    @consumer(concurrency=3)
    async def handle(n: int) -> None:
        try:
            await asyncio.sleep(1 if n == 0 else 5)
            raise ValueError
        except asyncio.CancelledError:
            raise KeyError(n) from None

    async def main() -> None:
        kinds: list[str] = []
        try:
            await Pipeline(range(3), handle)
        except* ValueError as group:
            kinds += [type(error).__name__ for error in group.exceptions]
        except* KeyError as group:
            kinds += [type(error).__name__ for error in group.exceptions]
        assert kinds == ["ValueError", "KeyError", "KeyError"]

    run_virtual(main)


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

    run_virtual(main, eager=eager)


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

    run_virtual(main)


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

    run_virtual(main)


# -- stop and drain -------------------------------------------------------------------------------


@both
def test_c1_a_drain_handles_what_is_buffered(eager: bool) -> None:
    """Fault C1: by default nothing that was accepted is given up."""
    first, second = Spy(0.1), Spy(1)

    async def main() -> None:
        async with Pipeline(source(range(30)), consumer(first) >> consumer(second), maxsize=5) as running:
            await asyncio.sleep(3)
            report = await running.drain(timeout=100)
        assert report.complete
        assert report.produced == len(first.handled) == len(second.handled) < 30
        assert second.handled == list(range(report.produced))

    run_virtual(main, eager=eager)


@both
@pytest.mark.parametrize("timeout", [0, 0.5, 2])
def test_c2_a_stuck_handler_is_cancelled_at_the_deadline(timeout: float, eager: bool) -> None:
    """Fault C2: one deadline over all phases, to the tick if the handlers obey; what is left is listed by stage."""

    @consumer
    async def stuck(n: int) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with Pipeline(source(range(9)), spy_consumer() >> stuck, maxsize=2) as running:
            await asyncio.sleep(1)
            report = await running.drain(timeout)
            assert now() == 1 + timeout
        assert [item for item, stage in left(report) if stage == "stuck"] == [0, 1, 2, 3]
        assert report.abandoned == ()

    run_virtual(main, eager=eager)


def spy_consumer(seconds: float = 0.0, **options: Any) -> Any:
    return consumer(name="spy", **options)(Spy(seconds))


def test_c2_leaving_the_block_raises_what_could_not_be_finished() -> None:
    """Fault C2, invariant 7: nobody asked for the report, so leaving items behind is an error that has it."""

    async def main() -> None:
        with pytest.raises(PipelineError) as caught:
            async with Pipeline(spy_consumer(100), drain_timeout=1) as running:
                await running.put("item")
        assert [type(error) for error in caught.value.exceptions] == [DrainTimeout]
        assert left(caught.value.report) == [("item", "spy")]

    run_virtual(main)


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

    run_virtual(main, eager=eager)


def test_c14_a_later_stop_only_ever_brings_the_deadline_forward() -> None:
    """Fault C14: stop(1) then stop(100) ends after 1; stop(100) then stop(1) too."""

    async def main(first: float, second: float) -> None:
        with suppress(PipelineError):
            async with Pipeline(spy_consumer(1000)) as running:
                await running.put(1)
                running.stop(first)
                running.stop(second)
        assert now() == 1.0

    run_virtual(main, 1, 100)
    run_virtual(main, 100, 1)


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

    run_virtual(main, eager=eager)


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

    run_virtual(main)
    run_virtual(main)


def test_c14_stopped_before_it_could_start() -> None:
    """Fault C14: leaving the block at once starts nothing that is not ended again."""

    async def main() -> None:
        async with endless >> ignore as running:
            pass
        assert running.report is not None
        assert running.report.complete
        assert now() == 0.0

    run_virtual(main)


def test_states_only_advance() -> None:
    """Invariant 8: the table is a ladder: no state comes again, the ends are final, refusals name both states."""
    order = list(State)
    for state, following in ADVANCES.items():
        assert all(order.index(state) < order.index(one) for one in following)
    assert not ADVANCES[State.CLOSED]
    assert not ADVANCES[State.FAILED]

    async def main() -> None:
        pipeline = Pipeline(ignore)
        async with pipeline as running:
            seen = [running.statistics().state]
            running.put_nowait(1)
            running.stop()
            seen.append(running.statistics().state)
            run = pipeline._run
        seen.append(running.statistics().state)
        assert seen == ["running", "draining", "closed"]
        assert run is not None
        with pytest.raises(StateError, match=r"is closed; it cannot become running"):
            run.start()

    run_virtual(main)


# -- workers start when there is work -------------------------------------------------------------


@both
def test_workers_start_as_work_comes_and_idle_ones_are_taken_first(eager: bool) -> None:
    """Ten thousand consumers cost nothing until ten thousand items wait; the books know them all the same."""
    spy = Spy(1.0)

    async def main() -> None:
        async with Pipeline(consumer(concurrency=10_000, name="spy")(spy)) as running:
            await idle()
            assert workers() == {}
            await asyncio.sleep(2)
            assert running.statistics().stages[0].get_waited == pytest.approx(20_000)
            for n in range(3):
                await running.put(n)
                await asyncio.sleep(2)
            assert set(workers()) == {"spy-1"}
            await asyncio.gather(*(running.put(n) for n in range(7)))
            await idle()
            assert spy.running == 7
            assert set(workers()) == {f"spy-{n}" for n in range(1, 8)}
            await running.drain()
        assert running.report is not None
        assert running.report.done == 10
        assert running.report.stages[0].concurrency == 10_000

    run_virtual(main, eager=eager)


@both
@pytest.mark.parametrize("maxsize", [1, 2, 128, 0])
def test_a_backlog_soon_has_all_the_workers_it_may_have(maxsize: int, eager: bool) -> None:
    """Protects the concurrency: 200 items of a second each on 50 workers take four seconds, whatever the bound."""
    spy = Spy(1.0)

    async def main() -> None:
        report = await Pipeline(range(200), consumer(concurrency=50)(spy), maxsize=maxsize)
        assert report.done == 200
        assert spy.peak == 50
        assert now() == pytest.approx(4.0)

    run_virtual(main, eager=eager)


@both
def test_workers_with_a_resource_start_at_once(eager: bool) -> None:
    """Opening takes time, and a mistake in it should show when the app starts, not at the first order."""
    opened: list[float] = []

    @asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        opened.append(now())
        await asyncio.sleep(1)
        yield

    @consumer(concurrency=3, context=resource)
    async def handle(n: int, resource: None) -> None: ...

    async def main() -> None:
        async with Pipeline(handle) as running:
            await asyncio.sleep(5)
            assert opened == [0, 0, 0]
            await running.put(1)

    run_virtual(main, eager=eager)


def test_eager_workers_do_not_start_inside_each_other() -> None:
    """Fault B3: two hundred stages whose workers would each start the next one's would be too deep for any stack."""
    stages = [consumer(ignore.__wrapped__) for _ in range(200)]
    report = run_virtual(lambda: Pipeline([1], *stages)._complete(), eager=EAGER[-1])
    assert report.done == 1


@pytest.mark.realtime
def test_handlers_that_never_wait_are_not_given_helpers() -> None:
    """Promise 7: others could only take turns, a turn of the loop for each; so one worker works off the backlog."""
    loop_held: list[float] = []

    @consumer(concurrency=100)
    async def busy(n: int) -> None:
        until = time.thread_time() + 20e-6
        while time.thread_time() < until:
            pass

    async def main() -> int:
        async with Pipeline(busy, maxsize=0) as running:
            for n in range(3000):
                running.put_nowait(n)
            before = time.thread_time()
            while running.statistics().done < 3000:
                await asyncio.sleep(0)
                loop_held.append(time.thread_time() - before)
                before = time.thread_time()
            return len(workers())

    assert asyncio.run(main()) <= 2
    assert statistics.median(loop_held) < 0.005


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

    assert sorted(left(run_virtual(main, eager=eager))) == [(1, "handle"), (2, "handle")]


def lines_run(work: Callable[[], object]) -> int:
    """How many lines of the package run in ``work``: a measure of cost that knows no noise."""
    count = 0

    def line(frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
        nonlocal count
        count += event == "line"
        return line

    def call(frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        return line if "/asyncpc/" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("how", ["drained", "cancelled", "with a resource"])
def test_the_cost_of_workers_grows_with_their_number_and_no_faster(how: str) -> None:
    """Protects from what only hurts at 10,000 workers: that each one's start or end looks at all the others."""

    @asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        yield

    async def main(count: int) -> None:
        spy = Spy(1.0)

        async def handle(n: int, resource: None = None) -> int:
            return int(await spy(n))

        context: Any = resource if how == "with a resource" else None
        stage: Any = consumer(concurrency=count, context=context)(handle)
        async with Pipeline(range(count), stage).stream() as values:
            if how != "cancelled":
                async for _ in values:
                    pass

    def cost(count: int) -> int:
        return lines_run(lambda: run_virtual(functools.partial(main, count)))

    cost(100)
    assert cost(800) < 5 * cost(200)


# -- put and feed ---------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("why", ["drain", "failure"])
def test_a14_putters_that_wait_are_told_when_the_run_ends(why: str, eager: bool) -> None:
    """Fault A14: each waiting put raises, and its item was not taken: it is in no list of the report."""
    refused: list[int] = []

    @consumer(maxsize=1)
    async def handle(n: int) -> None:
        await asyncio.sleep(1)
        if why == "failure":
            raise ValueError

    async def main() -> None:
        async def put(n: int) -> None:
            with suppress(QueueShutDown):
                await running.put(n)
                return
            refused.append(n)

        with suppress(PipelineError):
            async with Pipeline(handle) as running:
                putters = [asyncio.create_task(put(n)) for n in range(5)]
                await idle()
                if why == "drain":
                    await running.drain()
                await asyncio.wait(putters)
                await running.wait()
        assert refused == [2, 3, 4]
        report = running.report
        assert report is not None
        assert report.produced == 2
        assert [item for item, _ in left(report)] == ([1] if why == "failure" else [])
        with pytest.raises(QueueShutDown, match="failed in" if why == "failure" else "is draining"):
            running.put_nowait(9)

    run_virtual(main, eager=eager)


def test_put_in_all_its_forms() -> None:
    """Faults A5 to A7: put waits, put_nowait and a timeout refuse; what raised was not accepted."""

    async def main() -> None:
        async with Pipeline(spy_consumer(1), maxsize=1) as running:
            await running.put("handled")
            await idle()
            await running.put("queued")
            with pytest.raises(asyncio.QueueFull):
                running.put_nowait("refused")
            with pytest.raises(TimeoutError):
                await running.put("late", timeout=0.25)
            assert now() == 0.25
            await running.put("in time", timeout=1)
            assert now() == 1.0
            report = await running.drain()
        assert report.produced == report.done == 3

    run_virtual(main)


def test_putters_and_a_source_share_the_room() -> None:
    """Fairness: neither callers of put nor the pipeline's own source starve beside each other."""
    seen: list[str] = []

    @producer
    async def own() -> AsyncIterator[str]:
        while True:
            yield "own"

    @consumer(maxsize=8)
    async def handle(item: str) -> None:
        seen.append(item)
        await asyncio.sleep(0.01)

    async def put(running: Running[str, Any]) -> None:
        with suppress(QueueShutDown):
            while True:
                await running.put("put")

    async def main() -> None:
        async with own >> handle as running:
            putters = [asyncio.create_task(put(running)) for _ in range(8)]
            await asyncio.sleep(10)
        await asyncio.wait(putters)
        assert min(seen.count("own"), seen.count("put")) > len(seen) / 10

    run_virtual(main)


@both
def test_feed_keeps_the_run_open_until_all_is_handled(eager: bool) -> None:
    """Invariant 3: a crawl ends by itself, and not before: END waits for what is queued, running and fed in turn."""
    seen: set[int] = set()

    @consumer(concurrency=3, maxsize=1)
    async def crawl(n: int) -> int:
        await asyncio.sleep(n % 3)
        for child in (2 * n, 2 * n + 1):
            if child < 64:
                feed(child)
        return n

    @consumer
    async def save(n: int) -> None:
        seen.add(n)

    async def main() -> None:
        report = await (source([1]) >> crawl >> save)
        assert seen == set(range(1, 64))
        assert (report.produced, report.fed, report.done) == (1, 62, 63)

    run_virtual(main, eager=eager)


def test_feed_outside_a_handler_and_after_the_end() -> None:
    """Invariant 8: defined everywhere: outside it is a StateError that names put, after the end a QueueShutDown."""
    late: list[BaseException] = []

    @consumer
    async def handle(n: int) -> None:
        async def later() -> None:
            await asyncio.sleep(10)
            with pytest.raises(QueueShutDown) as caught:
                feed(n)
            late.append(caught.value)

        helpers.append(asyncio.create_task(later()))

    helpers: list[asyncio.Task[None]] = []

    async def main() -> None:
        with pytest.raises(StateError, match=r"running\.put"):
            feed(1)
        report = await Pipeline([1], handle)
        await asyncio.wait(helpers)
        assert len(late) == report.done == 1

    run_virtual(main)


# -- bounds ---------------------------------------------------------------------------------------


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
        pipeline = Pipeline(source(Watched()), spy_consumer(0.1) >> spy_consumer(0.3), maxsize=maxsize)
        async with pipeline as running:
            assert pipeline._run is not None
            queues.append(pipeline._run.first)
            report = await running.wait()
        assert max(asked_when) < maxsize
        assert [stage.peak_queued for stage in report.stages] == [maxsize, maxsize]

    run_virtual(main, eager=eager)


def test_concurrency_is_exact() -> None:
    """As many calls at once as asked for, no more, no fewer."""
    spy = Spy(1)

    async def main() -> None:
        await Pipeline(range(20), consumer(concurrency=4)(spy))
        assert (spy.peak, now()) == (4, 5.0)

    run_virtual(main)


# -- statistics -----------------------------------------------------------------------------------


def test_waiting_times_are_exact_and_the_bottleneck_is_named() -> None:
    """The numbers that a user tunes by: seconds waited for items and for room, in each stage, also while it runs."""

    async def main() -> None:
        fast = consumer(name="fast")(Spy(1))
        slow = consumer(name="slow", concurrency=2)(Spy(10))
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

    run_virtual(main)


def test_a_slow_source_is_named_as_the_bottleneck() -> None:
    """The stages are idle: no amount of workers would help, and the sentence says so."""

    @producer
    async def slow() -> AsyncIterator[int]:
        for n in range(5):
            await asyncio.sleep(1)
            yield n

    async def main() -> None:
        async with slow >> spy_consumer(0.01) as running:
            assert running.bottleneck() == "nothing has happened yet"
            await running.wait()
            assert running.bottleneck().startswith("slow: too slow to keep the stages busy; spy waits 99%")

    run_virtual(main)


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

    run_virtual(main)


# -- mistakes in the program ----------------------------------------------------------------------


async def coroutine(item: int) -> None: ...


async def two(item: int, other: int) -> None: ...


async def none() -> None: ...


async def generator() -> AsyncIterator[int]:
    yield 1


def plain(item: int) -> None: ...


class Methods:
    """What a class has that was not made an object yet."""

    async def handle(self, item: int) -> None: ...

    async def items(self) -> AsyncIterator[int]:
        yield 1


@wraps(generator)
def hidden() -> AsyncIterator[int]:
    return generator()


@asynccontextmanager
async def resource() -> AsyncIterator[None]:
    yield


# What a type checker is told to ignore in these is the mistake itself, which must be refused at run time too.
MISTAKES: dict[str, tuple[Callable[[], object], str, str]] = {
    "producer without yield": (lambda: producer(coroutine), "'coroutine'", "with 'yield'"),  # type: ignore[arg-type]
    "plain function in the loop": (lambda: consumer(run_in="loop")(plain), "'plain'", "write 'async def'"),
    "too many parameters": (lambda: consumer(two), "'two'", "must take item"),  # type: ignore[arg-type]
    "forgotten context": (lambda: consumer(two), "'two'", "context= adds the resource"),  # type: ignore[arg-type]
    "too few parameters": (lambda: consumer(none), "'none'", "must take item"),  # type: ignore[arg-type]
    "no room for the resource": (lambda: consumer(context=resource)(coroutine), "'coroutine'", "item and resource"),  # type: ignore[arg-type]
    "no concurrency": (lambda: consumer(concurrency=0)(coroutine), "'coroutine'", "at least 1"),
    "odd concurrency": (lambda: consumer(concurrency=1.5)(coroutine), "'coroutine'", "whole number"),  # type: ignore[call-overload]
    "stage's maxsize": (lambda: consumer(maxsize=-1)(coroutine), "'coroutine'", "0 means unbounded"),
    "pipeline's maxsize": (lambda: Pipeline(ignore, maxsize=-1), "'ignore'", "0 means unbounded"),
    "drain_timeout": (lambda: Pipeline(ignore, drain_timeout=-1), "'ignore'", "0 or more seconds"),
    "nan": (lambda: Pipeline(ignore, drain_timeout=float("nan")), "'ignore'", "0 or more seconds"),
    "producer in the middle": (lambda: Pipeline(range(3), endless, ignore), "<Producer endless>", "merge(a, b)"),  # type: ignore[call-overload]
    "function in the middle": (lambda: Pipeline(range(3), coroutine), "part 2", "decorate it with @consumer"),  # type: ignore[call-overload]
    "empty": (lambda: Pipeline(), "an empty pipeline", "at least one consumer"),  # type: ignore[call-overload]
    "no consumer": (lambda: Pipeline(endless), "an empty pipeline", "at least one consumer"),  # type: ignore[call-overload]
    "coroutine object": (lambda: consumer(coroutine(1)), "coroutine", "without calling it"),  # type: ignore[call-overload]
    "no source at all": (lambda: source(3), "source(int)", ""),  # type: ignore[arg-type]
    "arguments that do not fit": (lambda: endless(1), "'endless'", "compose endless("),  # type: ignore[call-arg]
    "empty merge": (lambda: merge(), "merge()", "at least one source"),  # type: ignore[call-overload]
    "called context": (lambda: consumer(context=resource())(two), "'two'", "pass the function"),  # type: ignore[arg-type]
    "Restart": (lambda: producer(restart=Restart(times=0))(endless.__wrapped__), "producer 'endless'", "at least 1"),
    "method": (lambda: consumer(Methods.handle), "'handle'", "self.handle = consumer(self.handle)"),  # type: ignore[arg-type]
    "method with a resource": (lambda: consumer(context=resource)(Methods.handle), "'handle'", "is a method"),  # type: ignore[arg-type]
    "method as a source": (lambda: producer(Methods.items), "producer 'items'", "is a method"),
    "option without a name": (lambda: consumer(4), "'int'", "consumer(concurrency=4)"),  # type: ignore[call-overload]
    "list before a stage": (lambda: [1] >> ignore, "<Consumer ignore>", "source(…) >> …"),  # type: ignore[operator]
    "function before a stage": (lambda: generator >> ignore, "<Consumer ignore>", "@producer"),  # type: ignore[operator]
    "source of a source": (lambda: source(endless), "<Producer endless>", "without source()"),  # type: ignore[arg-type]
    "sources in a list": (lambda: merge([endless, endless]), "merge()", "pass each as an argument of its own"),
    "decorated source": (lambda: producer(hidden), "'generator'", "or see whether a decorator hides it"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_where_it_is_written(mistake: str) -> None:
    """Each message names the stage and the cure; nothing is left un-awaited (warnings are errors)."""
    make, who, cure = MISTAKES[mistake]
    with pytest.raises(DefinitionError) as caught:
        make()
    assert who in str(caught.value)
    assert cure in str(caught.value)
    gc.collect()


def test_a_queue_is_a_source_as_often_as_it_is_run() -> None:
    """Unlike an iterator it is not used up: what came since is there for the next run."""
    seen: list[int] = []

    @consumer
    async def handle(n: int) -> None:
        if n == 2:
            raise ValueError
        seen.append(n)

    async def main() -> None:
        queue: BoundedQueue[int] = BoundedQueue()
        await queue.put_many([1, 2])
        pipeline = Pipeline(queue, handle)
        with pytest.raises(PipelineError):
            await pipeline
        await queue.put_many([3, 4])
        queue.close()
        await pipeline
        assert seen == [1, 3, 4]

    run_virtual(main)


@both
def test_what_is_left_is_looked_at_once(eager: bool) -> None:
    """Promise 5 with a backlog: what a drain costs at its end must not grow by lines of Python for each item."""

    @consumer
    async def hangs(n: int) -> None:
        await asyncio.sleep(1000)

    def work(items: int) -> int:
        async def main() -> None:
            async with Pipeline(hangs, maxsize=0) as running:
                running._run.first.items.extend(range(items))
                running._run.first.came_from_outside(items)
                await running.put(-1)
                await asyncio.sleep(1)
                report = await running.drain(timeout=0.1)
                assert sum(report.left_by_stage().values()) == items + 1

        return lines_run(lambda: run_virtual(main, eager=eager))

    assert work(10_000) - work(10) < 10


@both
def test_a_run_ends_also_if_its_report_cannot_be_written(eager: bool) -> None:
    """A mistake of ours at the very end must not become a run that never ends."""

    class Broken(Books_):
        """Books that cannot be read."""

        __slots__ = ()

        def left(self) -> Any:
            raise ZeroDivisionError

    async def main() -> None:
        with pytest.raises(asyncpc.ConservationError, match="the report cannot be written") as failed:
            async with Pipeline(range(3), ignore) as running:
                running._run.accounts.__class__ = Broken
        assert isinstance(failed.value.__cause__, ZeroDivisionError)

    run_virtual(main, eager=eager)


def test_a_method_of_an_object_is_a_stage() -> None:
    """Protects who keeps state in a class: the cure that the refusal names works."""

    class Sums:
        def __init__(self) -> None:
            self.total = 0
            self.add = consumer(concurrency=2)(self.add)  # type: ignore[has-type]  # the cure that is told

        async def add(self, item: int) -> None:  # type: ignore[no-redef]
            self.total += item

    sums = Sums()
    assert ran(source(range(5)) >> sums.add).done == 5
    assert sums.total == 10


def test_a_decorated_function_keeps_its_name_and_docstring() -> None:
    """Protects help(), documentation and logs: they show the user's function, not asyncpc's class."""

    @consumer
    async def handle(item: int) -> None:
        """Handle one."""

    @producer
    async def items() -> AsyncIterator[int]:
        """Give some."""
        yield 1

    names = [getattr(one, "__name__", None) for one in (handle, items)]
    assert (names[0], handle.__doc__, handle.__module__) == ("handle", "Handle one.", __name__)
    assert (names[1], items.__doc__) == ("items", "Give some.")
    assert list(signature(handle).parameters) == ["item"]


def test_a_forgotten_await_fails_the_run() -> None:
    """Protects from work that is never done and counted as done; what goes on to another stage may be any object."""

    @consumer
    async def forgets(item: int) -> Coroutine[Any, Any, None]:
        return coroutine(item)

    @consumer
    async def awaits(made: Coroutine[Any, Any, None]) -> None:
        await made

    with pytest.raises(PipelineError) as failed:
        ran(source([1, 2, 3]) >> forgets)
    (error,) = failed.value.exceptions
    assert "stage 'forgets' gave a coroutine that nobody awaits" in str(error)
    assert ran(source([1, 2, 3]) >> forgets >> awaits).done == 3
    gc.collect()


def test_a_resource_that_is_none_is_named() -> None:
    """Protects who writes ``@contextmanager`` for ``@asynccontextmanager``: the message says which option it is."""

    @contextmanager
    def session() -> Iterator[int]:
        yield 1

    @consumer(context=session)  # type: ignore[arg-type]  # the mistake under test
    async def handle(item: int, session: int) -> None: ...

    with pytest.raises(PipelineError) as failed:
        ran(source([1]) >> handle)
    assert "stage 'handle': context= gave a _GeneratorContextManager, which is no async" in str(failed.value.exceptions)


def test_the_traceback_of_an_error_begins_with_the_users_code() -> None:
    """Protects who reads it: of asyncpc's own frames there are none, of the user's there are all."""

    def deep(item: int) -> None:
        raise ValueError(item)

    @consumer
    async def handle(item: int) -> None:
        deep(item)

    with pytest.raises(PipelineError) as failed:
        ran(source([1]) >> handle)
    (error,) = failed.value.exceptions
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)] == ["handle", "deep"]


def test_the_failure_of_an_entered_run_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Protects a service, which would learn of it at its shutdown; whoever awaits a run has the error at once."""

    @consumer
    async def handle(item: int) -> None:
        raise ValueError(f"item {item}")

    async def main() -> None:
        async with Pipeline(handle) as running:
            await running.put(1)
            await asyncio.sleep(1)
            (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
            assert record.getMessage().startswith("pipeline 'handle' failed in handle-1: ValueError: item 1 (test_")
            assert record.exc_info is not None
            with pytest.raises(PipelineError):
                await running.wait()
        caplog.clear()
        with pytest.raises(PipelineError):
            await (source([1]) >> handle)
        assert not [record for record in caplog.records if record.levelno == logging.ERROR]

    run_virtual(main)
    caplog.clear()


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


def test_statistics_are_a_table() -> None:
    """Protects who prints them while it runs: what is in hands and queues can be read at a glance."""

    @consumer(maxsize=2)
    async def slow(item: int) -> None:
        await asyncio.sleep(1)

    async def main() -> str:
        async with source(range(5)) >> slow as running:
            await asyncio.sleep(1.5)
            return str(running.statistics())

    lines = run_virtual(main).splitlines()
    assert lines[0].split() == ["stage", "received", "done", "failed", "dropped", "in", "flight", "queued", "rate"]
    assert lines[2].split() == ["source(range)", "4"]
    assert lines[3].split()[:7] == ["slow", "4", "1", "0", "0", "1", "2"]
    assert lines[4] == "running: 4 produced in 1.500 s"


def test_mistakes_that_only_a_run_can_see() -> None:
    """No source to await; the same iterator, resource or pipeline used twice: refused, never a silent nothing."""

    async def main() -> None:
        with pytest.raises(DefinitionError, match="has no source, so to await it would wait for ever"):
            await Pipeline(ignore)
        with pytest.raises(DefinitionError, match="has no source"):
            async with Pipeline(ignore).stream():
                pass
        once = Pipeline(iter([1, 2]), ignore)
        assert (await once).done == 2
        with pytest.raises(PipelineError) as caught:
            await once
        assert "an earlier run used up this iterator" in str(caught.value.exceptions[0])

    run_virtual(main)


def test_the_same_stage_twice_is_two_stages() -> None:
    """A definition is inert, so it may be used twice; the report tells the two apart."""

    @consumer
    async def double(n: int) -> int:
        return 2 * n

    async def main() -> None:
        report = await Pipeline([1, 2], double >> double >> ignore)
        assert [stage.name for stage in report.stages] == ["double", "double#2", "ignore"]
        assert (await Pipeline(merge(endless_of(1), endless_of(1)), ignore)).done == 2

    run_virtual(main)


def endless_of(count: int) -> Any:
    return source(list(range(count)))


def test_any_callable_can_be_a_handler() -> None:
    """Partials and callable objects are looked through; a decorated function is still the function."""
    spy = Spy()

    async def add(n: int, m: int) -> int:
        return n + m

    async def main() -> None:
        assert await consumer(functools.partial(add, 1))(2) == 3
        await Pipeline([1], consumer(functools.partial(add, 1)) >> consumer(spy))
        assert spy.handled == [2]

    run_virtual(main)
