"""``key=``: items of one key are handled in order and one at a time. All in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest
from spy import Sink
from support import both

from asyncpc import Batch, Pipeline, PipelineError, Report, consumer, source, testing
from asyncpc.options.key import KeyedQueue
from asyncpc.testing import now


@both
@pytest.mark.parametrize("concurrency", [1, 2, 8])
def test_items_of_a_key_are_handled_in_order_and_one_at_a_time(concurrency: int, eager: bool) -> None:
    """One key at a time and in order; their values leave in that order too."""
    busy: Counter[int] = Counter()
    rng, sink = random.Random(1), Sink()

    @consumer(concurrency=concurrency, key=lambda n: n % 5)
    async def handle(n: int) -> int:
        busy[n % 5] += 1
        assert busy[n % 5] == 1
        await asyncio.sleep(rng.random())
        busy[n % 5] -= 1
        return n

    @consumer(maxsize=1)
    async def last(n: int) -> None:
        await sink(n)

    testing.run(source(range(100)) >> handle >> last, eager=eager)
    for key in range(5):
        assert [n for n in sink.items if n % 5 == key] == list(range(key, 100, 5))
    assert len(sink.items) == 100


def test_a_slow_key_holds_up_only_itself() -> None:
    """One customer a hundred times slower than the rest: the others finish within 1.2 times of the time without him."""

    def others_end(slow: float) -> float:
        ends: list[float] = []

        @consumer(concurrency=8, key=lambda n: n % 20, maxsize=1000)
        async def handle(n: int) -> None:
            await asyncio.sleep(slow if n % 20 == 0 else 0.01)
            if n % 20:
                ends.append(now())

        testing.run(source(range(1000)) >> handle)
        return max(ends)

    assert others_end(1.0) <= 1.2 * others_end(0.01)


@both
def test_a_busy_key_that_fills_the_queue_keeps_no_room_from_others(eager: bool) -> None:
    """When all that is queued waits for its key, the next item may be of another: an idle worker gets it at once."""
    began: dict[str, float] = {}

    @consumer(concurrency=2, key=lambda item: item, maxsize=8)
    async def handle(item: str) -> None:
        began.setdefault(item, now())
        await asyncio.sleep(1)

    testing.run(source([*["busy"] * 9, "other"]) >> handle, eager=eager)
    assert began == {"busy": 0, "other": 1}  # its source had the ninth of the busy key in hand before


def test_waiting_items_of_a_key_count_against_the_bound() -> None:
    """Promise 6: a key that hangs must not fill the memory with what waits for it."""

    async def main() -> None:
        @consumer(concurrency=4, key=lambda n: 0, maxsize=10)
        async def hangs(n: int) -> None:
            await asyncio.Event().wait()

        async with Pipeline(range(100), hangs) as running:
            await asyncio.sleep(1)
            (stage,) = running.statistics().stages
            assert (stage.in_flight, stage.queued, stage.received) == (1, 10, 11)
            report = await running.drain(timeout=1)
            assert [left.item for left in report.unfinished] == list(range(11))

    testing.run(main())


def test_lanes_ask_for_the_priority_before_they_change_anything() -> None:
    """A key whose first item was refused is free; a parked item needs no function to be asked when its turn comes."""
    asked: list[Any] = []

    def priority(item: dict[str, int]) -> int:
        asked.append(item)
        return item["p"]

    lanes = KeyedQueue(lambda item: "a", priority)
    with pytest.raises(KeyError):
        lanes.append({})
    assert (len(lanes), bool(lanes)) == (0, False)
    lanes.append({"p": 2})
    lanes.append({"p": 1})
    with pytest.raises(KeyError):
        lanes.append({})
    assert (len(lanes), lanes.take()) == (2, ("a", {"p": 2}))
    count = len(asked)
    lanes.end_lease("a")
    assert (lanes.take(), len(lanes), len(asked)) == (("a", {"p": 1}), 0, count)


@both
def test_a_key_whose_next_item_cannot_be_compared_fails_the_run(eager: bool) -> None:
    """The key is released when the worker looks for more, with an item that has been settled: it counts once."""

    @consumer(key=lambda item: item[0], priority=lambda item: item[1])
    async def handle(item: tuple[str, Any]) -> None:
        await asyncio.sleep(1)

    async def main() -> Report:
        async with Pipeline(handle) as running:
            await running.put(("k", 1))
            await running.put(("k", 2))
            await asyncio.sleep(0.5)
            await running.put(("x", "high"))
            with pytest.raises(PipelineError) as failed:
                await running.wait()
        return failed.value.report

    report = testing.run(main(), eager=eager)
    assert (report.done, report.failed, len(report.unfinished)) == (1, 0, 2)


@both
def test_a_worker_that_leaves_gives_its_key_back(eager: bool) -> None:
    """One worker less, and it had the key of what waits: the others may take that now."""
    handled: list[str] = []

    @consumer(concurrency=2, key=lambda item: item[0], name="stage")
    async def handle(item: str) -> None:
        await asyncio.sleep(1 if item == "a1" else 2)
        handled.append(item)

    async def main() -> None:
        async with Pipeline(handle) as running:
            for item in "a1", "b1", "a2":
                await running.put(item)
            await asyncio.sleep(0.5)
            running.scale("stage", 1)

    testing.run(main(), eager=eager)
    assert handled == ["a1", "b1", "a2"]


@both
@pytest.mark.parametrize(
    "options", [{}, {"priority": lambda item: 0}, {"batch": Batch(1)}], ids=["key", "priority", "batch"]
)
def test_nothing_of_a_key_begins_behind_an_item_that_ends_the_run(options: Any, eager: bool) -> None:
    """Its key is not let go: a worker that becomes free at the same moment would take the next item of the key."""
    begun: list[str] = []

    async def handle(item: Any) -> None:
        (one,) = item if "batch" in options else [item]
        begun.append(one)
        await asyncio.sleep(1)
        if one == "a1":
            raise ValueError

    stage: Any = consumer(concurrency=2, key=lambda item: item[0], **options)
    with pytest.raises(PipelineError) as failed:
        testing.run(source(["a1", "b1", "a2", "a3"]) >> stage(handle), eager=eager)
    assert begun == ["a1", "b1"]
    assert sorted(one.item for one in failed.value.report.unfinished) == ["a2", "a3"]
