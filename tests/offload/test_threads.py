"""Handlers that block: they run in threads of their own, and hold up nobody."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import Any, cast

import pytest
from support import BUSY, PATIENCE, ignore, until

from asyncpc import Batch, DefinitionError, Pipeline, PipelineError, Rate, consumer, feed, source
from asyncpc.offload.calls import ThreadCaller
from asyncpc.offload.threads import Returns, WorkerThreads
from asyncpc.testing import collect

pytestmark = pytest.mark.realtime


async def test_functions_given_to_options_are_called_in_the_loop() -> None:
    """They may touch what belongs to the loop, whichever thread the handler runs in, or puts items in from."""
    called: dict[str, set[bool]] = {}

    def here(what: str, value: Any) -> Any:
        called.setdefault(what, set()).add(threading.get_ident() == loop_thread)
        return value

    @consumer(
        key=lambda n: here("key", n),
        priority=lambda n: here("priority", n),
        rate=Rate(1000, key=lambda n: here("rate", n)),
        maxsize=2,
        overflow="drop_newest",
        on_drop=lambda n: here("on_drop", n),
        on_error=lambda failure: here("on_error", failure),
    )
    def handle(n: int) -> None:
        if here("handler", n) == 0:
            raise ValueError
        ended.wait()

    loop_thread, ended = threading.get_ident(), threading.Event()
    pipeline = Pipeline(handle, drain_timeout=0, on_unfinished=lambda items: here("on_unfinished", items))
    with suppress(PipelineError):
        async with pipeline as running:
            await asyncio.to_thread(running.put_from_thread, 0)
            await until(lambda: "on_error" in called)
            for n in range(1, 9):
                await asyncio.to_thread(running.put_from_thread, n)
            running.stop()
            ended.set()
    names = "key", "priority", "rate", "on_drop", "on_error", "on_unfinished"
    assert called == {"handler": {False}, **{name: {True} for name in names}}


async def test_sync_handlers_run_in_threads_of_their_own() -> None:
    """As many at once as the concurrency says, none in the loop's thread, and all have ended with the run."""
    together = threading.Barrier(3)
    threads: set[threading.Thread] = set()

    @consumer(concurrency=3)
    def double(n: int) -> int:
        threads.add(threading.current_thread())
        together.wait(PATIENCE)
        return 2 * n

    assert sorted(await collect(source(range(30)) >> double)) == [2 * n for n in range(30)]
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
    assert await collect(source([3, 0, 2]) >> count) == [0, 1, 2, 0, 1]


async def test_a_value_does_not_wait_for_the_next_one() -> None:
    """A generator that follows a log gives a line, then blocks: what it has given goes on at once."""
    go_on = threading.Event()

    @consumer
    def lines(n: int) -> Iterator[int]:
        yield from range(n)
        assert go_on.wait(PATIENCE)
        yield n

    async with Pipeline([3], lines).stream() as values:
        assert [await anext(values) for _ in range(3)] == [0, 1, 2]
        go_on.set()
        assert [value async for value in values] == [3]


async def test_values_before_a_timeout_are_passed_on() -> None:
    """As those of an async generator; the failure is told in time, and the generator closed when it comes back."""
    go_on, closed, got = threading.Event(), threading.Event(), list[int]()

    @consumer(timeout=0.1, on_error="skip")
    def lines(n: int) -> Iterator[int]:
        try:
            yield from range(n)
            go_on.wait(PATIENCE)
            yield n
        finally:
            closed.set()

    @consumer
    async def keep(n: int) -> None:
        got.append(n)

    async with source([3]) >> lines >> keep as running:
        await until(lambda: running.statistics().failed == 1)
        assert (got, closed.is_set()) == ([0, 1, 2], False)
        go_on.set()
        await running.wait()
    assert got == [0, 1, 2]
    assert closed.is_set()


async def test_a_timeout_limits_all_that_a_generator_does_for_an_item() -> None:
    """Not each of its values, as if none took too long."""
    given = 0

    @consumer(timeout=0.2, on_error="skip")
    def slow(n: int) -> Iterator[int]:
        nonlocal given
        for given in range(n):
            ends = time.monotonic() + 0.02
            while time.monotonic() < ends:
                pass
            yield given

    report = await (source([1000]) >> slow >> ignore)
    assert (report.stages[0].failed, report.stages[0].done) == (1, 0)
    assert 0 < given < 100


async def test_the_time_of_a_generator_does_not_run_while_its_values_wait() -> None:
    """A slow stage behind it is no fault of its own."""

    @consumer(timeout=0.1)
    def count(n: int) -> Iterator[int]:
        yield from range(n)

    @consumer(maxsize=1)
    async def slow(n: int) -> None:
        if n % 100 == 0:
            await asyncio.sleep(0.2)

    report = await (source([400]) >> count >> slow)
    assert (report.failed, report.done) == (0, 400)


var: ContextVar[int] = ContextVar("var", default=0)


async def test_context_variables_arrive_and_do_not_leak() -> None:
    """Each call sees the context of who started the run, and no change that another call made (fault B12)."""
    var.set(7)

    @consumer
    def look(n: int) -> int:
        seen = var.get()
        var.set(n)
        return seen

    assert await collect(source([1, 2, 3]) >> look) == [7, 7, 7]
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


@pytest.mark.parametrize("batch", [None, Batch(1)])
async def test_a_key_is_not_free_while_a_call_of_it_goes_on(batch: Batch | None) -> None:
    """Invariant 5, though that call has failed at its timeout; other keys are handled by other workers meanwhile."""
    release, begun = threading.Event(), list[str]()

    @consumer(concurrency=2, timeout=0.05, on_error="skip", key=lambda job: job[0], batch=cast(Any, batch))
    def handle(given: Any) -> None:
        (job,) = given if batch else (given,)
        begun.append(job)
        if job == "k1":
            assert release.wait(PATIENCE)
            begun.append("k1 has ended")
        if job == "k2":
            feed("k3")  # which is handled, too

    async with Pipeline(handle) as running:
        await running.put("k1")
        await until(lambda: running.statistics().failed == 1)
        for job in "k2", "x1", "y1":
            await running.put(job)
        await until(lambda: running.statistics().done == 2)
        assert begun == ["k1", "x1", "y1"]
        running.stop()
        for _ in range(10):
            await asyncio.sleep(0)
        assert running.statistics().state == "draining"
        release.set()
        report = await running.wait()
    assert begun == ["k1", "x1", "y1", "k1 has ended", "k2", "k3"]
    assert (report.done, report.failed) == (4, 1)


async def test_a_stop_does_not_wait_for_a_call_that_goes_on_after_its_timeout() -> None:
    """Promise 5: what waits for its key is listed, its worker named; a batch of others is completed before."""
    release, handled = threading.Event(), list[list[str]]()

    @consumer(concurrency=2, timeout=0.5, on_error="skip", key=lambda job: job[0])
    def handle(job: str) -> str:
        if job == "k1":
            release.wait(PATIENCE)
        return job

    @consumer(batch=Batch(100))
    async def keep(jobs: list[str]) -> None:
        handled.append(jobs)

    async with Pipeline(handle, keep) as running:
        await running.put("k1")
        await until(lambda: running.statistics().failed == 1)
        await running.put("k2")
        await running.put("x1")
        began = time.monotonic()
        report = await running.drain(timeout=1)
        assert time.monotonic() - began < 1 + BUSY
    assert [one.item for one in report.unfinished] == ["k2"]
    assert (report.abandoned, handled) == (("handle-1",), [["x1"]])
    release.set()


class Interruptible(ThreadCaller):
    """Can end its call, and counts how often it was told to."""

    def __init__(self) -> None:
        self.interrupts = 0

    def interrupt(self) -> bool:
        self.interrupts += 1
        return True


async def test_a_timeout_never_interrupts_another_call() -> None:
    """It fires when its thread has ended that call and begun the next, which the loop, busy till now, does not know."""
    loop, caller = asyncio.get_running_loop(), Interruptible()
    begun, go_on = [threading.Event() for _ in range(2)], [threading.Event() for _ in range(2)]

    def work(n: int) -> int:
        begun[n].set()
        assert go_on[n].wait(PATIENCE)
        return n

    def let_the_next_begin() -> None:
        go_on[0].set()
        assert begun[1].wait(PATIENCE)
        go_on[1].set()

    async with WorkerThreads("stage", 1, 0.1, lambda: caller) as threads:
        loop.call_later(0.05, let_the_next_begin)
        calls = [asyncio.ensure_future(threads.call(work, n)) for n in range(2)]
        await until(begun[0].is_set)
        ends = loop.time() + 0.15
        while loop.time() < ends:
            pass  # the loop does not run meanwhile: both timers are due in its next iteration, this one's first
        assert await asyncio.gather(*calls) == [0, 1]
    assert caller.interrupts == 0


class SlowToEnd(ThreadCaller):
    """Ends when it may."""

    def __init__(self) -> None:
        self.may_end = threading.Event()

    def close(self) -> None:
        assert self.may_end.wait(PATIENCE)


async def test_an_idle_thread_that_ends_late_is_not_said_to_be_in_a_call(caplog: pytest.LogCaptureFixture) -> None:
    """Protects the list of abandoned workers on a busy machine, whose threads get no time to end."""
    caller, begun = SlowToEnd(), asyncio.Event()

    async def use() -> None:
        async with WorkerThreads("stage", 1, None, lambda: caller) as threads:
            assert await threads.call(abs, -1) == 1
            begun.set()

    task = asyncio.ensure_future(use())
    await begun.wait()
    await asyncio.sleep(0)  # it waits for its thread now
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as cancelled:
        await task
    caller.may_end.set()
    assert type(cancelled.value) is asyncio.CancelledError
    assert not [
        record for record in caplog.records if record.name.startswith("asyncpc")
    ]  # asyncio may tell of a slow step


class Item:
    """Can be watched."""


watched: list[weakref.ref[Any]] = []


class Mistake(Exception):
    """Is watched."""

    def __init__(self) -> None:
        watched.append(weakref.ref(self))


async def test_an_idle_thread_keeps_nothing_alive() -> None:
    """Neither the item of its last call, nor its error: not even in a circle that the collector would have to find."""

    @consumer(timeout=60, retry=2)
    def handle(item: Item) -> None:
        if len(watched) == 1:
            raise Mistake

    watched.clear()
    gc.disable()
    try:
        async with Pipeline(handle) as running:
            item = Item()
            watched.append(weakref.ref(item))
            running.put_nowait(item)
            del item
            await until(lambda: running.statistics().done == 1)
            await until(lambda: [one() for one in watched] == [None, None])
    finally:
        gc.enable()


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


async def test_h19_the_threads_of_a_stage_have_names_that_differ() -> None:
    """Or a stack dump cannot tell which worker is stuck."""
    names: set[str] = set()
    together = threading.Barrier(3)

    @consumer(concurrency=3)
    def handle(n: int) -> None:
        together.wait(20)
        names.add(threading.current_thread().name)

    await Pipeline(range(3), handle)
    assert names == {"asyncpc:handle-1", "asyncpc:handle-2", "asyncpc:handle-3"}


def test_calls_that_end_together_wake_the_loop_once_whichever_workers_made_them() -> None:
    """Protects from a wake-up per worker (fault D8), and from none for a call that ends after the loop has looked."""

    class Loop:
        def __init__(self) -> None:
            self.called: list[Any] = []

        def call_soon_threadsafe(self, function: Any) -> None:
            self.called.append(function)

    returns, loop = Returns(), Loop()
    for name in "one", "two":
        returns.add(WorkerThreads(name, 1), [])
        returns.notify(cast(Any, loop))
    assert len(loop.called) == 1
    loop.called[0]()
    returns.add(WorkerThreads("three", 1), [])
    returns.notify(cast(Any, loop))
    assert len(loop.called) == 2
