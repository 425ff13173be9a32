"""What asyncpc promises, one test for each promise, named for it.

Promise 2 (through a broker) is not made yet; promise 8 says what is not promised. The random scenarios
(``test_property.py``) hold all of these at once; here each stands alone, so that a reader sees what it means.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncIterator, Callable
from itertools import pairwise

import pytest
from support import EAGER

from asyncpc import BoundedQueue, Pipeline, PipelineError, consumer, merge, producer, source, testing
from asyncpc.testing import now


class Item:
    """Something that can be counted while it is alive."""

    def __init__(self, number: int) -> None:
        self.number = number


@pytest.mark.parametrize("eager", EAGER)
@pytest.mark.parametrize("maxsize", [1, 2, 128])
def test_promise_1_every_accepted_item_is_handled_exactly_once(maxsize: int, eager: bool) -> None:
    """Normal end: whatever was put is handled once, by one of the workers, and the report says so."""
    handled: list[int] = []

    @consumer(concurrency=3)
    async def handle(n: int) -> None:
        await asyncio.sleep(n % 3)
        handled.append(n)

    async def main() -> None:
        async with Pipeline(handle, maxsize=maxsize) as running:
            for n in range(50):
                await running.put(n)
        assert sorted(handled) == list(range(50))
        assert running.report is not None
        assert (running.report.produced, running.report.done, running.report.unfinished) == (50, 50, ())

    testing.run(main(), eager=eager)


@pytest.mark.parametrize("eager", EAGER)
def test_promise_1_a_failed_run_lists_what_was_not_handled(eager: bool) -> None:
    """Failed end: no item is handled twice, none vanishes: done, failed or listed with its stage."""
    begun: list[int] = []

    @consumer(concurrency=2, name="handle")
    async def handle(n: int) -> None:
        begun.append(n)
        await asyncio.sleep(1)
        if n == 5:
            raise ValueError(n)

    async def main() -> None:
        with pytest.raises(PipelineError) as failure:
            await (source(range(20)) >> handle)
        report = failure.value.report
        left = [one.item for one in report.unfinished]
        assert (report.done, report.failed) == (5, 1)
        assert sorted([0, 1, 2, 3, 4, 5, *left]) == list(range(20))
        assert {one.stage for one in report.unfinished} == {"handle"}
        assert len(begun) == len(set(begun))

    testing.run(main(), eager=eager)


def test_promise_3_put_and_get_are_all_or_nothing() -> None:
    """A cancelled ``put`` left nothing behind, a cancelled ``get`` took nothing, in whatever tick the cancel comes."""

    async def main() -> None:
        queue: BoundedQueue[str] = BoundedQueue(1)
        queue.put_nowait("first")
        putting = asyncio.create_task(queue.put("second"))
        await asyncio.sleep(0)
        assert queue.get_nowait() == "first"  # wakes the putter ...
        putting.cancel()  # ... in the same tick
        with pytest.raises(asyncio.CancelledError):
            await putting
        assert queue.empty()
        getting = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        queue.put_nowait("third")
        getting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await getting
        assert queue.get_nowait() == "third"

    testing.run(main())


def test_promise_3_a_cancelled_handler_is_neither_success_nor_failure() -> None:
    """Its item is released: the report lists it, and counts it neither as done nor as failed."""

    @consumer
    async def handle(n: int) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with Pipeline(handle) as running:
            await running.put(7)
            await asyncio.sleep(1)
            report = await running.drain(timeout=2)
        assert (report.done, report.failed) == (0, 0)
        assert [(one.item, one.stage) for one in report.unfinished] == [(7, "handle")]

    testing.run(main())


def test_promise_4_order_is_first_in_first_out_per_producer() -> None:
    """Through one worker per stage, the items of each source leave in the order in which the source gave them."""
    left: list[tuple[str, int]] = []

    @producer
    async def numbered(name: str, pause: float) -> AsyncIterator[tuple[str, int]]:
        for n in range(20):
            await asyncio.sleep(pause)
            yield name, n

    @consumer
    async def through(item: tuple[str, int]) -> tuple[str, int]:
        await asyncio.sleep(0.5)
        return item

    @consumer
    async def leave(item: tuple[str, int]) -> None:
        left.append(item)

    async def main() -> None:
        await Pipeline(merge(numbered("a", 0.3), numbered("b", 0.7)), through >> leave, maxsize=2)

    testing.run(main())
    for name in ("a", "b"):
        assert [n for whose, n in left if whose == name] == list(range(20))


@pytest.mark.parametrize("eager", EAGER)
def test_promise_5_stop_works_while_the_source_is_idle(eager: bool) -> None:
    """The intake ends at once, the source's ``finally`` runs, and what was queued is handled."""
    closed: list[float] = []
    handled: list[int] = []

    @producer
    async def idle() -> AsyncIterator[int]:
        try:
            for n in range(5):
                yield n
            await asyncio.Event().wait()
        finally:
            closed.append(now())

    @consumer
    async def handle(n: int) -> None:
        await asyncio.sleep(10)
        handled.append(n)

    async def main() -> None:
        async with idle >> handle as running:
            await asyncio.sleep(1)
            report = await running.drain(timeout=100)
        assert closed == [1.0]
        assert handled == [0, 1, 2, 3, 4]
        assert (report.done, now()) == (5, 50.0)

    testing.run(main(), eager=eager)


@pytest.mark.parametrize("timeout", [0.0, 0.5, 3.0])
def test_promise_5_drain_returns_within_its_timeout_and_100_ms(timeout: float) -> None:
    """Also with a handler that ignores every cancellation, which is left behind by name."""
    release: list[asyncio.Event] = []

    @consumer(concurrency=2)
    async def stubborn(n: int) -> None:
        release.append(asyncio.Event())
        while not release[0].is_set():
            try:
                await release[0].wait()
            except asyncio.CancelledError:
                continue

    async def main() -> None:
        async with Pipeline(stubborn) as running:
            for n in range(5):
                await running.put(n)
            await asyncio.sleep(1)
            began = now()
            report = await running.drain(timeout)
            assert timeout <= now() - began <= timeout + 0.1
        assert report.abandoned == ("stubborn-1", "stubborn-2")
        assert sorted(one.item for one in report.unfinished) == [0, 1, 2, 3, 4]
        release[0].set()  # or they would be left behind here too
        await asyncio.sleep(1)

    testing.run(main())


@pytest.mark.parametrize("eager", EAGER)
@pytest.mark.parametrize(("maxsize", "concurrency"), [(1, 1), (3, 2), (10, 3)])
def test_promise_6_memory_is_bounded(maxsize: int, concurrency: int, eager: bool) -> None:
    """At most the bound, one item per consumer and one in the source's hand are alive at once."""
    alive: weakref.WeakSet[Item] = weakref.WeakSet()
    peak = 0

    @producer
    async def items() -> AsyncIterator[Item]:
        nonlocal peak
        for n in range(500):
            item = Item(n)
            alive.add(item)
            peak = max(peak, len(alive))
            yield item
            del item

    @consumer(concurrency=concurrency)
    async def handle(item: Item) -> None:
        await asyncio.sleep(item.number % 2)

    async def main() -> None:
        report = await Pipeline(items, handle, maxsize=maxsize)
        assert report.done == 500
        assert report.stages[0].peak_queued <= maxsize
        assert not alive

    testing.run(main(), eager=eager)
    assert peak <= maxsize + concurrency + 1


async def most_in_one_go(items: int, seconds: Callable[[int], float], after: int = 0) -> int:
    """The most items that were handled without another task's turn, once ``after`` were; ``seconds`` is item n's work.

    Real time, since the work is real. A busy machine makes the work longer, and so the items in one go fewer.
    """
    turns: list[int] = []
    handled = 0

    async def look_on() -> None:
        while True:
            turns.append(handled)
            await asyncio.sleep(0)

    @consumer
    async def handle(n: int) -> None:
        nonlocal handled
        handled += 1
        until = time.perf_counter() + seconds(n)
        while seconds(n) and time.perf_counter() < until:
            pass

    looking = asyncio.create_task(look_on())
    report = await Pipeline(range(items), handle, maxsize=0)
    looking.cancel()
    assert report.done == items
    return max(later - before for before, later in pairwise(turn for turn in turns if turn >= after))


@pytest.mark.realtime
@pytest.mark.parametrize(("work", "items", "allowed"), [(0.0, 5000, 128), (0.00002, 2000, 64), (0.001, 50, 2)])
async def test_promise_7_no_loop_of_the_framework_holds_the_event_loop(work: float, items: int, allowed: int) -> None:
    """Beside a backlog, whose handler never waits, another task gets its turn every 128 items or about 1 ms."""
    assert await most_in_one_go(items, lambda n: work) <= allowed


@pytest.mark.realtime
async def test_promise_7_holds_when_a_cheap_run_turns_dear() -> None:
    """After many cheap items the clock is still read often enough for dear ones: at most 16 of them in one go."""
    assert await most_in_one_go(200, lambda n: 0.001 if n >= 63 else 0.0, after=81) <= 16
