"""Graphs: routes, broadcasts and merged pipelines.

In virtual time; the random scenarios (``scenarios``) draw graphs too, and cancel, kill and starve them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spy import Sink
from support import both, counts_by_stage, cut_short

from asyncpc import (
    Consumer,
    DefinitionError,
    Pipeline,
    PipelineError,
    Report,
    TooManyFailures,
    Unroutable,
    broadcast,
    consumer,
    merge,
    producer,
    route,
    source,
    testing,
)
from asyncpc.watch.drawing import draw


def remainder(by: int) -> Callable[[int], int]:
    return lambda n: n % by


# -- route ----------------------------------------------------------------------------------------


@both
def test_a_route_gives_each_item_to_its_branch(eager: bool) -> None:
    """One of them, in order; each branch has its own line, and the ends together are what was done."""
    even, odd, other = Sink("even"), Sink("odd"), Sink("other")
    branches = {0: even.consumer, 1: odd.consumer}
    report = testing.run(source(range(9)) >> route(lambda n: n % 3, branches, default=other.consumer), eager=eager)
    assert (even.items, odd.items, other.items) == ([0, 3, 6], [1, 4, 7], [2, 5, 8])
    assert counts_by_stage(report) == {"route": (9, 9, 0), "even": (3, 3, 0), "odd": (3, 3, 0), "other": (3, 3, 0)}
    assert (report.produced, report.done, report.failed) == (9, 9, 0)
    assert report.statistics.ends == ("even", "odd", "other")


def test_an_item_that_fits_no_route_is_an_error() -> None:
    """Invariant 7: nothing is dropped in silence; the error names the route, the key and the cure."""
    sink = Sink("sink", maxsize=1)
    with pytest.raises(PipelineError) as failed:
        testing.run(source([0, 7]) >> route(lambda n: n, {0: sink.consumer}, name="by number"))
    (error,) = failed.value.exceptions
    assert isinstance(error, Unroutable)
    assert isinstance(error, LookupError)
    assert str(error) == "route 'by number': no branch for 7, only for 0; add it, or a default="
    assert counts_by_stage(failed.value.report)["by number"] == (2, 1, 1)


def test_an_item_that_fits_no_route_may_be_skipped_or_told() -> None:
    """``on_error`` holds for a route as for any stage, and so does a ``by`` that raises."""
    sink, dead = Sink("sink"), Sink("dead")
    skipping = testing.run(source([0, 7, 0]) >> route(lambda n: n, {0: sink.consumer}, on_error="skip"))
    assert counts_by_stage(skipping)["route"] == (3, 2, 1)
    report = testing.run(source([1, 0, 7]) >> route(lambda n: 1 // n, {1: sink.consumer}, on_error=dead.consumer))
    assert counts_by_stage(report) == {"route": (3, 1, 2), "sink": (1, 1, 0), "dead": (2, 2, 0)}
    assert [failure.error.partition(":")[0] for failure in dead.items] == ["ZeroDivisionError", "Unroutable"]


def test_a_consumer_named_twice_is_one_branch() -> None:
    """Two keys for one warehouse are one queue, one line in the report, one set of workers."""
    alps, sea = Sink("alps"), Sink("sea")
    pipeline = source(["CH", "DK", "AT", "CH"]) >> route(str, {"CH": alps.consumer, "AT": alps.consumer}, sea.consumer)
    report = testing.run(pipeline)
    assert counts_by_stage(report) == {"route": (4, 4, 0), "alps": (3, 3, 0), "sea": (1, 1, 0)}
    assert "├─ CH, AT ─►" in draw(pipeline._plan, 200)


def test_branches_meet_again_in_the_next_stage() -> None:
    """A stage after a route gets what every branch gives, and one END, when the last of them has ended."""
    ends: list[int] = []
    save = Sink("save", concurrency=3)

    @consumer(name="slow")
    async def slow(n: int) -> int:
        await asyncio.sleep(n)
        return n

    @consumer
    async def odd(n: int) -> AsyncIterator[int]:
        for _ in range(n):
            yield n

    async def main() -> Report:
        pipeline = source(range(6)) >> route(remainder(2), {0: slow, 1: odd}) >> save.consumer
        async with pipeline as running:
            report = await running.wait()
            ends.extend(stage.inbox.statistics().ends - stage.staff.started for stage in running._run.stages)
            return report

    report = testing.run(main())
    assert Counter(save.items) == {0: 1, 2: 1, 4: 1, 1: 1, 3: 3, 5: 5}
    assert counts_by_stage(report) == {"route": (6, 6, 0), "slow": (3, 3, 0), "odd": (3, 3, 0), "save": (12, 12, 0)}
    assert ends == [0, 0, 0, 0]


def test_each_branch_has_its_own_bound() -> None:
    """Invariant 1, branch by branch: the consumer's ``maxsize``, else its pipeline's, else the whole's."""
    last = [Sink(name, maxsize=bound) for name, bound in (("own", 1), ("inner", None), ("outer", None))]
    own, inner, outer = (one.consumer for one in last)
    branches = {0: own, 1: Pipeline(inner, maxsize=2), 2: outer}
    for key, name, bound in ((0, "own", 1), (1, "inner", 2), (2, "outer", 5)):
        report = testing.run(Pipeline([key] * 50, route(remainder(3), branches, maxsize=7), maxsize=5))
        peaks = {stage.name: stage.peak_queued for stage in report.stages}
        assert (peaks["route"], peaks[name]) == (7, bound)


def test_a_full_branch_holds_the_source_up() -> None:
    """Backpressure goes through a branching: no more is taken than the queues before the slow branch hold."""
    taken: list[int] = []

    @producer
    async def numbers() -> AsyncIterator[int]:
        for n in range(100):
            taken.append(n)
            yield n

    @consumer(maxsize=2)
    async def stuck(n: int) -> None:
        await asyncio.Event().wait()

    async def main() -> Report:
        pipeline = Pipeline(numbers, route(remainder(1), {0: stuck}, maxsize=3))
        async with pipeline as running:
            await asyncio.sleep(1)
            return await running.drain(timeout=0)

    report = testing.run(main())
    assert len(taken) <= 1 + 2 + 1 + 3  # in hand, queued; in the route's hand (left in the queue, at the end), queued
    assert [one.item for one in report.unfinished if one.stage == "stuck"] == [0, 1, 2, 3]
    assert len(report.unfinished) == len(taken)


# -- broadcast ------------------------------------------------------------------------------------


@both
def test_a_broadcast_gives_each_item_to_each_branch(eager: bool) -> None:
    """Each of them, in order, the same objects; it counts one emitted for each branch."""
    store, index, notify = Sink("store"), Sink("index"), Sink("notify")
    items = [object() for _ in range(5)]
    report = testing.run(source(items) >> broadcast(store.consumer, index.consumer, notify.consumer), eager=eager)
    assert store.items == index.items == notify.items == items
    assert report.stages[0].emitted == 15
    assert (report.produced, report.done) == (5, 15)


def test_a_slow_branch_sets_the_pace_unless_it_may_drop() -> None:
    """A full branch holds up the others within their bounds; with ``overflow`` it does not."""

    async def main(overflow: str) -> tuple[int, int]:
        quick = Sink("quick", maxsize=1)

        @consumer(maxsize=1, overflow=cast(Any, overflow))
        async def slow(n: int) -> None:
            await asyncio.sleep(10)

        pipeline = Pipeline(range(50), broadcast(slow, quick.consumer))
        async with pipeline as running:
            await asyncio.sleep(5)
            seen = len(quick.items)
            report = await running.wait()
        return seen, report.dropped

    assert testing.run(main("wait"))[0] <= 3
    assert testing.run(main("drop_newest")) == (50, 48)


def test_an_item_that_a_branch_refuses_may_be_skipped_or_told() -> None:
    """A branch that is behind may say no: the item has failed in the broadcast, and the run need not end."""

    @consumer(maxsize=1, overflow="raise")
    async def live(n: int) -> None:
        await asyncio.sleep(10)

    store, after, dead = Sink("store"), Sink("after"), Sink("dead")
    with pytest.raises(PipelineError) as failed:
        testing.run(source(range(5)) >> broadcast(store.consumer, live))
    assert "stage 'live': its queue is full, and overflow='raise'" in str(failed.value.exceptions[0])
    store.items.clear()
    report = testing.run(source(range(5)) >> broadcast(store.consumer, live, after.consumer, on_error=dead.consumer))
    assert store.items == [0, 1, 2, 3, 4]
    assert [failure.item for failure in dead.items] == [n for n in range(5) if n not in after.items]
    assert counts_by_stage(report)["broadcast"] == (5, len(after.items), len(dead.items))
    assert len(dead.items) >= 3
    report = testing.run(source(range(5)) >> broadcast(store.consumer, live, on_error="skip", max_failures=4))
    assert report.complete
    assert report.failed >= 3
    with pytest.raises(PipelineError, match="failed") as failed:
        testing.run(source(range(5)) >> broadcast(live, on_error="skip", max_failures=1))
    assert isinstance(failed.value.exceptions[0], TooManyFailures)


def test_a_cancelled_broadcast_has_given_its_item_to_all_branches() -> None:
    """Invariant 2: cancelled while it waits for room in one branch, it leaves the item in that one and in the rest."""

    @consumer(maxsize=1)
    async def stuck(n: int) -> None:
        await asyncio.Event().wait()

    other = Sink("other", maxsize=1)

    report = cut_short(Pipeline(range(9), broadcast(stuck, other.consumer)))
    first = counts_by_stage(report)["broadcast"][1]
    assert [stage.received for stage in report.stages[1:]] == [first, first]
    left = [one.item for one in report.unfinished if one.stage == "stuck"]
    assert left == list(range(first))


# -- merged pipelines -----------------------------------------------------------------------------


@both
def test_pipelines_are_merged(eager: bool) -> None:
    """What one part needs done before comes from its own stages; a source without any goes straight to the next."""
    save, parse = Sink("save"), Sink("parse")
    parts = merge(source([1, 2], "raw") >> parse.consumer, source([8, 9], "clean"))
    report = testing.run(parts >> save.consumer, eager=eager)
    assert sorted(map(str, save.items)) == sorted(map(str, [("parse", 1), ("parse", 2), 8, 9]))
    assert counts_by_stage(report) == {"parse": (2, 2, 0), "save": (4, 4, 0)}
    assert (report.produced, report.done) == (4, 4)


def test_a_drain_stops_every_source_of_merged_pipelines() -> None:
    """END goes through all parts, also while their sources are idle."""

    @producer
    async def idle(name: str) -> AsyncIterator[str]:
        yield name
        await asyncio.Event().wait()

    first, second, save = Sink("first"), Sink("second"), Sink("save")

    async def main() -> Report:
        pipeline = merge(idle("a") >> first.consumer, idle("b") >> second.consumer, idle("c")) >> save.consumer
        async with pipeline as running:
            await asyncio.sleep(1)
            return await running.drain(timeout=1)

    report = testing.run(main())
    assert report.complete
    assert len(save.items) == 3


def test_a_pipeline_without_a_source_cannot_be_merged() -> None:
    """Refused where it is written."""
    with pytest.raises(DefinitionError, match="has no source: only a part with a source can come first or be merged"):
        merge(cast(Any, Pipeline(Sink("a").consumer)), [1])
    with pytest.raises(DefinitionError, match="only a pipeline can read a merged source"):
        aiter(merge(source([1]) >> Sink("a").consumer))


# -- any graph ------------------------------------------------------------------------------------


Shape = int | tuple[str, tuple["Chain", ...]]
Chain = tuple[Shape, ...]
"""Stages that give so many values per item, and branchings."""

chains = st.recursive(
    st.integers(0, 2).map(lambda fan: (fan,)),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda two: (*two[0], *two[1])),
        st.tuples(st.sampled_from(["route", "broadcast"]), st.lists(inner, min_size=1, max_size=3).map(tuple)).map(
            lambda one: (one,)
        ),
    ),
    max_leaves=7,
)


def stages_of(chain: Chain) -> Iterator[Any]:
    for shape in chain:
        if isinstance(shape, int):
            yield _fan(shape)
        else:
            kind, inner = shape
            branches: list[Any] = [Pipeline(*stages_of(one)) for one in inner]
            yield (
                broadcast(*branches)
                if kind == "broadcast"
                else route(remainder(len(branches)), dict(enumerate(branches)))
            )


def _fan(fan: int) -> Consumer[int, int, ..., Any]:
    @consumer(concurrency=2)
    async def give(n: int) -> AsyncIterator[int]:
        for more in range(fan):
            await asyncio.sleep(more)
            yield n + more

    return give


def expected(chain: Chain, items: list[int]) -> list[int]:
    """What a chain makes of items, by the plainest means."""
    for shape in chain:
        if isinstance(shape, int):
            items = [n + more for n in items for more in range(shape)]
        else:
            kind, inner = shape
            parts = [
                expected(one, [n for n in items if kind == "broadcast" or n % len(inner) == at])
                for at, one in enumerate(inner)
            ]
            items = [n for part in parts for n in part]
    return items


@given(chain=chains, count=st.integers(0, 5), maxsize=st.sampled_from([1, 2, 128]))
def test_any_graph_gives_what_plain_loops_give(chain: Chain, count: int, maxsize: int) -> None:
    """END and drain are right through any acyclic graph: all of it comes out, once, and the run ends by itself."""

    async def main() -> tuple[list[int], Report]:
        parts: list[Any] = [range(count), *stages_of(chain)]
        async with Pipeline[Any, Any](*parts, maxsize=maxsize).stream() as values:
            got = [value async for value in values]
        assert values.report is not None
        return got, values.report

    got, report = testing.run(main())
    assert Counter(got) == Counter(expected(chain, list(range(count))))
    assert report.complete
    assert report.done == sum(stage.done for stage in report.stages if stage.name in report.statistics.ends)


# -- definitions and pictures ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (lambda c: route(cast(Any, 3), {0: c}), "route 'route': by=3 must be a function of an item"),
        (lambda c: route(cast(Any, lambda: 1), {0: c}), "must be a function of an item"),
        (lambda c: route(cast(Any, c.__wrapped__), {0: c}), "by= must be a plain function: its value is needed"),
        (lambda c: route(c, {0: c}), "by=<Consumer handle> is a consumer: it must be a function of an item"),
        (lambda c: route(cast(Any, None), {0: c}), "by=None must be a function of an item"),
        (lambda c: route(str, {"a": c}, name=cast(Any, 3)), "name=3 must be a string"),
        (lambda c: broadcast(cast(Any, [c, c])), "each as an argument: broadcast\\(a, b\\)"),
        (lambda c: consumer(key=c.__wrapped__)(c.__wrapped__), "key= must be a plain function"),
        (lambda c: consumer(on_error=cast(Any, Pipeline(c)))(c.__wrapped__), "or a consumer, function or queue"),
        (lambda c: route(str, {}), "branches={} must be a dictionary"),
        (lambda c: route(str, cast(Any, [c])), "must be a dictionary: {key: consumer, …}"),
        (
            lambda c: route(str, {"a": cast(Any, print)}),
            "branch 1 of 'route', .*is not a stage: decorate it with @cons",
        ),
        (lambda c: route(str, {"a": c}, cast(Any, source([1]))), "produces items itself, so it can only come first"),
        (lambda c: route(str, {"a": cast(Any, source([1]) >> c)}), "produces items itself, so it can only come first"),
        (lambda c: route(str, {"a": c}, maxsize=-1), "maxsize=-1 must be a whole number"),
        (lambda c: route(str, {"a": c}, on_error=cast(Any, "ignore")), "on_error='ignore' must be"),
        (lambda c: route(str, {"a": c}, name="a\nb"), "must be printable"),
        (lambda c: cast(Any, broadcast)(), "broadcast 'broadcast' needs at least one branch"),
        (lambda c: broadcast(c, cast(Any, [1])), "branch 2 of 'broadcast'"),
        (lambda c: broadcast(c, on_error=cast(Any, "ignore")), "consumer 'broadcast': on_error='ignore' must be"),
        (lambda c: broadcast(c, max_failures=3), "max_failures= needs on_error='skip' or a receiver"),
        (lambda c: consumer(on_error=c, max_failures=-1)(c.__wrapped__), "max_failures=-1"),
    ],
)
def test_mistakes_in_branches_are_refused_when_written(wrong: Callable[[Any], Any], why: str) -> None:
    """Bad input gets a clear error at definition time, which names the branching and the cure."""

    @consumer
    async def handle(item: Any) -> None: ...

    with pytest.raises(DefinitionError, match=why):
        wrong(handle)


def test_any_key_may_name_a_branch() -> None:
    """An empty key, and keys that look alike, are keys like any other, also to ``call`` and in the picture."""
    branches = {"": Sink("empty").consumer, 1: Sink("number").consumer, "1": Sink("text").consumer}
    pipeline = Pipeline(route(lambda key: key, branches, default=Sink("other").consumer))

    async def main() -> list[Any]:
        async with pipeline as running:
            return [await running.call(cast(Any, key)) for key in ("", 1, "1", "default")]

    assert [name for name, _ in testing.run(main())] == ["empty", "number", "text", "other"]
    picture = draw(pipeline._plan, 200)
    assert all(f"─ {label} ─►" in picture for label in ("''", "1", "'1'", "default"))
