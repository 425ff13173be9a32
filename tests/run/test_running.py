"""A run under way: what is put and fed, what comes out, and what it refuses. All in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, cast

import pytest
from spy import Sink, spying
from support import both, left

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
    route,
    source,
    testing,
)
from asyncpc.testing import idle, now

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
        with pytest.raises(QueueShutDown, match="failed in" if why == "failure" else "has ended"):
            running.put_nowait(9)

    testing.run(main(), eager=eager)


def test_put_in_all_its_forms() -> None:
    """Faults A5 to A7: put waits, put_nowait and a timeout refuse; what raised was not accepted."""

    async def main() -> None:
        async with Pipeline(spying(1), maxsize=1) as running:
            await running.put("handled")
            await idle()
            await running.put("queued")
            with pytest.raises(asyncio.QueueFull, match=r"no room .*'await running\.put\(item\)' waits"):
                running.put_nowait("refused")
            with pytest.raises(TimeoutError):
                await running.put("late", timeout=0.25)
            assert now() == 0.25
            await running.put("in time", timeout=1)
            assert now() == 1.0
            report = await running.drain()
        assert report.produced == report.done == 3

    testing.run(main())


def test_put_says_whether_the_run_drains_or_has_ended() -> None:
    """Protects who looks for the reason: an item that comes a moment too late is another mistake than a lost handle."""

    async def main() -> None:
        async with Pipeline(spying(1), name="orders") as running:
            await running.put(1)
            running.stop()
            with pytest.raises(QueueShutDown, match="'orders' is draining: the item was not taken"):
                await running.put(2)
            await running.wait()
            with pytest.raises(QueueShutDown, match="'orders' has ended: the item was not taken"):
                await running.put(2)
        with pytest.raises(QueueShutDown, match="'orders' has ended: the item was not taken"):
            running.put_nowait(2)

    testing.run(main())


REFUSED = r"the queue of stage 'first' is full, and a handler of the same run .* feed\(item\).* maxsize=.* from outside"


@both
@pytest.mark.parametrize("stage", ["first", "second"])
@pytest.mark.parametrize("leaks", [False, True], ids=["", "with a context of its own"])
def test_a_handler_does_not_wait_for_room_that_it_may_have_to_make(stage: str, leaks: bool, eager: bool) -> None:
    """It would wait for ever without a word; from elsewhere, with a timeout or with room, ``put`` is what it is."""
    running: Any = None
    variable: ContextVar[int] = ContextVar("variable")
    is_over, told = asyncio.Event(), list[str]()

    async def put_here(where: str, n: int) -> None:
        if where != stage:
            return
        if leaks:
            variable.set(n)
        if n == 0:
            await asyncio.sleep(1)  # until the queue is full
            with pytest.raises(TimeoutError):
                await running.put(9, timeout=1)
            with pytest.raises(StateError, match=REFUSED):
                await running.put(9)
            told.append("refused")
        elif n == 2:  # the last item, so that there is room
            await running.put(9)
            told.append("taken")
            is_over.set()

    @consumer(maxsize=2)
    async def first(n: int) -> int:
        await put_here("first", n)
        return n

    @consumer(maxsize=1)
    async def second(n: int) -> None:
        await put_here("second", n)

    async def main() -> None:
        nonlocal running
        async with Pipeline(first >> second) as running:
            for n in (0, 1, 1, 1, 1, 1, 2):
                await running.put(n)
            await is_over.wait()
            assert (await running.drain()).done == 8
        assert told == ["refused", "taken"]

    testing.run(main(), eager=eager)


def test_others_wait_for_room_as_they_did() -> None:
    """A task that a handler leaves to itself, another run's handler, a producer: none of these has to make the room."""
    helpers: list[asyncio.Task[None]] = []
    running: Any = None

    @consumer(maxsize=1)
    async def slow(n: int) -> None:
        await asyncio.sleep(1)
        if n == 0:
            helpers.append(asyncio.create_task(running.put(100)))

    @consumer
    async def passes_on(n: int) -> None:
        await running.put(n)

    @producer
    async def puts() -> AsyncIterator[int]:
        for n in range(4):
            await running.put(n)
            yield n + 10

    async def main() -> None:
        nonlocal running
        async with Pipeline(puts, slow) as running:
            await (source(range(50, 55)) >> passes_on)
            await asyncio.wait(helpers)
            assert (await running.wait()).done == 14

    testing.run(main())


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

    testing.run(main(), eager=eager)


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

    testing.run(main())


def test_nothing_can_be_put_or_fed_where_nobody_could_tell_where_to() -> None:
    """A pipeline with several first stages refuses ``put`` and ``feed``, in words."""
    refused: list[BaseException] = []

    @consumer
    async def feeds(n: int) -> int:
        try:
            feed(n)
        except StateError as error:
            refused.append(error)
        return n

    async def main() -> None:
        pipeline = merge(source([1]) >> feeds, source([2]) >> Sink("other").consumer) >> Sink("save").consumer
        async with pipeline as running:
            for put in (running.put_nowait, running.put):
                with pytest.raises(StateError, match="merges several first stages, so it takes no put"):
                    await cast(Any, put(3))
            await running.wait()

    testing.run(main())
    assert len(refused) == 1


# -- results --------------------------------------------------------------------------------------


def test_the_results_of_all_branches_are_streamed() -> None:
    """Each end of the graph gives to the reader; what is told of failures does not."""
    a, b, dead = Sink("a"), Sink("b"), Sink("dead")

    async def main() -> list[Any]:
        parts = source(range(6)) >> route(lambda n: n % 3, {0: a.consumer, 1: b.consumer}, on_error=dead.consumer)
        async with parts.stream() as values:
            return [value async for value in values]

    assert sorted(testing.run(main())) == [("a", 0), ("a", 3), ("b", 1), ("b", 4)]
    assert len(dead.items) == 2


# -- what is refused ------------------------------------------------------------------------------


def test_times_that_are_none_are_refused_before_anything_stops() -> None:
    """Protects a stop from a text out of the environment: it is refused where it is written, not when it is needed."""

    async def main() -> None:
        async with Pipeline(consumer(name="save")(Sink())) as running:
            for wrong in "5", -1, float("nan"), True:
                with pytest.raises(DefinitionError, match=r"timeout=.* must be 0 or more seconds"):
                    await running.drain(timeout=cast(Any, wrong))
                with pytest.raises(DefinitionError, match="0 or more seconds"):
                    running.stop(cast(Any, wrong))
            await running.put(1)
            assert running.statistics().state == "running"

    testing.run(main())


def test_control_of_what_is_not_there_is_refused() -> None:
    """The message names what there is."""

    async def main() -> None:
        async with Pipeline(consumer(name="save")(Sink())) as running:
            with pytest.raises(StateError, match=r"no stage 'store'; it has 'save'"):
                running.scale("store", 3)
            with pytest.raises(DefinitionError, match="stage 'save': concurrency=0 must be a whole number, at least 1"):
                running.scale("save", 0)

    testing.run(main())


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

    testing.run(main())
    assert len(told) == 1


def test_a_merged_pipeline_is_stopped_in_its_own_loop_only() -> None:
    """Fault A17: ``stop`` from another thread is refused, not unheard."""

    @producer
    async def idle() -> AsyncIterator[int]:
        await asyncio.Event().wait()
        yield 1

    async def main() -> None:
        sinks = [Sink(name).consumer for name in "abc"]
        async with merge(idle >> sinks[0], idle >> sinks[1]) >> sinks[2] as running:
            with ThreadPoolExecutor(1) as pool, pytest.raises(StateError, match="another event loop or thread"):
                pool.submit(running.stop, 1).result()
            running.stop()

    testing.run(main())
