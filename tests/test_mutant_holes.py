"""Lines that could be changed without any test to notice: one test for each, which says what the line protects.

All in virtual time, but for what belongs to threads.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import logging
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import copy_context
from random import Random
from typing import Any, cast

import pytest
from virtual import EAGER, now, ran, run_virtual

from asyncpc import (
    Batch,
    BoundedQueue,
    Breaker,
    Consumer,
    Failure,
    Pipeline,
    PipelineError,
    QueueShutDown,
    Rate,
    Report,
    Running,
    consumer,
    feed,
    merge,
    producer,
    source,
)

both = pytest.mark.parametrize("eager", EAGER)

BUDGET = 128
"""Items that one queue moves without letting others run."""

PATIENCE = 20.0
"""Seconds after which a thread that should have gone on fails its test."""


@consumer
async def ignore(item: object) -> None: ...


def balanced(report: Report) -> bool:
    """Whether each stage accounts for all that it received."""
    left = report.left_by_stage()
    return all(s.received == s.done + s.failed + s.dropped + left.get(s.name, 0) for s in report.stages)


# -- supervision ----------------------------------------------------------------------------------


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
        run_virtual(main, eager=eager)
    assert [type(error) for error in failed.value.exceptions] == [ValueError]
    assert balanced(failed.value.report)


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
        run_virtual(main, eager=eager)
    assert closed == pytest.approx([3.0])


@both
def test_the_log_names_the_workers_that_could_not_be_stopped(eager: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Fault B4: by name, each of them, and none of those that ended."""

    async def main() -> Report:
        over = asyncio.Event()

        @consumer(concurrency=3)
        async def handle(n: int) -> None:
            while not over.is_set():
                try:
                    await over.wait()
                except asyncio.CancelledError:
                    if n == 1:
                        raise

        running = await Pipeline(handle).__aenter__()
        try:
            for n in range(3):
                await running.put(n)
            await asyncio.sleep(1)
            return await running.drain(timeout=0)
        finally:
            over.set()
            await asyncio.sleep(1)

    with caplog.at_level(logging.ERROR, "asyncpc"):
        report = run_virtual(main, eager=eager)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert report.abandoned == ("handle-1", "handle-3")
    assert all(name in line for name in report.abandoned)
    assert "handle-2" not in line


# -- limits ---------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("late", ["ends", "makes an error of it", "makes a value of it"])
def test_a_cancel_after_a_time_out_is_a_cancel(late: str, eager: bool) -> None:
    """Promise 3: a call that took too long failed; the next one is cancelled by a drain, and is released."""

    @consumer(timeout=1, on_error="skip")
    async def handle(n: int) -> None:
        if n == 0:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                if late == "ends":
                    raise
                if late == "makes an error of it":
                    raise ValueError from None
        else:
            await asyncio.sleep(0.9)

    async def main() -> Report:
        async with Pipeline(handle) as running:
            await running.put(0)
            await running.put(1)
            await asyncio.sleep(1.5)
            return await running.drain(timeout=0)

    report = run_virtual(main, eager=eager)
    failed = 0 if late == "makes a value of it" else 1
    assert (report.failed, report.done) == (failed, 1 - failed)
    assert [one.item for one in report.unfinished] == [1]


@both
@pytest.mark.parametrize("late", ["an error", "a value"])
def test_a_time_out_that_a_handler_made_something_of_leaves_the_next_one_alone(late: str, eager: bool) -> None:
    """The cancel is taken back, or the next call that is too late would seem to be cancelled by somebody else."""

    @consumer(timeout=1, on_error="skip")
    async def handle(n: int) -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            if n > 0:
                raise
            if late == "an error":
                raise ValueError from None

    report = ran(source(range(3)) >> handle, eager=eager)
    assert (report.done, report.failed) == ((1, 2) if late == "a value" else (0, 3))
    assert "timeout=1" in report.stages[0].last_failure


def timers() -> list[asyncio.TimerHandle]:
    """The timers that are set in the running virtual loop."""
    scheduled = cast(Any, asyncio.get_running_loop())._scheduled
    return [timer for timer in scheduled if not timer.cancelled()]


@both
@pytest.mark.parametrize("end", ["ends", "is drained", "fails", "gets another rate"])
def test_a_run_leaves_no_timer_of_a_time_limit(end: str, eager: bool) -> None:
    """Invariant 6: nothing of a run is in the loop when it is over, or the loop keeps the run alive for so long."""

    @consumer(timeout=1000, concurrency=3)
    async def handle(n: int) -> None:
        await asyncio.sleep(10 if n == 0 else 1)
        if n == 1 and end == "fails":
            raise ValueError

    async def main() -> None:
        try:
            async with Pipeline(handle) as running:
                for n in range(6):
                    await running.put(n)
                await asyncio.sleep(0.5)
                if end == "is drained":
                    await running.drain(timeout=1)
                if end == "gets another rate":
                    running.set_rate("handle", Rate(10))
        except PipelineError:
            assert end == "fails"
        assert timers() == []

    run_virtual(main, eager=eager)


@both
@pytest.mark.parametrize("failures", [1, 2, 3, 4])
def test_a_breaker_opens_after_so_many_failures_and_not_one_more_or_less(failures: int, eager: bool) -> None:
    """In a row: a call that succeeds begins the count anew."""
    calls: list[float] = []
    worked = failures - 1  # fails so often, then succeeds once

    @consumer(breaker=Breaker(failures, reset_after=100), on_error="skip")
    async def handle(n: int) -> None:
        calls.append(now())
        if n != worked:
            raise ValueError

    report = ran(source(range(2 * failures + 1)) >> handle, eager=eager)
    before = [when for when in calls if when < 100]
    assert len(before) == worked + 1 + failures
    assert calls[len(before)] == pytest.approx(100)
    assert report.failed == 2 * failures


# -- failures to a consumer -----------------------------------------------------------------------


@both
@pytest.mark.parametrize("kind", ["items", "batches"])
def test_a_consumer_of_failures_without_room_ends_the_run(kind: str, eager: bool) -> None:
    """Fault C9: ``overflow="raise"`` there is a failure of the run, at once; the books balance."""

    @consumer(maxsize=1, overflow="raise")
    async def told(failure: Failure) -> None:
        await asyncio.sleep(500)

    async def handle(item: Any) -> None:
        await asyncio.sleep(1)
        raise ValueError

    options: dict[str, Any] = {"batch": Batch(3)} if kind == "batches" else {}
    first: Consumer[Any, Any, ..., Any] = consumer(name="handle", on_error=told, **options)(handle)

    async def main() -> None:
        try:
            await (source(range(6)) >> first)
        finally:
            assert now() < 5

    with pytest.raises(PipelineError) as failed:
        run_virtual(main, eager=eager)
    assert [type(error) for error in failed.value.exceptions] == [asyncio.QueueFull]
    report = failed.value.report
    assert balanced(report)
    assert report.produced == 6
    handled, letters = report.stages
    assert 1 <= handled.failed <= 3
    assert letters.received <= handled.failed


# -- the queue ------------------------------------------------------------------------------------

VERBS: dict[str, Callable[[BoundedQueue[int]], Any]] = {
    "get": lambda queue: queue.get(),
    "get_many": lambda queue: queue.get_many(1),
    "put": lambda queue: queue.put(0),
}


@both
@pytest.mark.parametrize("verb", VERBS)
def test_a_budget_is_as_many_calls_as_it_says(verb: str, eager: bool) -> None:
    """Invariant 10: 128 calls, then others run once, before the next call moves its item."""

    async def main() -> list[int]:
        queue: BoundedQueue[int] = BoundedQueue(0)
        for n in range(5 * BUDGET if verb != "put" else 0):
            queue.put_nowait(n)
        turn, turns = 0, list[int]()

        async def others() -> None:
            nonlocal turn
            while True:
                turn += 1
                await asyncio.sleep(0)

        beside = asyncio.create_task(others())
        await asyncio.sleep(0)
        for _ in range(4 * BUDGET):
            await VERBS[verb](queue)
            turns.append(turn)
        beside.cancel()
        return turns

    turns = run_virtual(main, eager=eager)
    assert turns == [turns[0] + call // BUDGET for call in range(4 * BUDGET)]


# -- threads --------------------------------------------------------------------------------------


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts how often threads called."""

    def __init__(self) -> None:
        self.calls = 0
        super().__init__()

    def call_soon_threadsafe(self, *args: Any, **options: Any) -> asyncio.Handle:  # type: ignore[override]  # as it is
        self.calls += 1
        return super().call_soon_threadsafe(*args, **options)


async def until(condition: Callable[[], bool]) -> None:
    """For what a thread does and tells nobody."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0)


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


def closed(loop: asyncio.AbstractEventLoop) -> None:
    """Close a loop under the run in it."""
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # that is what this is about
        work = task.get_coro()
        if inspect.iscoroutine(work) and inspect.getcoroutinestate(work) == inspect.CORO_CREATED:
            work.close()  # or Python warns that it was never awaited
    loop.close()


def closed_under(prepare: Callable[[Running[Any, Any]], Any]) -> Running[Any, Any]:
    """A run whose loop was closed under it, right after ``prepare`` was awaited in it."""
    loop = asyncio.new_event_loop()

    async def begin() -> Running[Any, Any]:
        running = await Pipeline(ignore, maxsize=100).__aenter__()
        await prepare(running)
        return running

    running = loop.run_until_complete(begin())
    closed(loop)
    return running


def from_thread(function: Callable[..., Any], *args: Any) -> BaseException | None:
    """What ``function`` raises in a thread."""
    raised: list[BaseException] = []

    def call() -> None:
        try:
            function(*args)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    return raised[0] if raised else None


def test_a_loop_that_was_closed_before_it_looked_takes_nothing_more() -> None:
    """Fault D6: it was about to look for what threads put, so a thread would not call it, and nobody would know."""

    async def put_once(running: Running[Any, Any]) -> None:
        assert from_thread(running.put_from_thread, 1) is None  # the loop does not run meanwhile

    running = closed_under(put_once)
    for _ in range(3):
        error = from_thread(running.put_from_thread, 2)
        assert isinstance(error, QueueShutDown)
        assert "the loop of this run is closed" in str(error)


def test_the_thread_of_a_loop_that_was_closed_is_told_so() -> None:
    """Fault D6: no advice to await something in a loop that is no more."""

    async def nothing(running: Running[Any, Any]) -> None: ...

    running = closed_under(nothing)
    with pytest.raises(QueueShutDown, match="the loop of this run is closed"):
        running.put_from_thread(1)


def test_a_blocking_source_that_waits_for_room_ends_with_its_loop() -> None:
    """Fault D6: nobody will ever make room; its thread ends, and the source is closed in it."""
    loop, ended = asyncio.new_event_loop(), threading.Event()

    @producer
    def numbers() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            ended.set()

    @consumer(maxsize=1)
    async def never(n: int) -> None:
        await asyncio.Event().wait()

    async def begin() -> None:
        running = await Pipeline(numbers, never).__aenter__()
        await until(lambda: running.statistics().produced == 2)
        for _ in range(1000):  # until it waits for room, which it tells nobody
            await asyncio.sleep(0)

    loop.run_until_complete(begin())
    closed(loop)
    assert ended.wait(PATIENCE)


def test_what_a_thread_feeds_after_its_loop_was_closed_is_refused() -> None:
    """Fault D6: also when it fed something before that the loop did not come to take."""
    loop, fed = asyncio.new_event_loop(), threading.Event()
    goes_on = [threading.Event(), threading.Event()]
    told: list[str] = []
    threads: list[threading.Thread] = []

    def work() -> None:
        for turn in goes_on:
            turn.wait(PATIENCE)
            try:
                feed(2)
                told.append("taken")
            except QueueShutDown:
                told.append("refused")
            fed.set()

    @consumer
    async def handle(n: int) -> None:
        threads.append(threading.Thread(target=copy_context().run, args=(work,)))
        threads[0].start()
        await asyncio.Event().wait()

    async def begin() -> None:
        running = await Pipeline(handle).__aenter__()
        await running.put(1)
        await until(lambda: bool(threads))

    loop.run_until_complete(begin())
    goes_on[0].set()
    assert fed.wait(PATIENCE)
    closed(loop)
    goes_on[1].set()
    threads[0].join(PATIENCE)
    assert told == ["taken", "refused"]


# -- priorities -----------------------------------------------------------------------------------


class Odd:
    """A priority that can be compared with some."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __lt__(self, other: Any) -> bool:
        if abs(self.number - other.number) == 7:
            raise TypeError("these two cannot be compared")
        return bool(self.number < other.number)


@pytest.fixture(params=["accelerated", "plain Python"])
def any_heapq(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The standard library's ``heapq`` in both of its forms, which leave a heap differently when they raise."""
    if request.param == "plain Python":
        spec = importlib.util.find_spec("heapq")
        assert spec is not None
        assert spec.loader is not None
        plain = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "_heapq", None)  # then its Python functions stay
        spec.loader.exec_module(plain)
        monkeypatch.undo()
        for module in [module for name, module in sys.modules.items() if name.startswith("asyncpc")]:
            for name in "heappush", "heappop":
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, getattr(plain, name))
    return str(request.param)


@pytest.mark.timeout(5)
@pytest.mark.parametrize("seed", range(8))
def test_a_priority_that_cannot_be_compared_changes_nothing(any_heapq: str, seed: int) -> None:
    """Whatever heapq does inside: a put that raised is not in, the others come in their order, and nothing hangs."""
    numbers = Random(seed).choices(range(30), k=40)
    kept: list[int] = []
    handled: list[int] = []

    @consumer(priority=Odd, maxsize=0)
    async def handle(n: int) -> None:
        handled.append(n)
        await asyncio.sleep(1)

    async def main() -> Report | None:
        async with Pipeline(handle) as running:
            running.pause()
            for number in numbers:
                try:
                    running.put_nowait(number)
                except TypeError:
                    continue
                kept.append(number)
            running.resume()
        return running.report

    try:
        report = run_virtual(main)
    except PipelineError as failed:  # two that were never compared before meet when one is taken
        report = failed.report
    assert report is not None
    assert len(kept) < len(numbers)
    left = [one.item for one in report.unfinished]
    assert sorted(handled + left) == sorted(kept)
    assert balanced(report)


# -- writers where branches meet ------------------------------------------------------------------


def passing(function: Callable[[Any], Any], name: str = "same") -> Consumer[Any, Any, ..., Any]:
    """A stage that gives on what ``function`` does."""
    made: Consumer[Any, Any, ..., Any] = consumer(name=name)(function)
    return made


@producer
async def endless(name: str) -> AsyncIterator[str]:
    n = 0
    while True:
        yield f"{name}{n}"
        n += 1


@both
def test_a_writer_that_was_woken_and_left_keeps_no_room(eager: bool) -> None:
    """A stop in the moment in which a source was woken for room: another branch uses that room, or would wait for it.

    Nobody else is there to wake it: the queue is empty, and its consumer waits for an item.
    """
    started: list[Running[Any, Any]] = []
    go_on: list[asyncio.Event] = []
    seen: list[str] = []

    @producer
    async def two() -> AsyncIterator[str]:
        yield "first"
        yield "second"
        yield "never asked for"

    @producer
    async def other() -> AsyncIterator[str]:
        yield "other"

    async def slow(item: str) -> str:
        await asyncio.sleep(5)
        return item

    @consumer(maxsize=1)
    async def last(item: str) -> None:
        seen.append(item)
        if item == "first":
            await go_on[0].wait()
        if item == "second":  # it was taken just now, which woke its source
            started[0].stop()

    async def main() -> Report:
        go_on.append(asyncio.Event())
        async with Pipeline(merge(two, other >> passing(slow)), last, drain_timeout=1000) as running:
            started.append(running)
            await asyncio.sleep(1)
            go_on[0].set()
            report = await running.wait()
            assert now() == pytest.approx(5)
            return report

    report = run_virtual(main, eager=eager)
    assert seen == ["first", "second", "other"]
    assert report.complete


@both
def test_a_writer_goes_past_those_who_leave(eager: bool) -> None:
    """It was their turn, but they are all cancelled in this moment: it need not wait behind nobody."""
    started: list[Running[Any, Any]] = []

    @producer
    async def other() -> AsyncIterator[str]:
        yield "other"

    async def stops(item: str) -> str:
        await asyncio.sleep(15)
        started[0].stop()  # the source that waits for its turn is cancelled
        return item

    @consumer(maxsize=3)
    async def last(item: str) -> None:
        await asyncio.sleep(10)

    async def main() -> Report:
        async with Pipeline(merge(endless("n"), other >> passing(stops)), last, drain_timeout=1000) as running:
            started.append(running)
            return await running.wait()

    report = run_virtual(main, eager=eager)
    assert report.complete
    assert report.stages[0].out_waited == 0


@both
def test_what_goes_past_those_who_wait_is_counted_in_an_overfull_queue_too(eager: bool) -> None:
    """A queue that ``feed`` made longer than ever: a burst of another source still ends when it is their turn."""
    seen: list[str] = []
    fed: list[float] = []
    started: list[Running[Any, Any]] = []

    def queued() -> int:
        return started[0].statistics().stages[0].queued

    @producer
    async def burst() -> AsyncIterator[str]:
        while not fed or queued() != 5:  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.5)
        for n in range(6):
            yield f"burst{n}"

    @consumer(maxsize=8)
    async def last(item: str) -> None:
        seen.append(item)
        if now() >= 20 and not fed:
            fed.append(now())
            for n in range(10):
                feed(f"fed{n}")
        await asyncio.sleep(1)

    async def main() -> None:
        async with Pipeline(merge(endless("n"), burst), last, drain_timeout=0) as running:
            started.append(running)
            await asyncio.sleep(60)
            await running.drain()

    run_virtual(main, eager=eager)
    begun = seen.index("burst0")
    assert [item.rstrip("0123456789") for item in seen[begun : begun + 3]] == ["burst", "burst", "n"]


@both
def test_a_cancelled_branch_that_gives_something_all_the_same_does_not_wait_for_room(eager: bool) -> None:
    """Fault B4: its run has failed, so nobody will make room; it must not hold up the end until the deadline."""

    @producer
    async def other() -> AsyncIterator[str]:
        yield "other"

    async def stubborn(item: str) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0.1)
        return item

    @consumer(maxsize=2)
    async def last(item: str) -> None:
        await asyncio.sleep(1)
        raise ValueError

    async def main() -> None:
        try:
            await Pipeline(merge(endless("n"), other >> passing(stubborn)), last, drain_timeout=1000)
        finally:
            assert now() == pytest.approx(1.1)

    with pytest.raises(PipelineError) as failed:
        run_virtual(main, eager=eager)
    assert balanced(failed.value.report)


@both
def test_a_source_that_ignored_its_stop_waits_for_no_room_once_the_run_has_failed(eager: bool) -> None:
    """Fault B4: it waits for its turn already, and is not cancelled once more; it is let in, and ends."""

    @producer
    async def stubborn() -> AsyncIterator[str]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            yield "one more"

    @consumer(maxsize=2)
    async def last(item: str) -> None:
        await asyncio.sleep(10)
        raise ValueError

    async def main() -> None:
        async with Pipeline(merge(stubborn, endless("n")), last, drain_timeout=1000) as running:
            await asyncio.sleep(1)
            running.stop()  # the queue is full
            try:
                await running.wait()
            finally:
                assert now() == pytest.approx(10)

    with pytest.raises(PipelineError) as failed:
        run_virtual(main, eager=eager)
    assert balanced(failed.value.report)


@pytest.fixture
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor of endless speed: no run of items ends because it took too long."""
    for module in [module for name, module in sys.modules.items() if name.startswith("asyncpc")]:
        if hasattr(module, "perf_counter"):
            monkeypatch.setattr(module, "perf_counter", lambda: 0.0)


def calls_of(pipeline: Pipeline[Any, Any]) -> int:
    """How many calls of Python functions a run of it makes."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    async def main() -> None:
        sys.setprofile(count)
        try:
            await pipeline
        finally:
            sys.setprofile(None)

    run_virtual(main)
    return calls


def test_where_branches_met_and_one_is_left_an_item_costs_little_more_than_elsewhere(no_clock: None) -> None:
    """Its writer asks for its turn when the queue is full, not for each item."""
    one, few, many = range(1), range(1000), range(5000)
    alone = calls_of(source(many) >> ignore) - calls_of(source(few) >> ignore)
    left = calls_of(merge(many, one) >> ignore) - calls_of(merge(few, one) >> ignore)
    after = calls_of(merge(many, few) >> ignore) - calls_of(merge(few, few) >> ignore)
    assert left < 1.6 * alone
    assert after < 1.6 * alone


def test_where_branches_meet_and_nobody_waits_an_item_costs_no_more_than_elsewhere(no_clock: None) -> None:
    """While there is always room, no writer asks for its turn, unless the queue is longer than ever."""

    @producer
    async def bursts(count: int) -> AsyncIterator[int]:
        for n in range(count):
            if n % 20 == 0:
                await asyncio.sleep(1)
            yield n

    alone = calls_of(bursts(4000) >> ignore) - calls_of(bursts(1000) >> ignore)
    merged = calls_of(merge(bursts(4000), range(1)) >> ignore) - calls_of(merge(bursts(1000), range(1)) >> ignore)
    assert merged == pytest.approx(alone, rel=0.05)


@both
def test_the_peak_of_a_queue_where_branches_meet_is_the_most_there_ever_was(eager: bool) -> None:
    """Between waits for a turn nobody asks how long the queue is, but each new peak is seen."""
    peak = 0
    started: list[Running[Any, Any]] = []

    @consumer(maxsize=64)
    async def last(item: Any) -> None:
        nonlocal peak
        peak = max(peak, started[0].statistics().stages[-1].queued + 1)
        await asyncio.sleep(0.01)

    async def main() -> Report:
        parts = merge(source(range(10), "a"), source(range(7), "b") >> passing(_same))
        async with Pipeline(parts, last) as running:
            started.append(running)
            return await running.wait()

    report = run_virtual(main, eager=eager)
    assert report.stages[-1].peak_queued >= peak > 10


async def _same(item: Any) -> Any:
    return item


@both
def test_a_writer_keeps_the_share_that_it_was_woken_for(no_clock: None, eager: bool) -> None:
    """More room comes before it runs, and those behind it leave: that makes no room for it alone."""
    started: list[Running[Any, Any]] = []
    gate: list[asyncio.Event] = []
    seen: list[str] = []

    @producer
    async def late() -> AsyncIterator[str]:
        await asyncio.sleep(1)
        yield "late"

    @consumer(maxsize=6)
    async def last(item: str) -> None:
        seen.append(item[0])
        if len(seen) == 1:
            await gate[0].wait()
        if len(seen) == 4:  # two were woken just now, as half of the room was free; the third leaves
            started[0].stop()

    async def main() -> None:
        gate.append(asyncio.Event())
        a, b = source([f"a{n}" for n in range(20)], "a"), source([f"b{n}" for n in range(20)], "b")
        parts: Any = merge(late, a >> passing(_same, "same a"), b >> passing(_same, "same b"))
        async with Pipeline(parts, last, drain_timeout=1000) as running:
            started.append(running)
            await asyncio.sleep(2)
            gate[0].set()
            report = await running.wait()
        assert report.complete

    run_virtual(main, eager=eager)
    after = seen.index("l") + 1
    assert sorted(seen[after : after + 2]) == ["a", "b"]
