"""Graphs: routes, broadcasts, merged pipelines, and consumers that are told of failures.

In virtual time; the random scenarios (``scenarios.py``) draw graphs too, and cancel, kill and starve them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spy import Sink
from virtual import EAGER, ran, run_virtual

from asyncpc import (
    Batch,
    Consumer,
    DefinitionError,
    Failure,
    Pipeline,
    PipelineError,
    QueueShutDown,
    Report,
    StateError,
    Unroutable,
    broadcast,
    consumer,
    feed,
    merge,
    producer,
    route,
    source,
)
from asyncpc.watch.drawing import draw

both = pytest.mark.parametrize("eager", EAGER)


def cut_short(pipeline: Pipeline[Any, Any]) -> Report:
    """What is told of a run that is cancelled after a second."""

    async def main() -> Report:
        async with pipeline as running:
            await asyncio.sleep(1)
            return await running.drain(timeout=0)

    return run_virtual(main)


def stages(report: Report) -> dict[str, tuple[int, int, int]]:
    """Received, done and failed by stage."""
    return {stage.name: (stage.received, stage.done, stage.failed) for stage in report.stages}


def remainder(by: int) -> Callable[[int], int]:
    return lambda n: n % by


# -- route ----------------------------------------------------------------------------------------


@both
def test_a_route_gives_each_item_to_its_branch(eager: bool) -> None:
    """One of them, in order; each branch has its own line, and the ends together are what was done."""
    even, odd, other = Sink("even"), Sink("odd"), Sink("other")
    branches = {0: even.consumer, 1: odd.consumer}
    report = ran(source(range(9)) >> route(lambda n: n % 3, branches, default=other.consumer), eager=eager)
    assert (even.items, odd.items, other.items) == ([0, 3, 6], [1, 4, 7], [2, 5, 8])
    assert stages(report) == {"route": (9, 9, 0), "even": (3, 3, 0), "odd": (3, 3, 0), "other": (3, 3, 0)}
    assert (report.produced, report.done, report.failed) == (9, 9, 0)
    assert report.statistics.ends == ("even", "odd", "other")


def test_an_item_that_fits_no_route_is_an_error() -> None:
    """Invariant 7: nothing is dropped in silence; the error names the route, the key and the cure."""
    sink = Sink("sink", maxsize=1)
    with pytest.raises(PipelineError) as failed:
        ran(source([0, 7]) >> route(lambda n: n, {0: sink.consumer}, name="by number"))
    (error,) = failed.value.exceptions
    assert isinstance(error, Unroutable)
    assert isinstance(error, LookupError)
    assert str(error) == "route 'by number': no branch for 7, only for 0; add it, or a default="
    assert stages(failed.value.report)["by number"] == (2, 1, 1)


def test_an_item_that_fits_no_route_may_be_skipped_or_told() -> None:
    """``on_error`` holds for a route as for any stage, and so does a ``by`` that raises."""
    sink, dead = Sink("sink"), Sink("dead")
    skipping = ran(source([0, 7, 0]) >> route(lambda n: n, {0: sink.consumer}, on_error="skip"))
    assert stages(skipping)["route"] == (3, 2, 1)
    report = ran(source([1, 0, 7]) >> route(lambda n: 1 // n, {1: sink.consumer}, on_error=dead.consumer))
    assert stages(report) == {"route": (3, 1, 2), "sink": (1, 1, 0), "dead": (2, 2, 0)}
    assert [failure.error.partition(":")[0] for failure in dead.items] == ["ZeroDivisionError", "Unroutable"]


def test_a_consumer_named_twice_is_one_branch() -> None:
    """Two keys for one warehouse are one queue, one line in the report, one set of workers."""
    alps, sea = Sink("alps"), Sink("sea")
    pipeline = source(["CH", "DK", "AT", "CH"]) >> route(str, {"CH": alps.consumer, "AT": alps.consumer}, sea.consumer)
    report = ran(pipeline)
    assert stages(report) == {"route": (4, 4, 0), "alps": (3, 3, 0), "sea": (1, 1, 0)}
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

    report = run_virtual(main)
    assert Counter(save.items) == {0: 1, 2: 1, 4: 1, 1: 1, 3: 3, 5: 5}
    assert stages(report) == {"route": (6, 6, 0), "slow": (3, 3, 0), "odd": (3, 3, 0), "save": (12, 12, 0)}
    assert ends == [0, 0, 0, 0]


def test_each_branch_has_its_own_bound() -> None:
    """Invariant 1, branch by branch: the consumer's ``maxsize``, else its pipeline's, else the whole's."""
    last = [Sink(name, maxsize=bound) for name, bound in (("own", 1), ("inner", None), ("outer", None))]
    own, inner, outer = (one.consumer for one in last)
    branches = {0: own, 1: Pipeline(inner, maxsize=2), 2: outer}
    for key, name, bound in ((0, "own", 1), (1, "inner", 2), (2, "outer", 5)):
        report = ran(Pipeline([key] * 50, route(remainder(3), branches, maxsize=7), maxsize=5))
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

    report = run_virtual(main)
    assert len(taken) <= 1 + 2 + 1 + 3  # in hand, queued; in the route's hand (left in the queue, at the end), queued
    assert [one.item for one in report.unfinished if one.stage == "stuck"] == [0, 1, 2, 3]
    assert len(report.unfinished) == len(taken)


# -- broadcast ------------------------------------------------------------------------------------


@both
def test_a_broadcast_gives_each_item_to_each_branch(eager: bool) -> None:
    """Each of them, in order, the same objects; it counts one emitted for each branch."""
    store, index, notify = Sink("store"), Sink("index"), Sink("notify")
    items = [object() for _ in range(5)]
    report = ran(source(items) >> broadcast(store.consumer, index.consumer, notify.consumer), eager=eager)
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

    assert run_virtual(main, "wait")[0] <= 3
    assert run_virtual(main, "drop_newest") == (50, 48)


def test_a_cancelled_broadcast_has_given_its_item_to_all_branches() -> None:
    """Invariant 2: cancelled while it waits for room in one branch, it leaves the item in that one and in the rest."""

    @consumer(maxsize=1)
    async def stuck(n: int) -> None:
        await asyncio.Event().wait()

    other = Sink("other", maxsize=1)

    report = cut_short(Pipeline(range(9), broadcast(stuck, other.consumer)))
    first = stages(report)["broadcast"][1]
    assert [stage.received for stage in report.stages[1:]] == [first, first]
    left = [one.item for one in report.unfinished if one.stage == "stuck"]
    assert left == list(range(first))


# -- merged pipelines -----------------------------------------------------------------------------


@both
def test_pipelines_are_merged(eager: bool) -> None:
    """What one part needs done before comes from its own stages; a source without any goes straight to the next."""
    save, parse = Sink("save"), Sink("parse")
    parts = merge(source([1, 2], "raw") >> parse.consumer, source([8, 9], "clean"))
    report = ran(parts >> save.consumer, eager=eager)
    assert sorted(map(str, save.items)) == sorted(map(str, [("parse", 1), ("parse", 2), 8, 9]))
    assert stages(report) == {"parse": (2, 2, 0), "save": (4, 4, 0)}
    assert (report.produced, report.done) == (4, 4)


@pytest.mark.parametrize("work", [0, 1])
@pytest.mark.parametrize("stages", [0, 1])
@pytest.mark.parametrize("maxsize", [1, 2, 3, 8, 128])
def test_where_branches_meet_each_gets_its_share(work: int, stages: int, maxsize: int) -> None:
    """Nobody starves: beside one that always has items, another gets at least a third of what it could have."""
    seconds = 1000 if work else 100

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

    got = run_virtual(main)
    assert got["ticking"] >= seconds / 2 / 3
    assert got["busy"] >= got["ticking"] / 3


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

    report = run_virtual(main)
    assert report.complete
    assert len(save.items) == 3


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

    run_virtual(main)
    assert len(refused) == 1


def test_a_pipeline_without_a_source_cannot_be_merged() -> None:
    """Refused where it is written."""
    with pytest.raises(DefinitionError, match="has no source: only a part with a source can come first or be merged"):
        merge(cast(Any, Pipeline(Sink("a").consumer)), [1])
    with pytest.raises(DefinitionError, match="only a pipeline can read a merged source"):
        aiter(merge(source([1]) >> Sink("a").consumer))


# -- a consumer that is told of failures ----------------------------------------------------------


@both
def test_a_consumer_told_of_failures_is_a_stage(eager: bool) -> None:
    """It has its queue, workers and line in the report; one consumer for several stages is one stage."""
    dead = Sink("dead", batch=Batch(2), concurrency=2)

    @consumer(on_error=dead.consumer, retry=2)
    async def half(n: int) -> int:
        if n % 2:
            raise ValueError(f"odd: {n}")
        return n // 2

    @consumer(on_error=dead.consumer)
    async def invert(n: int) -> float:
        return 1 / n

    report = ran(source(range(8)) >> half >> invert, eager=eager)
    assert stages(report) == {"half": (8, 4, 4), "invert": (4, 3, 1), "dead": (5, 5, 0)}
    told = [failure for batch in dead.items for failure in batch]
    assert {(failure.stage, failure.item, failure.attempts) for failure in told} == {
        *(("half", n, 2) for n in (1, 3, 5, 7)),
        ("invert", 0, 1),
    }
    assert (report.done, report.failed) == (3, 5)


def test_a_full_consumer_of_failures_holds_up_those_who_tell_it() -> None:
    """Fault C7: failures count against a bound too, and one told while it was cancelled is in the queue."""

    @consumer(maxsize=1)
    async def dead(failure: Failure) -> None:
        await asyncio.Event().wait()

    @consumer(on_error=dead)
    async def fails(n: int) -> None:
        raise ValueError(n)

    async def main() -> Report:
        async with Pipeline(range(9), fails) as running:
            await asyncio.sleep(1)
            assert stages(cast(Any, running.statistics()))["fails"][2] == 2
            return await running.drain(timeout=0)

    report = run_virtual(main)
    assert stages(report)["fails"][2] == stages(report)["dead"][0] == 3
    left = [one.item for one in report.unfinished]
    assert sorted(one.item if isinstance(one, Failure) else one for one in left) == list(range(9))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_batch_cancelled_while_its_failures_are_told_is_counted_once(size: int) -> None:
    """Invariants 2 and 4: of a batch that failed, each item is told and failed, or unfinished, never both."""

    @consumer(maxsize=1)
    async def dead(failure: Failure) -> None:
        await asyncio.Event().wait()

    @consumer(on_error=dead, batch=Batch(size))
    async def fails(batch: list[int]) -> None:
        raise ValueError(batch)

    report = cut_short(Pipeline(range(9), fails))
    left = [one.item for one in report.unfinished]
    assert sorted(one.item if isinstance(one, Failure) else one for one in left) == list(range(9))
    assert stages(report)["fails"] == (9, 0, 3)


def test_a_batch_cancelled_while_a_function_is_told_is_counted_once() -> None:
    """The same for a destination that is a function: who it was told of has failed, the rest is unfinished."""
    told: list[int] = []

    async def tell(failure: Failure) -> None:
        told.append(failure.item)
        await (asyncio.Event().wait() if failure.item == 2 else asyncio.sleep(0))

    @consumer(on_error=tell, batch=Batch(4))
    async def fails(batch: list[int]) -> None:
        raise ValueError(batch)

    report = cut_short(Pipeline(range(4), fails))
    assert told == [0, 1, 2]
    assert stages(report)["fails"] == (4, 0, 2)
    assert [one.item for one in report.unfinished] == [2, 3]


def test_a_consumer_of_failures_that_fails_stops_the_run() -> None:
    """Fault C9: a destination that fails is a failure; it may have a policy and a destination of its own."""
    last = Sink("last")

    @consumer
    async def breaks(failure: Failure) -> None:
        raise OSError("disk full")

    @consumer(on_error=last.consumer)
    async def breaks_too(failure: Failure) -> None:
        raise OSError("disk full")

    def failing(dead: Any) -> Consumer[int, None, ..., Any]:
        @consumer(on_error=dead)
        async def fails(n: int) -> None:
            raise ValueError(n)

        return fails

    with pytest.raises(PipelineError) as failed:
        ran(source([1]) >> failing(breaks))
    assert [type(error) for error in failed.value.exceptions] == [OSError]
    report = ran(source([1]) >> failing(breaks_too))
    assert stages(report) == {"fails": (1, 0, 1), "breaks_too": (1, 0, 1), "last": (1, 1, 0)}
    assert last.items[0].item.item == 1


def test_a_consumer_told_by_one_that_is_told_comes_after_both() -> None:
    """END reaches a stage when all that may tell it have ended, in whatever order they were named."""
    last = Sink("last")

    @consumer(on_error=last.consumer)
    async def letters(failure: Failure) -> None:
        await asyncio.sleep(1)
        raise OSError

    @consumer(on_error=last.consumer)
    async def first(n: int) -> int:
        if n == 0:
            raise ValueError
        return n

    @consumer(on_error=letters)
    async def second(n: int) -> None:
        raise ValueError

    report = ran(source(range(3)) >> first >> second)
    assert stages(report)["last"] == (3, 3, 0)
    assert [stage.name for stage in report.stages] == ["first", "second", "letters", "last"]


# -- results, requests ----------------------------------------------------------------------------


def test_the_results_of_all_branches_are_streamed() -> None:
    """Each end of the graph gives to the reader; what is told of failures does not."""
    a, b, dead = Sink("a"), Sink("b"), Sink("dead")

    async def main() -> list[Any]:
        parts = source(range(6)) >> route(lambda n: n % 3, {0: a.consumer, 1: b.consumer}, on_error=dead.consumer)
        async with parts.stream() as values:
            return [value async for value in values]

    assert sorted(run_virtual(main)) == [("a", 0), ("a", 3), ("b", 1), ("b", 4)]
    assert len(dead.items) == 2


@both
def test_a_call_goes_through_a_route(eager: bool) -> None:
    """The caller gets what its own item became, or that no route was for it; nobody else is disturbed."""
    even, odd, join = Sink("even"), Sink("odd"), Sink("join")
    pipeline = Pipeline(route(lambda n: n % 3, {0: even.consumer, 1: odd.consumer}), join.consumer)

    async def main() -> None:
        async with pipeline as running:
            assert await running.call(3) == cast(Any, ("join", ("even", 3)))
            assert await asyncio.gather(*map(running.call, range(0, 30, 3))) == [
                ("join", ("even", n)) for n in range(0, 30, 3)
            ]
            with pytest.raises(Unroutable, match="no branch for 2"):
                await running.call(2)
            assert await running.call(1) == cast(Any, ("join", ("odd", 1)))

    run_virtual(main, eager=eager)


def test_a_call_through_a_broadcast_is_refused() -> None:
    """One request has one result."""

    async def main() -> None:
        async with Pipeline(broadcast(Sink("a").consumer, Sink("b").consumer)) as running:
            with pytest.raises(StateError, match="stage 'broadcast' may give more"):
                await running.call(1)

    run_virtual(main)


def test_an_interrupted_handler_tells_its_caller_only_that_there_is_no_more() -> None:
    """Fault B13: KeyboardInterrupt comes out of the run, not of whoever asked for a result."""
    got: list[BaseException] = []

    @consumer
    async def interrupted(n: int) -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        async def ask() -> None:
            try:
                await running.call(1)
            except QueueShutDown as error:
                got.append(error)

        async with Pipeline(interrupted) as running:
            await asyncio.create_task(ask())

    with pytest.raises(KeyboardInterrupt):
        run_virtual(main)
    assert len(got) == 1


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

    got, report = run_virtual(main)
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
        (lambda c: route(c, {0: c}), "by=<Consumer handle> must be a plain function"),
        (lambda c: route(cast(Any, None), {0: c}), "by=None must be a plain function"),
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
        (lambda c: consumer(on_error=c, max_failures=-1)(c.__wrapped__), "max_failures=-1"),
    ],
)
def test_mistakes_in_branches_are_refused_when_written(wrong: Callable[[Any], Any], why: str) -> None:
    """Bad input gets a clear error at definition time, which names the branching and the cure."""

    @consumer
    async def handle(item: Any) -> None: ...

    with pytest.raises(DefinitionError, match=why):
        wrong(handle)


def test_the_bound_of_a_pipeline_holds_wherever_it_is_put() -> None:
    """A ``maxsize`` that was asked for is no option that is parsed and ignored: not after ``>>``, not in ``merge``."""
    a, b, c = (Sink(name).consumer for name in "abc")

    def bounds(pipeline: Pipeline[Any, Any]) -> list[int]:
        return [pipeline._plan.bound(handler) for handler in [node.handler for node in pipeline._plan.nodes]]

    assert bounds(source([1]) >> Pipeline(a, maxsize=5) >> Pipeline(b, maxsize=9)) == [5, 9]
    assert bounds(source([1]) >> a >> Pipeline(b, maxsize=9)) == [128, 9]
    assert bounds(merge(Pipeline([1], a, maxsize=5), [2]) >> b) == [5, 128]
    assert bounds(Pipeline(Pipeline(a, maxsize=5), b, maxsize=7)) == [5, 7]
    assert bounds(Pipeline(a, maxsize=5) >> b) == [5, 5]  # a chain goes on as it began
    assert (source([1]) >> a >> Pipeline(b, drain_timeout=3))._plan.drain_timeout == 3
    assert bounds(source([1]) >> route(str, {"1": a, "2": Pipeline(b, maxsize=2)}) >> Pipeline(c, maxsize=3)) == [
        *(128, 128, 2, 3)
    ]


def test_names_are_made_unique_once() -> None:
    """What is joined from joined parts has a, a#2, a#3, …, and each name stays with its stage."""
    a = Sink("a").consumer
    twice = a >> a
    pipeline = source([1]) >> broadcast(twice, twice) >> a
    assert [handler.name for handler in [node.handler for node in pipeline._plan.nodes]] == [
        "broadcast",
        "a",
        "a#2",
        "a#3",
        "a#4",
        "a#5",
    ]


def test_a_drain_timeout_holds_whichever_part_says_it() -> None:
    """Parsed is not ignored: in a branch, in a merged part, behind ``>>``; the whole's own comes first."""
    a, b = Sink("a").consumer, Sink("b").consumer

    def timeout(pipeline: Pipeline[Any, Any]) -> float:
        return pipeline._plan.drain_timeout

    assert timeout(source([1]) >> route(str, {"1": Pipeline(a, drain_timeout=2)})) == 2
    assert timeout(merge(Pipeline([1], a, drain_timeout=2), [2]) >> b) == 2
    assert timeout(Pipeline(a, drain_timeout=30) >> Pipeline(b, drain_timeout=2)) == 30
    assert timeout(source([1]) >> a >> Pipeline(b, drain_timeout=2)) == 2
    assert timeout(Pipeline(Pipeline(a, drain_timeout=2), drain_timeout=1)) == 1


def test_any_key_may_name_a_branch() -> None:
    """An empty key, and keys that look alike, are keys like any other, also to ``call`` and in the picture."""
    branches = {"": Sink("empty").consumer, 1: Sink("number").consumer, "1": Sink("text").consumer}
    pipeline = Pipeline(route(lambda key: key, branches, default=Sink("other").consumer))

    async def main() -> list[Any]:
        async with pipeline as running:
            return [await running.call(cast(Any, key)) for key in ("", 1, "1", "default")]

    assert [name for name, _ in run_virtual(main)] == ["empty", "number", "text", "other"]
    picture = draw(pipeline._plan, 200)
    assert all(f"─ {label} ─►" in picture for label in ("''", "1", "'1'", "default"))


def test_the_slowest_of_branches_that_meet_is_named() -> None:
    """Each stage is told its own waiting, not that of the others that give to the same queue."""

    @consumer
    async def slow(n: int) -> int:
        await asyncio.sleep(0.02)
        return n

    @consumer(concurrency=16)
    async def quick(n: int) -> int:
        return n

    @consumer(maxsize=1)
    async def join(n: int) -> None:
        await asyncio.sleep(0.001)

    report = ran(merge(source(range(60)) >> slow, source(range(300)) >> quick) >> join)
    waited = {stage.name: stage.out_waited for stage in report.stages}
    assert report.statistics.bottleneck().startswith("slow: busy"), report.statistics.bottleneck()
    assert waited["slow"] < 0.2 < waited["quick"]


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

    run_virtual(main)
