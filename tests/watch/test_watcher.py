"""What the screens show of a run is computed from counters that exist, and is true to within one look."""

from __future__ import annotations

import asyncio
import itertools
import json
import pickle
import random
import statistics
from collections import deque
from collections.abc import AsyncIterator
from threading import Event
from time import thread_time
from typing import Any

import pytest
from support import endless, named

from asyncpc import Batch, Pipeline, Rate, source, testing
from asyncpc.testing import now
from asyncpc.watch.snapshot import as_dict
from asyncpc.watch.watcher import View, Watcher

EVERY = 0.5
"""Seconds between two looks."""


async def watched(pipeline: Any, seconds: float) -> tuple[Watcher, View]:
    """A run that was watched for so long, and the last view of it; it is ended."""
    async with pipeline as running:
        watcher = Watcher(running)
        for _ in range(int(seconds / EVERY)):
            watcher.look()
            await asyncio.sleep(EVERY)
        view = watcher.look()
        await running.drain(timeout=0)
    assert view is not None
    return watcher, view


def taking(seconds: float) -> Any:
    """A handler that takes so long."""

    async def handle(n: int) -> int:
        await asyncio.sleep(seconds)
        return n

    return handle


@pytest.mark.parametrize("seed", range(5))
def test_the_age_of_the_oldest_item_is_that_of_real_stamps(seed: int) -> None:
    """Nothing is measured per item, and yet nobody is told a wrong time: the median error is below one look."""
    drawn = random.Random(seed)
    waiting: deque[float] = deque()

    async def arrivals() -> AsyncIterator[int]:
        for n in range(100_000):
            await asyncio.sleep(drawn.expovariate(drawn.choice((5, 20, 40))))
            waiting.append(now())
            yield n

    async def handle(n: int) -> None:
        waiting.popleft()
        await asyncio.sleep(drawn.expovariate(20))

    async def main() -> list[float]:
        errors: list[float] = []
        async with Pipeline(source(arrivals()), named("handle", handle), maxsize=0) as running:
            watcher = Watcher(running)
            for _ in range(400):
                await asyncio.sleep(EVERY)
                view = watcher.look()
                assert view is not None
                age, queued = view.stages[0].oldest, view.stages[0].now.queued
                assert (age is None) == (queued == 0)
                if age is not None:
                    errors.append(abs(age - (now() - waiting[0])))
            await running.drain(timeout=0)
        return errors

    errors = testing.run(main())
    assert len(errors) > 50
    assert statistics.median(errors) <= EVERY
    assert max(errors) <= 2 * EVERY


def test_the_age_is_not_known_where_the_queue_is_not_first_in_first_out() -> None:
    """Items overtake one another there; in batches they do not."""

    def oldest(**options: Any) -> float | None:
        _, view = testing.run(watched(endless >> named("stage", taking(5.0), **options), 60))
        assert view.stages[0].now.queued > 0
        return view.stages[0].oldest

    async def store(batch: list[int]) -> None:
        await asyncio.sleep(5)

    assert oldest(key=lambda n: n % 3) is None
    assert oldest(priority=lambda n: n) is None
    age = oldest()
    assert age is not None
    assert age > 5
    _, batches = testing.run(watched(endless >> named("store", store, batch=Batch(10, within=1)), 60))
    assert batches.stages[0].oldest is not None


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
def test_the_age_is_that_of_what_was_not_dropped(overflow: str) -> None:
    """A queue that refuses what is new grows old, and that is what a person has to see."""

    async def arrivals() -> AsyncIterator[float]:
        while True:
            await asyncio.sleep(0.1)
            yield now()

    handled: list[float] = []

    async def handle(came: float) -> None:
        handled.append(now() - came)
        await asyncio.sleep(7)

    stage = named("handle", handle, overflow=overflow, maxsize=10)
    _, view = testing.run(watched(source(arrivals()) >> stage, 69.5))
    assert view.stages[0].now.dropped > 500
    assert view.stages[0].oldest == pytest.approx(handled[-1], abs=7 + EVERY)
    assert view.stages[0].oldest == pytest.approx(1.0 if overflow == "drop_oldest" else 67.0, abs=5.0)


def test_the_shares_of_the_workers_time_are_told() -> None:
    """At work, waiting for items, for room, held back: together all of their time."""
    pipeline = (
        endless
        >> named("first", taking(0.5), concurrency=2)
        >> named("held", taking(0.0), rate=Rate(1, per=2.0))
        >> named("last", taking(1.0), concurrency=4)
    )
    _, view = testing.run(watched(pipeline, 60))
    first, held, last = view.stages
    assert first.waits_for_room > 0.8
    assert held.held_back == pytest.approx(1.0, abs=0.01)
    assert last.at_work == pytest.approx(1 / 8, abs=0.05)
    assert last.waits_for_items == pytest.approx(7 / 8, abs=0.05)
    for stage in view.stages:
        shares = stage.at_work, stage.waits_for_items, stage.waits_for_room, stage.held_back
        assert sum(shares) == pytest.approx(1.0, abs=0.01)


def test_rates_follow_what_happens() -> None:
    """The sparkline of the last minute; and the rate is that of the last seconds, not of the whole run."""

    async def gets_slower(n: int) -> None:
        await asyncio.sleep(0.1 if n < 300 else 1.0)

    _, view = testing.run(watched(endless >> named("stage", gets_slower), 60))
    assert view.stages[0].rate == pytest.approx(1.0, abs=0.25)
    assert view.rate == view.stages[0].rate
    rates = view.stages[0].rates
    assert len(rates) == len(view.stages[0].fills) == 60
    assert rates[0] == pytest.approx(10, abs=1)
    assert rates[-1] == pytest.approx(1, abs=1)


@pytest.mark.parametrize("seconds", [1500, pytest.param(5000, marks=pytest.mark.thorough)])
def test_the_age_of_what_has_waited_for_hours_is_told(seconds: int) -> None:
    """That is when somebody looks; and what is kept for it is bounded, since a run may be watched for months."""

    async def stuck(n: int) -> None:
        await asyncio.Event().wait()

    async def rarely() -> AsyncIterator[int]:
        for n in itertools.count():
            yield n
            await asyncio.sleep(1.3)

    _, full = testing.run(watched(endless >> named("stage", stuck), seconds))
    assert full.stages[0].oldest == pytest.approx(seconds, rel=0.01)
    watcher, filling = testing.run(watched(Pipeline(source(rarely()), named("stage", stuck), maxsize=0), seconds))
    assert filling.stages[0].oldest == pytest.approx(seconds, rel=0.01)
    assert len(pickle.dumps(watcher._pasts)) < 40_000


def test_ages_are_right_where_a_queue_holds_more_than_all_looks_that_are_kept() -> None:
    """Then fewer looks are kept of a time long ago, so that its ages are a little less exact."""
    came: list[float] = []

    async def arrivals() -> AsyncIterator[int]:
        for n in itertools.count():
            came.append(now())
            yield n
            await asyncio.sleep(0.4 if n % 500 < 400 else 2.0)

    async def handle(n: int) -> None:
        await asyncio.sleep(1.0)

    async def main() -> list[tuple[float, float]]:
        ages: list[tuple[float, float]] = []
        async with Pipeline(source(arrivals()), named("handle", handle), maxsize=0) as running:
            watcher = Watcher(running)
            for _ in range(8000):
                await asyncio.sleep(EVERY)
                view = watcher.look()
                assert view is not None
                stage = view.stages[0]
                if stage.oldest is not None:
                    ages.append((stage.oldest, now() - came[stage.now.received - stage.now.queued]))
            await running.drain(timeout=0)
        return ages

    ages = testing.run(main())
    assert max(real for _, real in ages) > 900
    for told, real in ages:
        assert told == pytest.approx(real, abs=real / 50 + 2.0 + EVERY)  # none came for up to 2 s


@pytest.mark.realtime
async def test_who_begins_to_watch_a_blocked_loop_is_told() -> None:
    """A probe has looked before, so there are figures; the page is opened when something is wrong already."""
    at_work, is_told = Event(), Event()

    async def blocks(n: int) -> None:
        at_work.set()
        while not is_told.is_set():
            pass

    def ask(running: Any) -> View | None:
        try:
            at_work.wait(20)
            return Watcher(running).look()
        finally:
            is_told.set()

    async with Pipeline(named("blocks", blocks)) as running:
        running.health()
        asked = asyncio.get_running_loop().run_in_executor(None, ask, running)
        await running.put(1)
        view = await asked
    assert view is not None
    assert view.silent >= 0.5
    assert "blocked by blocks (" in view.verdict.text
    assert [stage.rate for stage in view.stages] == [0.0]


@pytest.mark.realtime
async def test_a_watcher_in_another_loop_keeps_what_it_sees() -> None:
    """It waits for no answer there, so each look gives what the one before has asked for."""

    def watch(running: Any) -> list[View | None]:
        async def look_until_it_sees() -> list[View | None]:
            watcher, seen = Watcher(running), list[View | None]()
            while not any(seen):
                seen.append(watcher.look())
                await asyncio.sleep(0.01)
            return seen

        return asyncio.run(look_until_it_sees())

    async with Pipeline(named("stage", taking(0.0))) as running:
        seen = await asyncio.to_thread(watch, running)
    assert seen[-1] is not None
    assert seen[-1].verdict.text


@pytest.mark.thorough
@pytest.mark.realtime
def test_fifty_stages_are_looked_at_and_told_in_five_milliseconds() -> None:
    """By CPU time, with 10,000 items a second: a look holds up the loop of the run; 3.2 ms were measured."""

    async def numbers() -> AsyncIterator[int]:
        for n in itertools.count():
            yield n
            if n % 100 == 0:
                await asyncio.sleep(0.01)

    async def same(n: int) -> int:
        return n

    stages: Any = named("stage 0", same, concurrency=4)
    for number in range(1, 50):
        stages = stages >> named(f"stage {number}", same, concurrency=4)
    took: list[float] = []

    async def main() -> None:
        async with Pipeline(source(numbers()), stages) as running:
            watcher = Watcher(running)
            for _ in range(30):
                await asyncio.sleep(0.1)
                began = thread_time()
                view = watcher.look()
                assert view is not None
                json.dumps(as_dict(view))
                took.append(thread_time() - began)
            await running.drain(timeout=0)

    asyncio.run(main())
    assert statistics.median(took) <= 0.005, took
    assert sorted(took)[-3] <= 0.0075, took  # the first one computes the percentiles of all
