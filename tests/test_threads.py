"""Threads: handlers and sources that block, and items put from any thread; nothing lost, the bound kept, no hang."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from support import BUSY, results, switching_often

from asyncpc import (
    DefinitionError,
    Pipeline,
    PipelineError,
    QueueShutDown,
    StateError,
    consumer,
    feed,
    merge,
    producer,
    source,
)
from asyncpc.offload.bridge import bridge_to
from asyncpc.run.accounting import Accounts as Books_

pytestmark = pytest.mark.realtime

PATIENCE = 20.0  # seconds after which a thread that should have gone on fails its test
var: ContextVar[int] = ContextVar("var", default=0)


@consumer
async def ignore(item: object) -> None: ...


async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """What a thread that belongs to nobody gives."""
    result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()

    def work() -> None:
        try:
            value, error = function(*args), None
        except BaseException as raised:
            value, error = None, raised
        loop.call_soon_threadsafe(result.set_result, (value, error))

    thread = threading.Thread(target=work)
    thread.start()
    value, error = await result
    thread.join()
    if error is not None:
        raise error
    return value


async def until(condition: Callable[[], bool]) -> None:
    """For what a thread does and tells nobody."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


# -- handlers --------------------------------------------------------------------------------------


async def test_sync_handlers_run_in_threads_of_their_own() -> None:
    """As many at once as the concurrency says, none in the loop's thread, and all have ended with the run."""
    together = threading.Barrier(3)
    threads: set[threading.Thread] = set()

    @consumer(concurrency=3)
    def double(n: int) -> int:
        threads.add(threading.current_thread())
        together.wait(PATIENCE)
        return 2 * n

    assert sorted(await results(source(range(30)) >> double)) == [2 * n for n in range(30)]
    assert len(threads) == 3
    assert threading.main_thread() not in threads
    assert not any(thread.is_alive() for thread in threads)
    together.abort()
    with pytest.raises(threading.BrokenBarrierError):
        double(1)  # called, it is just the function, here


async def test_sync_generators_give_any_number_under_backpressure() -> None:
    """Values go on before the generator has ended, and it is not run through while nobody takes them."""
    given = 0
    closed = threading.Event()

    @consumer
    def count(n: int) -> Iterator[int]:
        nonlocal given
        try:
            for value in range(n):
                given += 1
                yield value
        finally:
            closed.set()

    async with Pipeline([10**6], count, maxsize=10).stream() as values:
        assert [await anext(values) for _ in range(3)] == [0, 1, 2]
        await asyncio.sleep(0.05)
        assert given < 10 + 2 * 128 + 3
    assert closed.is_set()
    assert await results(source([3, 0, 2]) >> count) == [0, 1, 2, 0, 1]


async def test_context_variables_arrive_and_do_not_leak() -> None:
    """Each call sees the context of who started the run, and no change that another call made (fault B12)."""
    var.set(7)

    @consumer
    def look(n: int) -> int:
        seen = var.get()
        var.set(n)
        return seen

    assert await results(source([1, 2, 3]) >> look) == [7, 7, 7]
    assert var.get() == 7


async def test_a_resource_is_given_to_a_sync_handler() -> None:
    """``context=`` is opened in the loop, once per worker, and closed after the last call."""
    log: list[str] = []

    @asynccontextmanager
    async def resource() -> AsyncIterator[str]:
        log.append("open")
        yield "resource"
        log.append("closed")

    @consumer(context=resource)
    def use(n: int, resource: str) -> None:
        log.append(f"{resource} {n}")

    await (source([1, 2]) >> use)
    assert log == ["open", "resource 1", "resource 2", "closed"]


@pytest.mark.parametrize("error", [ValueError, StopIteration])
async def test_errors_come_out_and_are_retried(error: type[Exception]) -> None:
    """What a thread raises is what the policies see; StopIteration too, which no coroutine may raise."""
    calls: Counter[int] = Counter()

    @consumer(retry=2, on_error="skip")
    def fragile(n: int) -> None:
        calls[n] += 1
        if n == 3 or calls[n] == 1:
            raise error(n)

    report = await (source(range(5)) >> fragile)
    assert (report.done, report.failed) == (4, 1)
    assert set(calls.values()) == {2}


async def test_a_call_that_outlives_its_timeout_keeps_its_slot(caplog: pytest.LogCaptureFixture) -> None:
    """It fails in time and is told in the log; no second call begins in its place before it has ended (fault C11)."""
    release = threading.Event()
    running, peak = 0, 0

    @consumer(timeout=0.05, on_error="skip")
    def slow(n: int) -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        if n == 0:
            assert release.wait(PATIENCE)
        running -= 1

    async with Pipeline([0, 1, 2], slow) as run:
        await until(lambda: run.statistics().failed == 1)
        await asyncio.sleep(0.1)
        assert run.statistics().done == 0  # the others wait, and their time does not run
        release.set()
        report = await run.wait()
    assert (report.done, report.failed, peak) == (2, 1, 1)
    assert "cannot be interrupted" in caplog.text


async def test_a_drain_does_not_wait_for_a_stuck_thread(caplog: pytest.LogCaptureFixture) -> None:
    """Promise 5: timeout + 100 ms; its item and worker are in the report, and nobody waits at exit (fault D4)."""
    release, begun = threading.Event(), threading.Event()

    @consumer
    def stuck(n: int) -> None:
        begun.set()
        release.wait(PATIENCE)

    async with Pipeline(stuck) as running:
        await running.put(1)
        await until(begun.is_set)
        began = time.monotonic()
        report = await running.drain(timeout=0.05)
        assert time.monotonic() - began < 0.05 + BUSY
    assert [one.item for one in report.unfinished] == [1]
    assert (report.abandoned, report.complete) == (("stuck-1",), False)
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
        "stage 'stuck': left behind, still in a call: asyncpc:stuck-1"
    ]
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "asyncpc:stuck-1")
    release.set()


async def test_a_thread_that_cannot_start_costs_one_call() -> None:
    """The system may refuse a thread: that call fails and is not made later, and the next one tries again."""
    done: list[int] = []

    @consumer(on_error="skip")
    def handle(n: int) -> None:
        done.append(n)

    async with Pipeline(handle) as running:
        before = threading.stack_size(1 << 46)
        try:
            await running.put(1)
            await until(lambda: running.statistics().failed == 1)
        finally:
            threading.stack_size(before)
        await running.put(2)
    report = running.report
    assert report is not None
    assert (report.done, report.failed, done) == (1, 1, [2])


async def test_a_failure_waits_for_calls_under_way() -> None:
    """Nothing of a run goes on after it (invariant 6): a sibling's call ends before the error comes out."""
    both = threading.Barrier(2)
    ended: list[int] = []

    @consumer(concurrency=2)
    def handle(n: int) -> None:
        both.wait(PATIENCE)
        if n == 0:
            raise ValueError(n)
        time.sleep(0.1)
        ended.append(n)

    with pytest.raises(PipelineError) as caught:
        await (source([0, 1]) >> handle)
    assert ended == [1]
    assert caught.value.report.failed == 1


def test_what_does_not_fit_is_refused() -> None:
    """Each message names the stage and the cure."""

    async def coroutine(n: int) -> None: ...

    def plain(n: int) -> None: ...

    for wrong, cure in (
        (lambda: consumer(run_in="thread")(coroutine), "'coroutine' is async, so it runs in the loop"),
        (lambda: consumer(run_in="loop")(plain), "'plain' is a plain function, which would block the loop"),
        (lambda: consumer(run_in="moon")(plain), "must be 'loop', 'thread', 'process' or 'interpreter'"),  # type: ignore[call-overload]  # the mistake
    ):
        with pytest.raises(DefinitionError, match=cure):
            wrong()


async def test_a_plain_function_that_gives_a_coroutine_is_an_error() -> None:
    """A forgotten ``async`` would otherwise pass coroutines on that nobody awaits."""
    with pytest.raises(PipelineError) as caught:
        await (source([1]) >> consumer(lambda n: asyncio.sleep(0)))
    assert "write its function as 'async def'" in str(caught.value.exceptions[0])


# -- sources ---------------------------------------------------------------------------------------


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
    assert [thread.name for thread in closed] == ["asyncpc:numbers"]


async def test_a_stop_does_not_wait_for_a_source_that_blocks(caplog: pytest.LogCaptureFixture) -> None:
    """The intake ends at once; the thread is left until its item comes, which is not taken, and the log says so."""
    items: queue.SimpleQueue[int] = queue.SimpleQueue()
    closed = threading.Event()

    @producer
    def blocked() -> Iterator[int]:
        try:
            while True:
                yield items.get()
        finally:
            closed.set()

    items.put(1)
    async with Pipeline(blocked, ignore) as running:
        await until(lambda: running.statistics().done == 1)
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


# -- put_from_thread -------------------------------------------------------------------------------


async def test_eight_threads_lose_nothing_and_keep_the_bound() -> None:
    """800,000 items from threads that are switched as often as can be: each arrives once, in its thread's order."""
    each, threads, maxsize = 5_000 if asyncio.get_running_loop().get_debug() else 100_000, 8, 64
    last = [-1] * threads

    @consumer
    async def note(item: int) -> None:
        thread, n = item % threads, item // threads
        assert n == last[thread] + 1
        last[thread] = n

    with switching_often():
        async with Pipeline(note, maxsize=maxsize) as running:

            def put(thread: int) -> None:
                for n in range(each):
                    running.put_from_thread(n * threads + thread)

            await asyncio.gather(*[in_thread(put, thread) for thread in range(threads)])
    report = running.report
    assert report is not None
    assert report.done == report.produced == each * threads
    assert last == [each - 1] * threads
    assert report.stages[0].peak_queued <= maxsize


async def test_what_a_thread_feeds_at_the_very_end_is_refused_or_told() -> None:
    """Invariant 2: a call left behind in its thread feeds while the report is made: it is too late, and is told."""
    begun, go, fed = threading.Event(), threading.Event(), threading.Event()
    said: list[str] = []

    @consumer(name="stuck")
    def stuck(n: int) -> None:
        begun.set()
        go.wait(PATIENCE)
        try:
            feed(99)
            said.append("accepted")
        except QueueShutDown:
            said.append("refused")
        fed.set()

    class Books(Books_):
        """The books as they are, which are read just before the thread feeds."""

        __slots__ = ()

        def left(self) -> Any:
            left = super().left()
            go.set()
            while not fed.is_set():
                pass
            return left

    async with Pipeline(stuck) as running:
        await running.put(1)
        await until(begun.is_set)
        running._run.accounts.__class__ = Books
        report = await running.drain(timeout=0)
    items = [one.item for one in report.unfinished]
    assert (said, items, report.fed) in ((["refused"], [1], 0), (["accepted"], [1, 99], 1))


async def test_a_full_pipeline_makes_threads_wait() -> None:
    """Backpressure reaches the thread: TimeoutError after its timeout, or the item goes in when there is room."""
    gate = asyncio.Event()

    @consumer
    async def wait(n: int) -> None:
        await gate.wait()

    async with Pipeline(wait, maxsize=1) as running:
        await in_thread(running.put_from_thread, 1)
        await until(lambda: running.statistics().stages[0].in_flight == 1)
        await in_thread(running.put_from_thread, 2)
        with pytest.raises(TimeoutError):
            await in_thread(running.put_from_thread, 3, 0.05)
        with pytest.raises(TimeoutError):
            await in_thread(running.put_from_thread, 3, 0)
        waiting = asyncio.ensure_future(in_thread(running.put_from_thread, 4))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        gate.set()
        await waiting
    assert running.report is not None
    assert running.report.done == 3


async def test_a_drain_refuses_threads_that_wait() -> None:
    """Each waiting thread is told at once and its item was not taken; what was handed over before is handled."""
    gate = asyncio.Event()

    @consumer
    async def wait(n: int) -> None:
        await gate.wait()

    async with Pipeline(wait, maxsize=1) as running:
        for n in range(2):
            await running.put(n)
        waiting = [asyncio.ensure_future(in_thread(running.put_from_thread, n)) for n in range(10, 15)]
        await asyncio.sleep(0.02)
        running.stop()
        for one in waiting:
            with pytest.raises(QueueShutDown, match="is draining: the item was not taken"):
                await one
        gate.set()
    with pytest.raises(QueueShutDown):
        await in_thread(running.put_from_thread, 1)
    with pytest.raises(QueueShutDown):
        running.put_from_thread(1)  # after the end it is refused here as well, not called a mistake
    assert running.report is not None
    assert running.report.done == 2


@pytest.mark.parametrize("moment", [0, 1, 10, 100, 1000])
async def test_a_drain_in_the_midst_of_a_burst_balances(moment: int) -> None:
    """Whenever the drain comes: each put that returned is handled, each that was refused is not."""
    returned: list[int] = []
    handled: list[int] = []

    @consumer
    async def note(n: int) -> None:
        handled.append(n)

    async with Pipeline(note, maxsize=10) as running:

        def put() -> None:
            for n in range(10**6):
                running.put_from_thread(n)
                returned.append(n)

        putting = asyncio.ensure_future(in_thread(put))
        await until(lambda: len(handled) > moment)
        report = await running.drain()
        with pytest.raises(QueueShutDown):
            await putting
    assert handled == returned
    assert report.done == report.produced == len(returned)


@pytest.mark.parametrize("priority", [None, abs])
async def test_the_loops_own_thread_is_refused(priority: Callable[[int], int] | None) -> None:
    """It would wait for itself (fault D7); whatever the queue's order, and also when the run drains."""

    @consumer(priority=priority)
    async def handle(n: int) -> None: ...

    async with Pipeline(handle) as running:
        with pytest.raises(StateError, match=r"await running\.put"):
            running.put_from_thread(1)
        with pytest.raises(StateError, match=r"running\.call"):
            running.call_from_thread(1)
        running.stop()
        with pytest.raises(QueueShutDown):
            running.put_from_thread(1)


async def test_where_nothing_can_be_put_a_thread_is_told() -> None:
    """A pipeline with several first stages takes no items from outside, and says so as ``put`` does."""

    @consumer
    async def one(n: int) -> None: ...

    @consumer
    async def other(n: int) -> None: ...

    pipeline: Pipeline[Any, Any] = merge(source([1]) >> one, source([2]) >> other) >> ignore
    async with pipeline as running:
        for call in running.put_nowait, running.put_from_thread, running.call_from_thread:
            with pytest.raises(StateError, match="merges several first stages"):
                call(1)


async def test_the_loop_does_not_stop_looking_while_a_thread_hands_over() -> None:
    """An item handed over in the moment in which the loop finds nothing more is seen, not left until the next one."""
    handled: list[int] = []
    stopped_looking = threading.Event()

    @consumer
    async def note(n: int) -> None:
        handled.append(n)

    async with Pipeline(note) as running:
        bridge = bridge_to(running._run.first)
        looks = 0

        def slowly() -> bool:
            nonlocal looks
            looks += 1
            if looks == 2:  # of the thread, at its second item
                stopped_looking.wait(0.2)  # unless that is what is prevented
            return False

        def put() -> None:
            running.put_from_thread(1)
            running.put_from_thread(2)

        bridge._is_dead = slowly
        putting = asyncio.ensure_future(in_thread(put))
        await asyncio.sleep(0)
        while looks < 2:
            pass  # the loop does not run meanwhile
        for _ in range(5):
            await asyncio.sleep(0)  # it finds the first item, and then nothing more
        stopped_looking.set()
        await putting
        await until(lambda: handled == [1, 2])


@pytest.mark.parametrize("full", [False, True])
def test_a_closed_loop_is_an_error_never_a_hang(full: bool) -> None:
    """A run whose loop was closed under it refuses, and wakes nobody to wait for ever (fault D6)."""
    loop = asyncio.new_event_loop()

    async def begin() -> Any:
        running = await Pipeline(ignore, maxsize=1).__aenter__()
        if full:
            running.put_nowait(1)
        return running

    running = loop.run_until_complete(begin())
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # that is what this is about
    loop.close()
    failed: list[BaseException] = []

    def put() -> None:
        try:
            running.put_from_thread(2)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=put)
    thread.start()
    thread.join(PATIENCE)
    assert isinstance(failed[0], QueueShutDown)


async def test_a_burst_wakes_the_loop_once() -> None:
    """Not once per item (fault D8): a wake-up is a system call and a switch of threads."""
    loop = asyncio.get_running_loop()
    calls = 0
    call = loop.call_soon_threadsafe

    class Counting:
        def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
            self.loop = loop

        def __getattr__(self, name: str) -> Any:
            return getattr(self.loop, name)

        def call_soon_threadsafe(self, *args: Any) -> Any:
            nonlocal calls
            calls += 1
            return call(*args)

    async with Pipeline(ignore, maxsize=1000) as running:
        bridge_to(running._run.first)._loop = Counting(loop)  # type: ignore[assignment]  # a loop that counts

        def put() -> None:
            for n in range(100):
                running.put_from_thread(n)

        threads = [threading.Thread(target=put) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()  # the loop does not run meanwhile
        assert calls == 1
    assert running.report is not None
    assert running.report.done == 400


# -- call_from_thread ------------------------------------------------------------------------------


@consumer(concurrency=3)
async def halve(n: int) -> float:
    if n < 0:
        raise ValueError(n)
    await asyncio.sleep(0)
    return n / 2


async def test_threads_ask_and_each_is_answered() -> None:
    """As ``call``: each thread gets the result of its own item, or its error alone, and the run goes on."""

    @consumer
    def describe(half: float) -> str:
        return f"half is {half}"

    async with Pipeline(halve, describe, maxsize=2) as running:

        def ask(first: int) -> None:
            for n in range(first, first + 50):
                assert running.call_from_thread(n) == f"half is {n / 2}"

        with switching_often():
            await asyncio.gather(*[in_thread(ask, 100 * thread) for thread in range(8)])
        with pytest.raises(ValueError, match="-1"):
            await in_thread(running.call_from_thread, -1)
        assert await in_thread(running.call_from_thread, 1) == "half is 0.5"
    report = running.report
    assert report is not None
    assert (report.done, report.failed) == (401, 1)


async def test_a_call_from_a_thread_is_refused_where_call_is() -> None:
    """The same errors, at once, and nothing was accepted; ``timeout`` is for the room."""
    gate = asyncio.Event()

    @consumer
    async def several(n: int) -> AsyncIterator[int]:
        yield n

    @consumer
    async def wait(n: int) -> int:
        await gate.wait()
        return n

    async with Pipeline(several) as running:
        with pytest.raises(StateError, match="may give more than one result"):
            await in_thread(running.call_from_thread, 1)
    async with Pipeline(wait, maxsize=1) as running:
        asking = [asyncio.ensure_future(in_thread(running.call_from_thread, n)) for n in range(2)]
        await until(lambda: running.statistics().stages[0].received == 2)
        with pytest.raises(TimeoutError, match="time is up"):
            await in_thread(running.call_from_thread, 2, 0.01)
        gate.set()
        assert await asyncio.gather(*asking) == [0, 1]
    with pytest.raises(QueueShutDown):
        await in_thread(running.call_from_thread, 1)
    assert running.report is not None
    assert running.report.done == 2


async def test_a_thread_that_asked_is_told_when_its_run_ends() -> None:
    """In a hand, in a queue, or waiting for room: each is told by name, and nobody hangs (fault D6)."""

    @consumer
    async def never(n: int) -> None:
        await asyncio.Event().wait()

    async with Pipeline(never, maxsize=1) as running:
        asking = [asyncio.ensure_future(in_thread(running.call_from_thread, n)) for n in range(3)]
        await until(lambda: running.statistics().stages[0].received == 2)
        report = await running.drain(timeout=0)
        for one in asking:
            with pytest.raises(QueueShutDown):
                await one
    assert len(report.unfinished) == 2


def test_a_thread_that_asked_is_told_that_the_loop_was_closed() -> None:
    """Its item was accepted, and nobody will ever answer (fault D6)."""
    loop = asyncio.new_event_loop()
    accepted = asyncio.Event()

    @consumer
    async def never(n: int) -> None:
        accepted.set()
        await asyncio.Event().wait()

    failed: list[BaseException] = []

    async def begin() -> threading.Thread:
        running = await Pipeline(never).__aenter__()

        def ask() -> None:
            try:
                running.call_from_thread(1)
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        await accepted.wait()
        return thread

    thread = loop.run_until_complete(begin())
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # that is what this is about
    loop.close()
    thread.join(PATIENCE)
    assert isinstance(failed[0], QueueShutDown)
    assert "the loop of this run is closed: the result of this item is lost" in str(failed[0])


# -- feed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("priority", [None, abs])
async def test_threads_feed_and_the_run_ends_after_all_of_it(priority: Callable[[int], int] | None) -> None:
    """Invariant 3: a crawl in threads ends by itself and not before, over and over, with the bound in nobody's way."""
    seen: Counter[int] = Counter()

    @consumer(concurrency=3, maxsize=1, priority=priority)
    def crawl(n: int) -> int:
        for child in (2 * n, 2 * n + 1):
            if child < 32:
                feed(child)
        return n

    @consumer
    async def save(n: int) -> None:
        seen[n] += 1

    with switching_often():
        for _ in range(5):
            seen.clear()
            report = await (source([1]) >> crawl >> save)
            assert seen == Counter(range(1, 32))
            assert (report.produced, report.fed, report.done) == (1, 30, 31)


async def test_a_generator_in_a_thread_feeds() -> None:
    """Between its values as well: each step is a call of its own."""

    @consumer
    def crawl(n: int) -> Iterator[int]:
        yield n
        if n < 5:
            feed(n + 1)

    assert await results(source([0]) >> crawl) == list(range(6))


async def test_what_a_thread_feeds_in_a_burst_wakes_the_loop_once() -> None:
    """And the books know it: all of a thousand items are there when the handler that fed them is done (fault D8)."""
    loop = asyncio.get_running_loop()
    calls = 0
    call = loop.call_soon_threadsafe

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(loop, name)

        def call_soon_threadsafe(self, *args: Any) -> Any:
            nonlocal calls
            calls += 1
            return call(*args)

    blocked = threading.Event()

    @consumer
    def handle(n: int) -> None:
        if n == 0:
            assert blocked.wait(PATIENCE)
            for child in range(1, 1001):
                feed(child)
            blocked.clear()

    async with Pipeline(handle, maxsize=1) as running:
        bridge_to(running._run.first)._loop = Counting()  # type: ignore[assignment]  # a loop that counts
        await running.put(0)
        await until(lambda: running.statistics().stages[0].in_flight == 1)
        blocked.set()
        while blocked.is_set():
            pass  # the loop does not run meanwhile
        assert calls == 1
    report = running.report
    assert report is not None
    assert (report.produced, report.fed, report.done) == (1, 1000, 1001)


async def test_a_thread_that_feeds_too_late_is_told() -> None:
    """A call that outlived its timeout or its run gets a named error in its thread, never silence (faults C11, D4)."""
    release, begun = threading.Event(), threading.Event()
    told: list[BaseException] = []

    @consumer(timeout=0.02, on_error="skip")
    def slow(n: int) -> None:
        begun.set()
        assert release.wait(PATIENCE)
        try:
            feed(n + 1)
        except BaseException as error:
            told.append(error)

    async with Pipeline([1], slow) as running:
        await until(lambda: running._run.first._is_shutdown)  # the call has failed, and nothing else is left
        release.set()
        report = await running.wait()
    assert (report.fed, report.failed) == (0, 1)
    await until(lambda: len(told) == 1)
    release.clear()
    begun.clear()
    async with Pipeline(slow) as running:
        await running.put(1)
        await until(begun.is_set)
        await running.drain(timeout=0)
    release.set()
    await until(lambda: len(told) == 2)
    for error in told:
        assert isinstance(error, QueueShutDown)
        assert "feed() after the end of its run" in str(error)


async def test_a_thread_sees_what_its_feed_did_wrong() -> None:
    """An order that fails is told to the handler that fed; so is a pipeline that nothing can be fed into."""

    @consumer(priority=lambda n: 1 / n)
    def handle(n: int) -> None:
        feed(0)

    with pytest.raises(PipelineError) as caught:
        await (source([1]) >> handle)
    assert isinstance(caught.value.exceptions[0], ZeroDivisionError)

    @consumer
    def feeds(n: int) -> None:
        feed(n)

    @consumer
    async def other(n: int) -> None: ...

    with pytest.raises(PipelineError) as caught:
        await (merge(source([1]) >> feeds, source([2]) >> other) >> ignore)
    assert isinstance(caught.value.exceptions[0], StateError)


async def test_an_item_on_its_way_is_moved_when_somebody_else_was_woken_for_its_place() -> None:
    """Protects promise 1: a caller that is woken finds the room taken by an item that is not in the queue yet."""
    handled: list[str] = []
    begin: queue.SimpleQueue[None] = queue.SimpleQueue()
    go_on, begun = asyncio.Event(), asyncio.Event()

    def put() -> None:
        begin.get()
        running.put_from_thread("from a thread")

    @consumer
    async def handle(item: str) -> None:
        if item == "first":
            begin.put(None)
            while thread.is_alive():
                pass  # the loop does not run meanwhile
            feed("fed")  # which takes the last place before the other item is in the queue
            begun.set()
            await go_on.wait()
        handled.append(item)

    async with Pipeline(handle, maxsize=1) as running:
        thread = threading.Thread(target=put)
        thread.start()
        await running.put("first")
        await begun.wait()
        caller = asyncio.ensure_future(running.put("from the loop"))
        for _ in range(3):
            await asyncio.sleep(0)  # it waits for room
        go_on.set()
        async with asyncio.timeout(PATIENCE):
            await caller
    assert sorted(handled) == ["fed", "first", "from a thread", "from the loop"]
