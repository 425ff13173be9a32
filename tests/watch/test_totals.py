"""What a pipeline has done in all of its runs: counts only rise, and nothing of a run is kept alive."""

from __future__ import annotations

import asyncio
import gc
import math
import weakref
from threading import Thread
from typing import Any

import pytest
from support import balanced, endless, named, until

from asyncpc import Pipeline, PipelineError, Rate, Report, Retry, consumer, source, testing
from asyncpc.graph.pipeline import accompany, plan_of
from asyncpc.watch.totals import Seen, Totals


async def same(item: Any) -> Any:
    return item


async def fails(item: Any) -> Any:
    raise ValueError(item)


def watched(pipeline: Pipeline[Any, Any]) -> Totals:
    """The totals of a pipeline, from now on."""
    totals = Totals(plan_of(pipeline))
    accompany(pipeline, totals.beside)
    return totals


def test_each_run_adds_to_those_before() -> None:
    """Prometheus takes a counter that falls for a restart of the process, and would count everything twice."""
    pipeline = source(range(3)) >> named("first", same) >> named("last", same, maxsize=0)
    totals = watched(pipeline)
    seen: list[Seen] = [totals.see()]

    async def main() -> None:
        for _ in range(2):
            await pipeline
            seen.append(totals.see())

    testing.run(main())
    assert [one.counts["produced", "source(range)"] for one in seen] == [0, 3, 6]
    assert [one.counts["received", "last"] for one in seen] == [0, 3, 6]
    assert [one.counts["done", "last"] for one in seen] == [0, 3, 6]
    assert [one.running for one in seen] == [False] * 3
    assert seen[-1].present["maxsize", "last"] == math.inf


def test_everything_is_there_before_the_first_run() -> None:
    """A rate over a counter that appears only with its first item misses that item."""
    seen = Totals(plan_of(Pipeline(named("only", same, maxsize=5)))).see()
    assert seen.counts == {
        ("produced", "put()"): 0,
        **{(what, "only"): 0 for what in ("received", "done", "failed", "dropped", "retried")},
    }
    assert seen.present == {
        **{(what, "only"): 0 for what in ("queued", "in_flight", "workers", "stalled")},
        ("maxsize", "only"): 5,
    }


def test_a_run_under_way_is_seen_as_it_is() -> None:
    """Queues, workers and what is held up are told while they matter; afterwards there are none."""

    @consumer(concurrency=2)
    async def hangs(n: int) -> None:
        await asyncio.Event().wait()

    async def main() -> tuple[Seen, Seen, Seen]:
        pipeline = Pipeline(hangs, drain_timeout=0)
        running = await pipeline.__aenter__()
        totals = watched(pipeline)  # under way already
        for n in range(5):
            await running.put(n)
        await asyncio.sleep(1)
        first = totals.see()
        await asyncio.sleep(100)
        second = totals.see()
        with pytest.raises(PipelineError):
            await pipeline.__aexit__(None, None, None)
        return first, second, totals.see()

    first, second, ended = testing.run(main())
    assert (first.running, second.running, ended.running) == (True, True, False)
    figures = ("queued", "in_flight", "workers", "stalled")
    assert [first.present[what, "hangs"] for what in figures] == [3, 2, 2, 0]
    assert [second.present[what, "hangs"] for what in figures] == [3, 2, 2, 100]
    assert [ended.present[what, "hangs"] for what in figures] == [0, 0, 0, 0]
    assert ended.counts["received", "hangs"] == 5


def test_what_becomes_of_items_is_counted() -> None:
    """Failed, dropped, retried, and for how long calls were held back, by cause."""
    failing = named("failing", fails, on_error="skip", retry=Retry(3, wait=lambda attempt: 2.0))
    slow = named("slow", same, maxsize=1, overflow="drop_newest")
    pipeline = Pipeline(range(2), failing)
    other = Pipeline(range(10), slow)
    totals, others = watched(pipeline), watched(other)

    async def main() -> tuple[Report, Report]:
        return await pipeline, await other

    testing.run(main())
    counts = totals.see().counts
    assert [counts[what, "failing"] for what in ("received", "done", "failed", "retried")] == [2, 0, 2, 4]
    assert {what: seconds for what, seconds in counts.items() if what[0] == "held_back"} == {
        ("held_back", "failing", "the back-off"): 8
    }
    dropped = others.see().counts
    assert dropped["dropped", "slow"] + dropped["done", "slow"] == 10
    assert dropped["dropped", "slow"] > 0


def test_nothing_of_a_finished_run_is_kept() -> None:
    """What a run has left may be gigabytes of items, and the process lives for months."""

    class Item: ...

    kept: list[Any] = []

    @consumer
    async def hangs(item: Item) -> None:
        await asyncio.Event().wait()

    pipeline = Pipeline(hangs, drain_timeout=0)
    totals = watched(pipeline)

    async def main() -> None:
        async with pipeline as running:
            await running.put(item := Item())
            kept.append(weakref.ref(item))
            del item
            totals.see()

    with pytest.raises(PipelineError):
        testing.run(main())
    gc.collect()
    assert kept[0]() is None
    assert totals.see().counts["received", "hangs"] == 1
    assert not totals.health(60).live


def test_the_health_of_a_pipeline_is_that_of_its_run_or_of_the_last() -> None:
    """A probe may come before the first run, and after the last."""
    pipeline = source([1]) >> named("failing", fails)
    totals = watched(pipeline)
    told = [totals.health(60).why]

    async def main() -> None:
        with pytest.raises(PipelineError):
            await pipeline

    testing.run(main())
    told.append(totals.health(60).why)
    assert told[0] == "not started"
    assert told[1].startswith("failed: ValueError")


def test_a_rate_that_changes_stays_one_cause() -> None:
    """A label that changes begins another series, and the old one would stay for ever."""

    async def main() -> Report | None:
        async with pipeline as running:
            for n in range(4):
                await running.put(n)
            await asyncio.sleep(5)
            totals.see()
            running.set_rate("slow", Rate(1, per=2))
        return running.report

    pipeline = Pipeline(named("slow", same, rate=Rate(1, per=3)))
    totals = watched(pipeline)
    report = testing.run(main())
    assert report is not None
    ((words, seconds),) = report.stages[0].held_back
    assert words.startswith("its rate of 1 calls in 2 s")
    held_back = {what: count for what, count in totals.see().counts.items() if what[0] == "held_back"}
    assert held_back == {("held_back", "slow", "its rate"): seconds}


def test_a_run_whose_loop_was_closed_is_counted_as_far_as_it_was_seen() -> None:
    """The next run of the pipeline adds to it, and its late end counts nothing twice."""
    pipeline = Pipeline(named("only", same), name="lost")
    totals = watched(pipeline)
    loop = asyncio.new_event_loop()
    running = loop.run_until_complete(pipeline.__aenter__())
    loop.run_until_complete(running.put(1))
    loop.run_until_complete(asyncio.sleep(0))
    assert totals.see().counts["received", "only"] == 1
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # that is what this is about
    loop.close()
    assert totals.see().counts["received", "only"] == 1

    async def main() -> None:
        async with pipeline as again:
            await again.put(2)

    asyncio.run(main())
    assert totals.see().counts["received", "only"] == 2


async def test_counts_read_in_another_thread_only_rise() -> None:
    """prometheus_client's own server scrapes in threads, while the loop counts."""
    pipeline = endless >> named("first", same, concurrency=3) >> named("last", same)
    totals = watched(pipeline)
    seen: list[Seen] = []
    over = False

    def scrape() -> None:
        while not over:
            seen.append(totals.see())

    threads = [Thread(target=scrape) for _ in range(3)]
    async with pipeline as running:
        for thread in threads:
            thread.start()
        await until(lambda: len(seen) > 300)
        report = await running.drain(timeout=10)
        await until(lambda: seen[-1].counts["done", "last"] == report.done)
    await until(lambda: not seen[-1].running)
    over = True
    for thread in threads:
        thread.join()
    assert balanced(report)
    assert seen[-1].counts["done", "last"] == totals.see().counts["done", "last"] == report.done
    for what in ("received", "done"):
        assert all(one.counts[what, "last"] <= report.done for one in seen)
