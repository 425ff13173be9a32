"""How far a run has come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
from graphs import Graph, graphs, stage
from hypothesis import given, settings

from asyncpc import Consumer, Pipeline, Retry, broadcast, consumer, feed, merge, route, source, testing
from asyncpc.watch.extent import Extent, Journey, Standing


def throughs(pipeline: Pipeline[Any, Any]) -> list[int]:
    """How many items of the sources were through, every half second of a run, and at its end."""

    async def main() -> list[int]:
        way, seen = Extent(pipeline._plan), list[int]()
        async with pipeline as running:
            waiting = asyncio.ensure_future(running.wait())
            while not waiting.done():
                await asyncio.sleep(0.5)
                seen.append(way.through(running.statistics()))
            return [*seen, way.through((await waiting).statistics)]

    return testing.run(main())


def standings(pipeline: Pipeline[Any, Any]) -> list[Standing]:
    """How far a run had come, every half second of it, and at its end."""

    async def main() -> list[Standing]:
        journey, seen = Journey(pipeline._plan), list[Standing]()
        async with pipeline as running:
            waiting = asyncio.ensure_future(running.wait())
            while not waiting.done():
                await asyncio.sleep(0.5)
                seen.append(journey.standing(running.statistics()))
            return [*seen, journey.standing((await waiting).statistics)]

    return testing.run(main())


@consumer
async def slow(n: int) -> int:
    await asyncio.sleep(1)
    return n


async def dead(failure: object) -> None: ...


@pytest.mark.parametrize(
    "stages",
    [
        [route(lambda n: n % 2, {0: stage("a")}, on_error=consumer(dead))],
        [route(lambda n: n % 2, {0: stage("a")}, on_error="skip"), stage("b")],
        [consumer(on_error="skip")(lambda n: 1 // (n % 2)), stage("a")],
        [stage("a", overflow="drop_newest", maxsize=1), slow],
        [broadcast(stage("a", overflow="drop_oldest", maxsize=1), slow), stage("b")],
    ],
    ids=["told", "skipped by a route", "skipped by a stage", "dropped", "dropped by a branch"],
)
def test_an_item_that_failed_or_was_dropped_is_through(stages: list[Any]) -> None:
    """A bar that never gets full looks as if the run was cut short."""
    assert throughs(Pipeline[Any, Any](range(10), *stages))[-1] == 10


@pytest.mark.parametrize(
    "stages",
    [
        [slow],
        [broadcast(slow, stage("sink"))],
        [broadcast(slow, slow)],
        [broadcast(stage("sink"), route(lambda n: 0, {0: slow}, default=stage("a") >> stage("b"))), stage("save")],
        [broadcast(stage("sink"), stage("a") >> slow)],
        [route(lambda n: 0, {0: slow, 1: stage("sink")}), stage("a")],
        [broadcast(slow, stage("sink")), stage("save")],
    ],
)
def test_an_item_is_through_when_the_slowest_branch_has_it_done(stages: list[Any]) -> None:
    """A bar that is full at once, while all the work is still to be done, tells nothing."""
    seen = throughs(Pipeline[Any, Any](range(100), *stages))
    assert all(after - before <= 1 for before, after in pairwise([0, *seen]))
    assert seen[-1] == 100


def test_what_comes_behind_a_generator_is_not_counted() -> None:
    """Nobody can tell which items of the sources the values there come from, nor how many there will be."""

    @consumer
    async def many(n: int) -> AsyncIterator[int]:
        for more in range(1000):
            yield more

    assert throughs(Pipeline(range(3), many >> stage("a", on_error=stage("told"))))[-1] == 3
    merged = merge(source(range(5)) >> slow, source(range(2)) >> many) >> stage("a")
    seen = throughs(merged)
    assert (max(seen), seen[-1]) == (7, 7)


def tree(depth: int) -> Consumer[int, int, ..., Any]:
    """A stage that handles an item in a second and feeds two more, down to a depth: 2 to its power, less 1, in all."""

    @consumer(maxsize=0)
    async def node(n: int) -> int:
        await asyncio.sleep(1)
        if n < depth:
            feed(n + 1)
            feed(n + 1)
        return n

    return node


@consumer
async def even(n: int) -> AsyncIterator[int]:
    """A filter."""
    if n % 2 == 0:
        yield n


def odd(n: int) -> None:
    """Fails for each odd item, at each attempt."""
    if n % 2:
        raise ValueError


@pytest.mark.parametrize(
    "stages",
    [
        [tree(5)],
        [tree(5), slow],
        [tree(5), consumer(on_error="skip", retry=Retry(2, wait=lambda attempt: 0.5))(odd), stage("b")],
        [tree(5), broadcast(slow, stage("sink")), stage("save")],
        [tree(5), route(lambda n: n % 2, {0: slow}, default=stage("a")), stage("save")],
        [tree(5), even, stage("save")],
    ],
    ids=["one stage", "two stages", "retried and failed", "broadcast", "routed", "filtered"],
)
def test_a_run_that_feeds_itself_counts_what_is_done_and_what_waits(stages: list[Any]) -> None:
    """Its end is not known, but how much there is to do now: each item is done once, whatever became of it."""
    seen = standings(Pipeline[Any, Any]([1], *stages))
    under_way, last = seen[1:-2], seen[-1]
    assert all(one.share is None and one.left is None for one in under_way)
    assert all(one.waiting is not None and one.through + one.waiting <= 31 for one in under_way)
    assert all(before.through <= after.through for before, after in pairwise(seen))
    assert max(one.waiting for one in under_way if one.waiting) > 10
    assert len({one.through for one in under_way}) > 5  # it moves
    assert (last.through, last.total, last.waiting, last.share) == (31, 31, 0, 1.0)


@pytest.mark.parametrize("drawn", [30, pytest.param(100, marks=pytest.mark.thorough)])
def test_never_more_items_are_through_than_there_are(drawn: int) -> None:
    """In any graph, at any moment; and at the end it is all of them, whatever became of each."""

    @settings(max_examples=drawn)
    @given(graph=graphs)
    def never_more(graph: Graph) -> None:
        seen = throughs(graph.pipeline)
        assert all(0 <= through <= 3 * graph.sources for through in seen)
        assert seen[-1] == 3 * graph.sources

    never_more()


def test_a_rate_that_is_almost_none_is_none() -> None:
    """After an hour without an item the rate that fades is no figure to read."""
    standing = Standing(1, None, None, 3.1e-13, 3600.0, None, 0, 0, "", "slow queue 0/128")
    assert str(standing) == "1 · 0/s · 1:00:00 · slow queue 0/128"
    assert "· 0.0012/s ·" in str(standing._replace(rate=0.00123))
