"""How values leave a stage: what was emitted stays emitted, and no loop of the framework holds the event loop."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import pytest
from spy import Sink
from support import AnyStage, Odd, balanced, both, counts, error_types, named, no_wait, refuse_odd

from asyncpc import (
    Batch,
    Failure,
    Pipeline,
    PipelineError,
    Report,
    Retry,
    Running,
    StageStatistics,
    broadcast,
    consumer,
    route,
    source,
    testing,
)
from asyncpc.testing import idle, now


async def plain(item: int) -> int:
    return item


async def generate(item: int) -> AsyncIterator[int]:
    yield item


async def batch(items: list[int]) -> list[int]:
    return items


async def generate_from_batch(items: list[int]) -> AsyncIterator[int]:
    for item in items:
        yield item


def stage(kind: str, **options: Any) -> Any:
    """A stage that gives its items as they are."""
    made: dict[str, tuple[Any, dict[str, Any]]] = {
        "plain": (plain, {}),
        "ordered": (plain, {"ordered": True}),
        "generator": (generate, {}),
        "ordered generator": (generate, {"ordered": True}),
        "batch": (batch, {"batch": Batch(1)}),
        "generating batch": (generate_from_batch, {"batch": Batch(1)}),
    }
    function, own = made[kind]
    return consumer(**own, **options)(function)


KINDS = ["plain", "ordered", "generator", "ordered generator", "batch", "generating batch"]


def full_and_refusing() -> Any:
    """A stage that takes one item and keeps it; then there is room for one more, if it is even."""

    @consumer(maxsize=1, key=refuse_odd, name="refusing")
    async def refusing(item: int) -> None:
        await asyncio.Event().wait()

    return refusing


async def failed_when_full(pipeline: Pipeline[Any, Any], worker: str = "") -> Report:
    """Put an item that is handled, one that is queued, and 1, which waits for room; then the deadline comes.

    Or the task of that ``worker`` is cancelled from outside.
    """

    async def run() -> None:
        async with pipeline as running:
            for item in (0, 2, 1):
                await running.put(item)
            await idle()
            if worker:
                {task.get_name(): task for task in asyncio.all_tasks()}[worker].cancel()
                await running.wait()
            await running.drain(0)

    with pytest.raises(PipelineError) as failed:
        await run()
    assert [(type(error), str(error)) for error in failed.value.exceptions] == [(Odd, "1")]
    assert balanced(failed.value.report)
    return failed.value.report


# -- refused when the end comes -------------------------------------------------------------------


@both
@pytest.mark.parametrize("how", ["deadline", "worker"])
@pytest.mark.parametrize("on_error", ["stop", "skip"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_value_refused_when_it_is_left_fails_the_run(kind: str, on_error: Any, how: str, eager: bool) -> None:
    """Protects an error from getting lost: the value waits for room, its worker is cancelled, no policy is asked.

    If somebody else cancels the worker, it must not go on, either.
    """
    made = stage(kind, on_error=on_error, name="giving")

    async def main() -> None:
        pipeline: Pipeline[Any, Any] = Pipeline(made, full_and_refusing(), drain_timeout=1)
        report = await failed_when_full(pipeline, "asyncpc:giving-1" if how == "worker" else "")
        giving, refusing = report.stages
        assert (giving.done, giving.failed, giving.in_flight, giving.emitted) == (2, 1, 0, 2)
        assert refusing.received == 2

    testing.run(main(), eager=eager)


@both
def test_a_copy_refused_when_it_is_left_fails_the_run(eager: bool) -> None:
    """Protects a broadcast that is cancelled: it stops at the first branch that refuses, and the run says so."""

    @consumer(name="last")
    async def last(item: int) -> None:
        pass

    @consumer(maxsize=1, name="full")
    async def full(item: int) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        pipeline: Pipeline[Any, Any] = Pipeline(broadcast(full, full_and_refusing(), last))
        report = await failed_when_full(pipeline)
        assert [(one.name, one.received) for one in report.stages[1:]] == [("full", 3), ("refusing", 2), ("last", 2)]
        assert (report.stages[0].done, report.stages[0].failed) == (2, 1)

    testing.run(main(), eager=eager)


@both
@pytest.mark.parametrize("kind", ["plain", "ordered"])
def test_a_failure_nobody_was_told_of_is_listed(kind: str, eager: bool) -> None:
    """Protects an item whose value was refused: whoever is to be told is cancelled, so it must not count as done."""

    async def told(failure: Failure) -> None:
        await asyncio.Event().wait()

    @consumer(key=refuse_odd)
    async def refusing(item: int) -> None:
        pass

    async def main() -> None:
        async with Pipeline(stage(kind, on_error=told, concurrency=2), refusing) as running:
            for item in (0, 1, 2):
                await running.put(item)
            await idle()
            report = await running.drain(0)
        assert (report.unfinished[0].stage, report.unfinished[0].item) == ("plain", 1)
        assert (report.stages[0].done, report.stages[0].failed) == (2, 0)

    testing.run(main(), eager=eager)


@both
@pytest.mark.parametrize("kind", ["plain", "ordered", "batch"])
def test_dead_letters_refused_when_they_are_left_fail_the_run(kind: str, eager: bool) -> None:
    """Protects the last who could be told: their channel refuses the failure at the deadline."""

    def refuse(failure: Failure) -> int:
        return refuse_odd(failure.item)

    @consumer(maxsize=1, priority=refuse, name="dead letters")
    async def dead_letters(failure: Failure) -> None:
        await asyncio.Event().wait()

    @consumer(key=lambda item: 1 / 0)
    async def refusing(item: int) -> None:
        pass

    async def main() -> None:
        pipeline: Pipeline[Any, Any] = Pipeline(stage(kind, on_error=dead_letters), refusing)
        report = await failed_when_full(pipeline)
        given, told = report.stages[0], report.stages[-1]
        assert (given.done, given.failed, told.received) == (0, 3, 2)

    testing.run(main(), eager=eager)


@both
def test_a_generator_that_fails_of_being_closed_is_not_called_again(eager: bool) -> None:
    """Protects the rule that a refused value is never retried: its clean-up is no attempt that failed."""
    calls: list[int] = []
    failures: list[Failure] = []

    @consumer(retry=Retry(3, wait=lambda attempt: 0), on_error=failures.append)
    async def generate(item: int) -> AsyncIterator[int]:
        calls.append(item)
        try:
            yield item
        finally:
            if item % 2:
                raise OSError("while it was closed")

    @consumer(key=refuse_odd)
    async def refusing(item: int) -> None:
        pass

    async def main() -> None:
        await (source([1, 2]) >> generate >> refusing)

    testing.run(main(), eager=eager)
    assert calls == [1, 2]
    assert [(failure.item, failure.error) for failure in failures] == [(1, "OSError: while it was closed")]
    assert "Odd: 1" in failures[0].traceback


# -- emitted stays emitted; a refused value is a failure of the stage that gave it (H3) -----------


class Refusing:
    """The next stage: its ``key=`` raises for some values, or it has no room for more than a few."""

    def __init__(self, *refused: Any) -> None:
        self.sink = Sink()
        self.refused = refused
        self.stage: AnyStage = consumer(key=self.key, name="second")(self.sink)

    def key(self, value: Any) -> Any:
        if value in self.refused:
            raise KeyError(value)
        return value


GIVERS = ["plain", "generator", "batch", "ordered", "ordered generator", "route"]
kinds = pytest.mark.parametrize("kind", GIVERS)


def giver(kind: str, calls: Counter[int], second: AnyStage, **options: Any) -> Pipeline[Any, Any]:
    """A stage ``first`` of that kind that gives each of its items to ``second``, and counts the calls per item."""

    async def plain(n: int) -> int:
        calls[n] += 1
        return n

    async def generator(n: int) -> AsyncIterator[int]:
        calls[n] += 1
        yield n

    async def batch(rows: list[int]) -> list[int]:
        calls.update(rows)
        return rows

    def by(n: int) -> str:
        calls[n] += 1
        return "all"

    if kind == "route":
        return route(by, {"all": second}, name="first", **options)
    if kind == "batch":
        return named("first", batch, batch=Batch(6), **options) >> second
    function: Any = generator if "generator" in kind else plain
    return named("first", function, ordered="ordered" in kind, **options) >> second


@both
@kinds
def test_h3_a_refused_value_fails_its_item_and_the_others_go_on(kind: str, eager: bool) -> None:
    """With ``on_error="skip"`` the run goes on; one item of six failed, the others are done and passed on."""
    second, calls = Refusing(3), Counter[int]()
    report = testing.run(source(range(6)) >> giver(kind, calls, second.stage, on_error="skip"), eager=eager)
    assert sorted(second.sink.items) == [0, 1, 2, 4, 5]
    assert (counts(report.stages[0]), counts(report.stages[1])) == ((6, 5, 1), (5, 5, 0))
    assert report.stages[0].emitted == 5
    assert ": KeyError" in report.stages[0].last_failure
    assert calls == Counter(range(6))


@both
@kinds
def test_h3_whoever_is_told_of_failures_is_told_of_a_refused_value(kind: str, eager: bool) -> None:
    """As of any other failure: the item, what it failed with, and in which stage."""
    second, calls, told = Refusing(3), Counter[int](), list[Failure]()
    report = testing.run(source(range(6)) >> giver(kind, calls, second.stage, on_error=told.append), eager=eager)
    assert [(one.item, one.error.split(":")[0], one.stage, one.attempts) for one in told] == [
        (3, "KeyError", "first", 1)
    ]
    assert counts(report.stages[0]) == (6, 5, 1)


@both
@pytest.mark.parametrize("kind", [kind for kind in GIVERS if kind != "route"])  # a route has no retry
def test_h3_a_refused_value_is_never_retried(kind: str, eager: bool) -> None:
    """The handler did its work, and would do it twice; what was emitted would be emitted twice."""
    second, calls = Refusing(3), Counter[int]()
    options: dict[str, Any] = {"on_error": "skip", "retry": Retry(2, wait=no_wait)}
    report = testing.run(source(range(6)) >> giver(kind, calls, second.stage, **options), eager=eager)
    assert calls == Counter(range(6))
    assert sorted(second.sink.items) == [0, 1, 2, 4, 5]
    assert (report.stages[0].failed, report.stages[0].retried) == (1, 0)


@both
def test_h3_a_batch_whose_value_was_refused_is_not_split(eager: bool) -> None:
    """``split_on_error`` is for what the handler failed with; one of its values was refused, and only that fails."""
    second, calls = Refusing(3), Counter[int]()

    @consumer(batch=Batch(6, split_on_error=True), on_error="skip", name="first")
    async def first(rows: list[int]) -> list[int]:
        calls.update(rows)
        return rows

    report = testing.run(source(range(6)) >> first >> second.stage, eager=eager)
    assert calls == Counter(range(6))
    assert sorted(second.sink.items) == [0, 1, 2, 4, 5]
    assert counts(report.stages[0]) == (6, 5, 1)


@both
@kinds
def test_h3_by_default_the_run_fails_of_a_refused_value(kind: str, eager: bool) -> None:
    """The item failed, what was emitted before it stays emitted, and the error comes out."""
    second, calls = Refusing(3), Counter[int]()
    with pytest.raises(PipelineError) as failed:
        testing.run(source(range(6)) >> giver(kind, calls, second.stage), eager=eager)
    report = failed.value.report
    assert error_types(failed.value) == [KeyError]
    assert report.stages[0].failed == 1
    assert report.stages[0].emitted == report.stages[1].received
    assert balanced(report)
    assert 3 not in [one.item for one in report.unfinished]


@both
@pytest.mark.parametrize("ordered", [False, True])
def test_h3_what_a_generator_gave_before_a_refused_value_stays_given(ordered: bool, eager: bool) -> None:
    """It is closed where it gave the refused one; what came before is not given again, whatever ``retry`` says."""
    second, closed = Refusing("3b"), list[int]()

    @consumer(on_error="skip", retry=Retry(3, wait=no_wait), ordered=ordered)
    async def first(n: int) -> AsyncIterator[str]:
        try:
            yield f"{n}a"
            yield f"{n}b"
        finally:
            closed.append(n)

    report = testing.run(source(range(6)) >> first >> second.stage, eager=eager)
    assert second.sink.items == ["0a", "0b", "1a", "1b", "2a", "2b", "3a", "4a", "4b", "5a", "5b"]
    assert closed == list(range(6))
    assert counts(report.stages[0]) == (6, 5, 1)


@both
def test_h3_a_generating_batch_whose_value_was_refused_fails_as_one(eager: bool) -> None:
    """Its values belong to all of its items; what it gave before stays given, once."""
    second = Refusing(3)

    @consumer(batch=Batch(6), on_error="skip", retry=Retry(2, wait=no_wait))
    async def first(rows: list[int]) -> AsyncIterator[int]:
        for row in rows:
            yield row

    report = testing.run(source(range(6)) >> first >> second.stage, eager=eager)
    assert second.sink.items == [0, 1, 2]
    assert counts(report.stages[0]) == (6, 0, 6)


@both
@pytest.mark.parametrize("concurrency", [1, 3])
def test_h3_order_holds_past_a_refused_value(concurrency: int, eager: bool) -> None:
    """Whoever passes on the values of others meets the refusal of one; that one's item fails, in its stage."""
    second, told = Refusing(2), list[int]()

    @consumer(ordered=True, concurrency=concurrency, on_error=lambda failure: told.append(failure.item))
    async def first(n: int) -> int:
        await asyncio.sleep(3 - n % 3)
        return n

    report = testing.run(source(range(9)) >> first >> second.stage, eager=eager)
    assert second.sink.items == [0, 1, 3, 4, 5, 6, 7, 8]
    assert told == [2]
    assert counts(report.stages[0]) == (9, 8, 1)


@both
def test_h3_a_broadcast_keeps_what_it_gave_to_other_branches(eager: bool) -> None:
    """One branch refuses: the item failed in the broadcast; the branch before it has it all the same, once."""
    one, two = Sink(), Refusing(3)
    with pytest.raises(PipelineError) as failed:
        testing.run(source(range(6)) >> broadcast(named("one", one), two.stage), eager=eager)
    report = failed.value.report
    assert error_types(failed.value) == [KeyError]
    first, *branches = report.stages
    assert first.failed == 1
    assert first.emitted == sum(branch.received for branch in branches)
    assert balanced(report)


@both
def test_h3_a_caller_learns_that_its_value_was_refused(eager: bool) -> None:
    """A ``call`` fails for its caller alone; the run goes on."""
    second = Refusing(3)

    @consumer
    async def first(n: int) -> int:
        return n

    async def main() -> None:
        async with Pipeline(first, second.stage) as running:
            with pytest.raises(KeyError):
                await running.call(3)
            await running.call(4)
            report = await running.drain()
        assert counts(report.stages[0]) == (2, 1, 1)

    testing.run(main(), eager=eager)


@both
@kinds
@pytest.mark.parametrize("on_error", ["skip", "stop"])
def test_h3_a_queue_that_raises_when_full_refuses_the_value(kind: str, on_error: Any, eager: bool) -> None:
    """``overflow="raise"`` is such a refusal too: the items without room failed in the stage that gave them."""
    slow, calls = Sink(seconds=1.0), Counter[int]()
    second = named("second", slow, maxsize=2, overflow="raise")
    pipeline = source(range(6)) >> giver(kind, calls, second, on_error=on_error)
    if on_error == "stop":
        with pytest.raises(PipelineError) as failed:
            testing.run(pipeline, eager=eager)
        assert set(error_types(failed.value)) == {asyncio.QueueFull}
        report = failed.value.report
        assert report.stages[0].failed == 1 or kind == "batch"  # whose other values were refused as well
        assert report.stages[0].failed > 0
    else:
        report = testing.run(pipeline, eager=eager)
        first, last = report.stages
        assert first.failed > 0
        assert first.done == first.emitted == last.received == last.done == len(slow.items)
        assert (first.received, last.peak_queued) == (6, 2)
    assert balanced(report)
    assert calls[0] == 1


@both
def test_a_worker_whose_value_is_refused_passes_the_room_on(eager: bool) -> None:
    """The same between stages: the value is the failure of whoever gave it, and the others go on."""

    @consumer(concurrency=4, on_error="skip")
    async def first(item: str) -> AsyncIterator[str]:
        yield item

    @consumer(maxsize=1, key=lambda item: {"a": 1, "b": 2, "c": 3}[item])
    async def second(item: str) -> None:
        await asyncio.sleep(1)

    report = testing.run(source(["a", "b", "bad", "c", "bad", "a"]) >> first >> second, eager=eager)
    assert (report.stages[0].failed, report.stages[1].done) == (2, 4)


# -- no loop of the framework holds the event loop (H7) -------------------------------------------


MOST = 256
"""Items that may move between two turns of another task; the budget is 128, and half a millisecond."""


async def most_between_turns(running: Running[Any, Any], read: Callable[[Any], int]) -> list[int]:
    """How much ``read`` of the statistics grew from one turn of this task to the next, until the run ends."""
    grown, before = [0], 0
    while running.report is None:
        count = read(running.statistics())
        grown.append(count - before)
        before = count
        await asyncio.sleep(0)
    return grown


def watched(pipeline: Pipeline[Any, Any], items: int, read: Callable[[Any], int], eager: bool) -> tuple[Report, int]:
    """The report of ``pipeline``, and how much ``read`` grew at most between two turns of another task."""

    async def main() -> tuple[Report, int]:
        async with pipeline as running:
            for n in range(items):
                running.put_nowait(n)
            watch = asyncio.create_task(most_between_turns(running, read))
            report = await running.drain()
            return report, max(await watch)

    return testing.run(main(), eager=eager)


def _moved_on(statistics: Any) -> int:
    last: StageStatistics = statistics.stages[1]
    return last.queued + last.in_flight + last.done


@both
@pytest.mark.parametrize("how", ["list", "none", "generator"])
def test_h7_the_results_of_a_batch_let_others_run(how: str, eager: bool) -> None:
    """Invariant 10: 10,000 results of one batch are passed on in turns, as 10,000 items are."""
    if how == "generator":

        @consumer(batch=Batch(10_000), maxsize=0)
        async def generates(rows: list[int]) -> AsyncIterator[int]:
            for row in rows:
                yield row

        first: AnyStage = generates
    else:

        @consumer(batch=Batch(10_000), maxsize=0)
        async def batched(rows: list[int]) -> Any:
            return list(rows) if how == "list" else None

        first = batched

    @consumer(maxsize=0)
    async def last(n: Any) -> None: ...

    report, most = watched(Pipeline(first, last), 10_000, _moved_on, eager)
    assert report.done == 10_000
    assert most <= MOST


@both
@pytest.mark.parametrize("on_error", ["skip", "function", "consumer"])
def test_h7_a_batch_that_is_given_up_lets_others_run(on_error: str, eager: bool) -> None:
    """Invariant 10: its items fail in turns."""

    @consumer(maxsize=0)
    async def told(failure: Failure) -> None: ...

    destination: Any = {"skip": "skip", "function": lambda failure: None, "consumer": told}[on_error]

    @consumer(batch=Batch(600), maxsize=0, on_error=destination)
    async def first(rows: list[int]) -> None:
        raise ValueError

    report, most = watched(Pipeline(first), 600, lambda statistics: statistics.stages[0].failed, eager)
    assert report.failed == 600
    assert most <= MOST


def _seconds_to_give_up(items: int) -> float:
    @consumer(batch=Batch(items), maxsize=0, on_error="skip")
    async def first(rows: list[int]) -> None:
        raise ValueError

    async def main() -> float:
        async with Pipeline(first) as running:
            for n in range(items):
                running.put_nowait(n)
            began = time.process_time()
            report = await running.drain()
            assert report.failed == items
            return time.process_time() - began

    return testing.run(main())


@pytest.mark.thorough
def test_h7_giving_a_batch_up_takes_time_by_the_number_of_its_items() -> None:
    """Twenty times the items take about twenty times as long, in CPU time; they took sixty times as long."""
    few = min(_seconds_to_give_up(15_000) for _ in range(3))
    assert _seconds_to_give_up(300_000) < 40 * few


@both
def test_h7_a_drain_is_heard_while_a_batch_is_given_up(eager: bool) -> None:
    """Promise 5: at the deadline the rest of the batch is unfinished, each item counted once."""

    @consumer(batch=Batch(20_000), maxsize=0, on_error="skip")
    async def first(rows: list[int]) -> None:
        raise ValueError

    async def main() -> Report:
        async with Pipeline(first) as running:
            for n in range(20_000):
                running.put_nowait(n)
            while running.statistics().failed == 0:
                assert now() < 10
                await asyncio.sleep(0)
            return await running.drain(timeout=0)

    report = testing.run(main(), eager=eager)
    assert 0 < report.failed < 10_000
    assert report.failed + len(report.unfinished) == 20_000


@both
def test_h7_a_broadcast_to_many_branches_lets_others_run(eager: bool) -> None:
    """What counts is what is put: 20 copies of an item are 20."""
    sinks: list[AnyStage] = []
    for branch in range(20):

        async def sink(n: int) -> None: ...

        sinks.append(consumer(name=f"sink {branch}")(sink))
    pipeline = Pipeline(broadcast(*sinks, maxsize=0), maxsize=4_000)
    report, most = watched(pipeline, 500, lambda statistics: statistics.stages[0].emitted, eager)
    assert report.stages[0].emitted == 10_000
    assert most <= 1_000  # 2,540 before: 127 items


def test_a_generator_handler_shares_the_loop() -> None:
    """A handler that gives values without end and never waits lets others run every 128 values (invariant 10)."""

    @consumer
    async def flood(n: int) -> AsyncIterator[int]:
        for k in range(10_000):
            given.append(k)
            yield k

    given: list[int] = []
    seen: list[int] = []

    async def look_on() -> None:
        while True:
            seen.append(len(given))
            await asyncio.sleep(0)

    async def main() -> None:
        looking = asyncio.create_task(look_on())
        await Pipeline([1], flood)
        looking.cancel()

    testing.run(main())
    assert max(after - before for before, after in pairwise(seen)) <= 128
