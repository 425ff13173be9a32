"""Virtual time stands still while a thread or a process works for the loop, and only then."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import ANY

import elsewhere
import pytest
from support import both

from asyncpc import Batch, Pipeline, consumer, producer, source, testing
from asyncpc.testing import Deadlock, Delay, Feed, Spy, clock, collect, idle, leak_check, now

ROUNDS = 20
"""Enough for a clock that jumps too early to be seen: it did so in three of seven runs."""


def work(item: int) -> int:
    """Take a moment of real time."""
    time.sleep(0.001)
    return item


async def coroutine(item: int) -> int:
    return item


@both
def test_no_time_passes_while_threads_work(eager: bool) -> None:
    """Protects exact times beside threads: the timer is set, and waits until the last call is back."""

    async def main() -> None:
        for _ in range(ROUNDS):
            begun = now()
            async with asyncio.timeout(60):
                assert len(await collect(source(range(6)) >> consumer(concurrency=3)(work))) == 6
            assert now() == begun

    with leak_check():
        testing.run(main(), eager=eager)


@both
def test_time_passes_while_a_thread_waits_for_room(eager: bool) -> None:
    """Protects from a test that hangs: the thread waits for the loop, whose next stage waits for the clock."""

    @producer
    def numbers() -> Iterator[int]:
        for number in range(8):
            yield work(number)

    async def main() -> None:
        slow = Spy(consumer(coroutine), Delay(ANY, 10))
        for _ in range(ROUNDS // 4):
            await Pipeline(numbers, slow, maxsize=1)
        assert slow.times == [10.0 * n for n in range(ROUNDS // 4 * 8)]

    with leak_check():
        testing.run(main(), eager=eager)


def test_time_passes_while_a_handlers_thread_puts_or_calls() -> None:
    """Protects handlers in threads that use a pipeline themselves, and so wait for the loop."""

    async def main() -> None:
        spy = Spy(consumer(coroutine), Delay(2, 30))
        async with Pipeline(spy, maxsize=1) as inner:

            @consumer
            def outer(item: int) -> int:
                return inner.call_from_thread(item)

            assert await collect(source([1, 2, 3]) >> outer) == [1, 2, 3]
            assert now() == 30

            @consumer
            def into(item: int) -> None:
                inner.put_from_thread(item)

            await (source([2] * 3 + [1] * 5) >> into)
            await idle()
            assert now() == 120
            assert spy.calls == {1: 6, 2: 4, 3: 1}

    with leak_check():
        testing.run(main())


def test_a_thread_waits_in_virtual_time() -> None:
    """Protects delays in threads: an hour there takes no real time."""

    async def main() -> None:
        spy = Spy(consumer(concurrency=2)(work), Delay(1, 3600), Delay(2, 60))
        await (source(range(4)) >> spy)
        assert (spy.times, now()) == ([0, 0, 0, 60], 3600)

    testing.run(main())


def test_no_time_passes_in_the_calls_of_asyncio() -> None:
    """Protects ``asyncio.to_thread`` and executors, the loop's own included, which ends with it."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        timer = loop.call_later(5, lambda: None)
        assert await asyncio.to_thread(work, 1) == 1
        assert await loop.run_in_executor(None, work, 2) == 2
        assert now() == 0
        timer.cancel()

    with leak_check():
        testing.run(main())


@pytest.mark.parametrize("generates", [False, True])
def test_a_delay_in_a_thread_exceeds_a_time_out(generates: bool) -> None:
    """Protects tests of a time-out: the seconds of a delay count as if the handler had worked so long."""

    def generate(item: int) -> Iterator[int]:
        yield item

    async def main() -> None:
        handler: Any = consumer(timeout=5, on_error="skip")(generate if generates else work)
        report = await (source(range(3)) >> Spy(handler, Delay(1, 600)))
        assert (report.done, report.failed, now()) == (2, 1, 600)  # the call itself cannot be cut short
        assert "TimeoutError" in report.failures[0].error

    testing.run(main())


def test_a_run_may_be_stopped_amid_a_delay_in_a_thread() -> None:
    """Protects tests of a drain: the report names the thread, and the timer of the delay is nothing that was left."""

    async def main() -> None:
        async with Pipeline(source([1]), Spy(consumer(work), Delay(1, 600))) as running:
            await idle()
            report = await running.drain(0)
        assert (len(report.abandoned), now() < 1) == (1, True)

    testing.run(main())


def test_a_call_that_an_executor_refuses_stops_no_clock() -> None:
    """Protects tests of a pool that was shut down: nobody is at work, also as long as the error is kept."""

    async def main() -> None:
        pool = ThreadPoolExecutor()
        pool.shutdown()
        with pytest.raises(RuntimeError, match="shutdown") as refused:
            await asyncio.get_running_loop().run_in_executor(pool, work, 1)
        await asyncio.sleep(5)
        assert (now(), refused.type) == (5, RuntimeError)

    testing.run(main())


@pytest.mark.processes
@pytest.mark.parametrize("run_in", ["process", *(["interpreter"] if sys.version_info >= (3, 13) else [])])
def test_no_time_passes_while_others_work(run_in: Any) -> None:
    """Protects stages in processes and interpreters: their start takes long, and no time."""

    async def main() -> None:
        stage: Any = consumer(run_in=run_in, concurrency=2)(elsewhere.double)
        async with asyncio.timeout(1):
            assert sorted(await collect(source(range(9)) >> stage)) == [2 * n for n in range(9)]
        assert now() == 0

    testing.run(main())


def test_idle_waits_for_threads() -> None:
    """Protects ``idle()``: what threads do is done, and a batch still waits for its time."""

    async def main() -> None:
        insert = Spy(consumer(batch=Batch(100, within=5))(taken))
        async with Feed(*range(6)) >> consumer(concurrency=3)(work) >> insert:
            await idle()
            assert (now(), insert.items) == (0, [])
            await asyncio.sleep(9)
            assert insert.times == [5] * 6

    async def taken(items: list[int]) -> None: ...

    testing.run(main())


def test_a_thread_that_never_answers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects from a test that hangs without a word: the thread and the task that waits for it are said."""
    monkeypatch.setattr(clock, "PATIENCE", 0.05)
    let_go = threading.Event()

    @consumer(name="stuck")
    def stuck(item: int) -> None:
        let_go.wait()

    async def main() -> None:
        await (source([1]) >> stuck)

    with pytest.raises(Deadlock, match=r"no answer in 0.05 s of: asyncpc:stuck-1\n") as deadlock:
        testing.run(main())
    let_go.set()
    assert re.search(r"pending: task 'Task-\d+' at .*test_outside.py:\d+ in main", str(deadlock.value))
