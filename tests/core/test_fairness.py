"""``FairWriters``: nobody who writes to a queue starves beside others."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest
from support import balanced, both, ignore, same

from asyncpc import (
    Consumer,
    Pipeline,
    PipelineError,
    QueueShutDown,
    Report,
    Running,
    consumer,
    feed,
    merge,
    producer,
    source,
    testing,
)
from asyncpc.testing import now


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

    testing.run(main())


@pytest.mark.parametrize("work", [0, 1])
@pytest.mark.parametrize("stages", [0, 1])
@pytest.mark.parametrize("maxsize", [1, 3, 128, *(pytest.param(one, marks=pytest.mark.thorough) for one in (2, 8))])
def test_where_branches_meet_each_gets_its_share(work: int, stages: int, maxsize: int) -> None:
    """Nobody starves: beside one that always has items, another gets at least a third of what it could have."""
    seconds = 1000 if work else 40  # as many as show it: 4,000 items of the busy one, 20 of the other

    @producer
    async def busy() -> AsyncIterator[str]:
        while True:
            yield "busy"

    @producer
    async def ticking() -> AsyncIterator[str]:
        while True:
            await asyncio.sleep(2)
            yield "ticking"

    async def main() -> Counter[str]:
        got: Counter[str] = Counter()

        @consumer
        async def count(item: str) -> None:
            got[item] += 1
            await asyncio.sleep(work or 0.01)

        @consumer
        async def same(item: str) -> str:
            return item

        merged: Any = merge(busy, ticking) if stages == 0 else merge(busy >> same, ticking >> same)
        async with Pipeline(merged, count, maxsize=maxsize, drain_timeout=0) as running:
            await asyncio.sleep(seconds)
            await running.drain()
        return got

    got = testing.run(main())
    assert got["ticking"] >= seconds / 2 / 3
    assert got["busy"] >= got["ticking"] / 3


# -- writers where branches meet ------------------------------------------------------------------


@pytest.fixture
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor of endless speed: no run of items ends because it took too long."""
    for module in [module for name, module in sys.modules.items() if name.startswith("asyncpc")]:
        if hasattr(module, "perf_counter"):
            monkeypatch.setattr(module, "perf_counter", lambda: 0.0)


def passing(function: Callable[[Any], Any], name: str = "same") -> Consumer[Any, Any, ..., Any]:
    """A stage that gives on what ``function`` does."""
    made: Consumer[Any, Any, ..., Any] = consumer(name=name)(function)
    return made


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

    report = testing.run(main(), eager=eager)
    assert seen == ["first", "second", "other"]
    assert report.complete


@producer
async def endless(name: str) -> AsyncIterator[str]:
    n = 0
    while True:
        yield f"{name}{n}"
        n += 1


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

    report = testing.run(main(), eager=eager)
    assert report.complete
    assert report.stages[0].out_waited == 0


ALWAYS = [
    *[(count, stages, maxsize) for count in (2, 3, 4) for stages in range(count + 1) for maxsize in (1, 2)],
    (4, 0, 6),
]
"""How many branches, how many of them have a stage of their own, and how many items the next queue holds."""


@both
@pytest.mark.parametrize(("count", "stages", "maxsize"), ALWAYS)
def test_branches_that_always_have_items_take_turns(
    count: int, stages: int, maxsize: int, no_clock: None, eager: bool
) -> None:
    """A writer that was woken comes before those that were not, keeps its share, and waits again behind the others."""
    seen: list[str] = []

    @consumer(maxsize=maxsize)
    async def last(item: str) -> None:
        seen.append(item[0])
        await asyncio.sleep(1)

    async def main() -> None:
        names = "abcd"[:count]
        parts: list[Any] = [endless(name) for name in names[: count - stages]]
        parts += [endless(name) >> passing(same) for name in names[count - stages :]]
        async with Pipeline(merge(*parts), last, drain_timeout=0) as running:
            await asyncio.sleep(10 * count + maxsize)
            await running.drain()

    testing.run(main(), eager=eager)
    after_the_first = seen[maxsize + 2 :]
    for begin in range(len(after_the_first) - count):
        assert len(set(after_the_first[begin : begin + count])) == count, "".join(seen)
    if not eager:  # eager workers begin in another order
        assert seen[: maxsize + (stages < count)] == ["a"] * (maxsize + (stages < count)), "".join(seen)


@both
@pytest.mark.parametrize("more", [0, 10], ids=["within the bound", "overfull"])
def test_what_goes_past_those_who_wait_is_counted(more: int, eager: bool) -> None:
    """A burst of another source ends when it is their turn, also when ``feed`` made the queue longer than ever."""
    seen: list[str] = []
    fed: list[float] = []
    started: list[Running[Any, Any]] = []

    def queued() -> int:
        return started[0].statistics().stages[0].queued

    @producer
    async def burst() -> AsyncIterator[str]:
        while not fed or queued() != 5:  # noqa: ASYNC110  # no event tells how many are queued; the time is virtual
            await asyncio.sleep(0.5)
        for n in range(6):
            yield f"burst{n}"

    @consumer(maxsize=8)
    async def last(item: str) -> None:
        seen.append(item)
        if now() >= 20 and not fed:
            fed.append(now())
            for n in range(more):
                feed(f"fed{n}")
        await asyncio.sleep(1)

    async def main() -> None:
        async with Pipeline(merge(endless("n"), burst), last, drain_timeout=0) as running:
            started.append(running)
            await asyncio.sleep(60)
            await running.drain()

    testing.run(main(), eager=eager)
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
        testing.run(main(), eager=eager)
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
        testing.run(main(), eager=eager)
    assert balanced(failed.value.report)


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

    testing.run(main())
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
        if started:  # an eager worker begins before anybody has the handle
            peak = max(peak, started[0].statistics().stages[-1].queued + 1)
        await asyncio.sleep(0.01)

    async def main() -> Report:
        parts = merge(source(range(10), "a"), source(range(7), "b") >> passing(same))
        async with Pipeline(parts, last) as running:
            started.append(running)
            return await running.wait()

    report = testing.run(main(), eager=eager)
    assert report.stages[-1].peak_queued >= peak > 10


def test_a_writer_keeps_the_share_that_it_was_woken_for(no_clock: None) -> None:
    """More room comes before it runs, and those behind it leave: that makes no room for it alone.

    Who is woken when depends on the order in which tasks start, so this is for lazy ones.
    """
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
        parts: Any = merge(late, a >> passing(same, "same a"), b >> passing(same, "same b"))
        async with Pipeline(parts, last, drain_timeout=1000) as running:
            started.append(running)
            await asyncio.sleep(2)
            gate[0].set()
            report = await running.wait()
        assert report.complete

    testing.run(main())
    after = seen.index("l") + 1
    assert sorted(seen[after : after + 2]) == ["a", "b"]
