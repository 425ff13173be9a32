"""``batch=``: the handler gets several items at once, and each of them is accounted for. All in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from math import inf
from random import Random
from typing import Any, cast

import pytest
from spy import Sink
from stepping import steps
from support import AnyStage, balanced, both, counts, error_types, named, no_wait

from asyncpc import (
    Batch,
    DefinitionError,
    Failure,
    Pipeline,
    PipelineError,
    Rate,
    Report,
    Retry,
    Running,
    consumer,
    feed,
    remote_queue,
    route,
    source,
    testing,
)
from asyncpc.core.waiting import BUDGET
from asyncpc.options.batch import Batches, PlainBatches
from asyncpc.testing import now


class PerKey:
    """A handler of batches that sees which keys are being handled at once."""

    def __init__(self, seconds: Callable[[list[Any]], float] = lambda rows: 1.0) -> None:
        self.busy: Counter[Any] = Counter()
        self.clashes = 0
        self.batches: list[list[Any]] = []
        self.seen: dict[Any, list[Any]] = {}
        self.peak = 0
        self.now = 0
        self.seconds = seconds

    async def __call__(self, rows: list[Any]) -> None:
        keys = {key for key, _ in rows}
        self.clashes += sum(1 for key in keys if self.busy[key])
        self.busy.update(keys)
        self.now += 1
        self.peak = max(self.peak, self.now)
        self.batches.append(list(rows))
        try:
            for key, number in rows:
                self.seen.setdefault(key, []).append(number)
            await asyncio.sleep(self.seconds(rows))
        finally:
            self.busy.subtract(keys)
            self.now -= 1


def by_first(item: tuple[Any, int]) -> Any:
    return item[0]


# -- batches --------------------------------------------------------------------------------------


class Batcher(Sink):
    """A batch handler that remembers the batches, why each was flushed, and when."""

    async def __call__(self, items: Any) -> Any:
        await super().__call__((list(items), items.reason))
        return [item * 10 for item in items]


async def in_time(*moments: float) -> AsyncIterator[int]:
    """An item at each moment."""
    for n, moment in enumerate(moments):
        await asyncio.sleep(moment - now())
        yield n


@both
def test_a_batch_is_flushed_by_size_time_and_end(eager: bool) -> None:
    """So many items, or so long after the first, whichever comes first; what is left when the run drains."""
    batcher, sink = Batcher(), Sink()
    stage: Any = consumer(batch=Batch(3, within=1.0))
    report = testing.run(source(in_time(0, 0, 0, 5, 5.9, 8, 8.1)) >> stage(batcher) >> consumer(sink), eager=eager)
    assert batcher.items == [([0, 1, 2], "size"), ([3, 4], "time"), ([5, 6], "end")]
    assert batcher.times == pytest.approx([0, 6.0, 8.1])
    assert sink.items == [n * 10 for n in range(7)]
    assert (report.stages[0].received, report.stages[0].done, report.stages[0].emitted) == (7, 7, 7)


def test_a_batch_by_weight_and_by_key() -> None:
    """Bytes for an upload, customers for a bulk call: an item too heavy comes alone, keys never mix."""
    by_weight, by_key = Batcher(), Batcher()
    weigh: Any = consumer(batch=Batch(10, weigh=lambda n: n))
    testing.run(source([4, 5, 3, 20, 9, 1, 1]) >> weigh(by_weight))
    assert [items for items, _ in by_weight.items] == [[4, 5], [3], [20], [9, 1], [1]]
    keyed: Any = consumer(batch=Batch(2, key=lambda n: n % 3))
    testing.run(source(range(8)) >> keyed(by_key))
    assert sorted(items for items, _ in by_key.items) == [[0, 3], [1, 4], [2, 5], [6], [7]]


def test_a_full_queue_flushes() -> None:
    """Keys that never fill a batch must not stop the stage for ever."""
    batcher = Batcher()
    stage: Any = consumer(batch=Batch(4, key=lambda n: n), maxsize=4)
    report = testing.run(source(range(10)) >> stage(batcher))
    assert report.done == 10
    assert {reason for _, reason in batcher.items} == {"full", "end"}


async def test_a_full_queue_flushes_what_is_no_whole_batch() -> None:
    """Also where a batch has no key and no weight, which is looked at in short."""
    batches = Batches(Batch(3), 5, lambda: None)
    for item in range(5):
        batches.append(item)
    taken = [batches.popleft() for _ in range(batches.available())]
    assert [(list(items), items.reason) for items in taken] == [([0, 1, 2], "size"), ([3, 4], "full")]


@both
@pytest.mark.parametrize("keys", [3, 5])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_batches_that_wait_for_more_items_do_not_keep_these_out(keys: int, concurrency: int, eager: bool) -> None:
    """Several incomplete batches may fill more than half of the queue: then there is nothing to wait for but items."""

    @consumer(batch=Batch(3, key=lambda n: n % 3), key=lambda n: n % keys, maxsize=12, concurrency=concurrency)
    async def handle(rows: list[int]) -> None:
        await asyncio.sleep(1)

    report = testing.run(source(range(200)) >> handle, eager=eager)
    assert (report.done, report.stages[0].peak_queued) == (200, 12)


@both
@pytest.mark.parametrize("upstream", ["workers", "callers"])
def test_what_completes_a_batch_comes_in_while_incomplete_ones_wait(upstream: str, eager: bool) -> None:
    """Ten batches of one item each, and room for one more each time that one was handled."""
    turn, handled = asyncio.Semaphore(0), 0

    async def up(n: int) -> int:
        if n >= 11:
            await turn.acquire()
        return n

    @consumer(batch=Batch(5, key=lambda n: n), maxsize=10)
    async def handle(rows: list[int]) -> None:
        nonlocal handled
        await asyncio.sleep(1)
        handled += 1
        if handled > 1:
            turn.release()

    async def put(running: Running[int, Any], n: int) -> None:
        await running.put(await up(n))

    async def main() -> int:
        if upstream == "workers":
            return (await (source(range(20)) >> named("up", up, concurrency=2) >> handle)).done
        async with Pipeline(handle) as running:
            await asyncio.gather(*[put(running, n) for n in range(20)])
            return (await running.drain()).done

    assert testing.run(main(), eager=eager) == 20


def test_the_queue_of_a_batch_stage_holds_more_than_a_batch() -> None:
    """Batch(500) behind the default bound of 128 would never be full."""
    batcher = Batcher()
    stage: Any = consumer(batch=Batch(500))
    testing.run(source(range(1000)) >> stage(batcher))
    assert [(len(items), reason) for items, reason in batcher.items] == [(500, "size"), (500, "size")]


@pytest.mark.parametrize(("size", "bound"), [(500, 1000), (65, 130), (10, 128)])
def test_the_queue_of_a_batch_stage_holds_two_batches(size: int, bound: int) -> None:
    """So one is gathered while another is handled; of small ones it holds as many as any queue does."""

    @consumer(batch=Batch(size))
    async def slow(rows: list[int]) -> None:
        await asyncio.sleep(1)

    (stage,) = testing.run(source(range(3000)) >> slow).stages
    assert stage.peak_queued == bound


@both
def test_a_batch_fails_as_one_unless_it_is_split(eager: bool) -> None:
    """Whole by default; with split_on_error only the item that is the reason fails, each with its own attempts."""
    for split, failed in (False, 4), (True, 1):
        told: list[Failure] = []
        options: dict[str, Any] = {"on_error": told.append, "retry": Retry(2, wait=lambda attempt: 0.0)}

        @consumer(batch=Batch(4, split_on_error=split), **options)
        async def insert(rows: list[int]) -> None:
            if 5 in rows:
                raise ValueError("bad row")

        report = testing.run(source(range(12)) >> insert, eager=eager)
        assert (report.done, report.failed, len(told)) == (12 - failed, failed, failed)
        assert 5 in [one.item for one in told]


@both
@pytest.mark.parametrize("retry", [None, Retry(2, wait=no_wait)], ids=["once", "retried"])
@pytest.mark.parametrize("key", [None, lambda n: n % 2], ids=["", "key"])
def test_a_batch_whose_call_was_cancelled_by_a_stranger_is_split_too(retry: Any, key: Any, eager: bool) -> None:
    """Invariant 7: it is a failure like any other, so its outcome is that of a ValueError."""
    calls: list[list[int]] = []

    @consumer(batch=Batch(4, split_on_error=True), key=key, on_error="skip", retry=retry)
    async def handle(rows: list[int]) -> None:
        calls.append(list(rows))
        if 3 in rows:
            if retry is not None and calls.count(rows) == 1:
                raise ValueError
            raise asyncio.CancelledError

    report = testing.run(source(range(8)) >> handle, eager=eager)
    assert counts(report.stages[0]) == (8, 7, 1)
    assert [rows for rows in calls if len(rows) == 1] == [[0], [1], [2], *[[3]] * (1 if retry is None else 2)]


@both
@pytest.mark.parametrize("key", [None, lambda n: n], ids=["", "key"])
def test_what_a_split_batch_gives_back_is_counted_in_the_peak(key: Any, eager: bool) -> None:
    """Invariant 1: it may exceed the bound by the batches that were in flight, and the report says so."""
    seen = [0]

    async def main() -> Report:
        @consumer(batch=Batch(10, split_on_error=True), key=key, maxsize=20, concurrency=8, on_error="skip", retry=None)
        async def handle(rows: list[int]) -> None:
            seen.append(running.statistics().stages[0].queued)
            await asyncio.sleep(1)
            seen.append(running.statistics().stages[0].queued)
            if len(rows) > 1:
                raise ValueError

        async with Pipeline(handle) as running:
            for n in range(400):
                await running.put(n)
            return await running.drain(timeout=1000)

    (stage,) = testing.run(main(), eager=eager).stages
    assert 20 < max(seen) <= stage.peak_queued <= 20 + 8 * 10
    assert stage.done == 400


@both
@pytest.mark.parametrize("key", [None, lambda n: n % 100], ids=["", "key"])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_splitting_a_large_batch_lets_others_run(key: Any, concurrency: int, eager: bool) -> None:
    """Invariant 10: its items go back in turns, each in its order, before what came later."""
    singles: list[int] = []
    grown, before = [0], 0

    @consumer(batch=Batch(5_000, split_on_error=True), key=key, maxsize=0, concurrency=concurrency, on_error="skip")
    async def handle(rows: list[int]) -> None:
        if len(rows) > 1:
            for _ in range(5):
                await asyncio.sleep(0)  # so that it is seen in flight
            raise ValueError
        singles.extend(rows)

    async def main() -> Report:
        nonlocal before
        async with Pipeline(handle) as running:
            for n in range(5_001):
                running.put_nowait(n)
            drain = asyncio.create_task(running.drain())
            while not drain.done():
                (stage,) = running.statistics().stages
                grown.append(stage.queued + stage.done - before)
                before = stage.queued + stage.done
                await asyncio.sleep(0)
            return await drain

    report = testing.run(main(), eager=eager)
    assert counts(report.stages[0]) == (5_001, 5_001, 0)
    assert max(grown[3:]) <= 256
    kept_apart = [singles] if key is None else [[n for n in singles if n % 100 == one] for one in range(100)]
    assert all(numbers == sorted(numbers) for numbers in kept_apart)


@both
@pytest.mark.parametrize("key", [None, lambda n: n % 100], ids=["", "key"])
def test_a_drain_is_heard_while_a_batch_is_split(key: Any, eager: bool) -> None:
    """Promise 5: at the deadline each item is either back or in flight, and listed once."""

    @consumer(batch=Batch(5_000, split_on_error=True), key=key, maxsize=0, on_error="skip")
    async def handle(rows: list[int]) -> None:
        raise ValueError

    async def main() -> Report:
        async with Pipeline(handle) as running:
            for n in range(5_000):
                running.put_nowait(n)
            while not 0 < running.statistics().stages[0].queued < 5_000:
                assert now() < 10
                await asyncio.sleep(0)
            return await running.drain(timeout=0)

    report = testing.run(main(), eager=eager)
    assert sorted(one.item for one in report.unfinished) == list(range(5_000))
    assert (report.done, report.failed) == (0, 0)


@both
@pytest.mark.parametrize("key", [None, lambda item: item[0]], ids=["", "key"])
def test_a_batch_that_is_as_heavy_as_it_can_get_is_complete(key: Any, eager: bool) -> None:
    """Also where the item that is too heavy for it has to wait for it: the source may give nothing more for long."""
    times: list[float] = []

    async def give() -> AsyncIterator[tuple[str, int]]:
        for _ in range(4):
            yield "k", 6
        await asyncio.sleep(100)

    @consumer(batch=Batch(10, weigh=lambda item: item[1]), key=key)
    async def handle(rows: list[tuple[str, int]]) -> None:
        assert len(rows) == 1
        times.append(now())
        await asyncio.sleep(1)

    testing.run(source(give()) >> handle, eager=eager)
    assert times == pytest.approx([0, 1, 2, 100])


@both
def test_a_heavy_item_of_a_busy_key_completes_no_batch_of_others(eager: bool) -> None:
    """It waits for its own key, so the batch that it does not fit may still take what fits."""
    batches: list[list[str]] = []

    @consumer(batch=Batch(10, weigh=len, key=lambda item: item[0] == "z"), key=lambda item: item[0], concurrency=2)
    async def handle(rows: list[str]) -> None:
        batches.append(list(rows))
        await asyncio.sleep(1)

    testing.run(source(["a" * 10, "b" * 6, "a" * 6, "c" * 4]) >> handle, eager=eager)
    assert batches[:2] == [["a" * 10], ["b" * 6, "c" * 4]]


@pytest.mark.parametrize("results", [[1], "abc", 7])
def test_a_batch_that_gives_the_wrong_number_of_results_is_an_error(results: Any) -> None:
    """Nobody could say whose result is whose."""

    @consumer(batch=Batch(3))
    async def insert(rows: list[int]) -> Any:
        return results

    with pytest.raises(PipelineError) as failed:
        testing.run(source(range(3)) >> insert >> consumer(Sink()))
    assert "3 items gave" in str(failed.value.exceptions[0])


def test_what_a_batch_gave_is_left_in_the_next_queue_when_it_is_cancelled() -> None:
    """Invariant 2: the handler did its work, so its values are not lost while they wait for room."""

    async def main() -> Report:
        @consumer(batch=Batch(4))
        async def first(items: list[int]) -> list[int]:
            return items

        @consumer(maxsize=1)
        async def hangs(n: int) -> None:
            await asyncio.Event().wait()

        async with Pipeline(source(range(4)), first >> hangs) as running:
            await asyncio.sleep(1)
            return await running.drain(timeout=0)

    report = testing.run(main())
    assert (report.stages[0].done, report.stages[0].emitted, report.stages[1].received) == (4, 4, 4)
    assert sorted(left.item for left in report.unfinished) == [0, 1, 2, 3]


@both
@pytest.mark.parametrize("bad", [0, 1, 2])
def test_the_values_of_a_cancelled_batch_are_counted_where_they_are(bad: int, eager: bool) -> None:
    """Invariant 4: one of them is refused by the next stage's ``key=``, in the midst of a cancel."""

    @consumer(batch=Batch(6))
    async def double(items: list[int]) -> list[int]:
        return items

    @consumer(maxsize=1, key=lambda n: {0: 0}[n] if n == 3 + bad else n)
    async def second(n: int) -> None:
        await asyncio.sleep(1000)

    async def main() -> Report:
        async with Pipeline(range(6), double >> second) as running:
            await asyncio.sleep(1)
            running.stop(0)
            with pytest.raises(PipelineError):
                await running.wait()
        return cast(Report, running.report)

    testing.run(main(), eager=eager)


# -- a batch handler that changes its list (H1) ---------------------------------------------------


def empty(rows: list[Any]) -> None:
    while rows:
        rows.pop()


CHANGES: dict[str, Callable[[list[Any]], object]] = {
    "pops all": empty,
    "pops one": lambda rows: rows.pop(),
    "appends": lambda rows: rows.append("more"),
    "replaces": lambda rows: rows.__setitem__(slice(None), ["other"] * len(rows)),
}
changing = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())


@both
@changing
def test_h1_a_batch_handler_that_changes_its_list_leaves_the_books_alone(change: Any, eager: bool) -> None:
    """What is counted is kept aside: the handler's list is its own."""

    @consumer(batch=Batch(4))
    async def handle(rows: list[Any]) -> None:
        change(rows)

    report = testing.run(source(range(12)) >> handle, eager=eager)
    assert counts(report.stages[0]) == (12, 12, 0)


@both
@changing
def test_h1_a_list_that_was_changed_before_it_failed_counts_all_its_items(change: Any, eager: bool) -> None:
    """Whoever is told of the failures learns of each item, as it came."""
    told: list[Any] = []

    @consumer(batch=Batch(4), on_error=lambda failure: told.append(failure.item))
    async def handle(rows: list[Any]) -> None:
        change(rows)
        raise ValueError

    report = testing.run(source(range(12)) >> handle, eager=eager)
    assert counts(report.stages[0]) == (12, 0, 12)
    assert told == list(range(12))


@both
def test_h1_a_list_that_was_changed_is_skipped_whole(eager: bool) -> None:
    """With ``on_error="skip"`` each of the items is in a count, the popped ones too."""

    @consumer(batch=Batch(4), on_error="skip")
    async def handle(rows: list[int]) -> None:
        rows.pop()
        raise ValueError

    report = testing.run(source(range(12)) >> handle, eager=eager)
    assert counts(report.stages[0]) == (12, 0, 12)


@both
@changing
def test_h1_a_retry_gets_the_items_as_they_came(change: Any, eager: bool) -> None:
    """Items that the first attempt took out of its list are tried again."""
    calls: list[list[Any]] = []

    @consumer(batch=Batch(3), retry=Retry(2, wait=no_wait))
    async def handle(rows: list[Any]) -> None:
        calls.append(list(rows))
        change(rows)
        if len(calls) == 1:
            raise ValueError

    report = testing.run(source(range(3)) >> handle, eager=eager)
    assert calls == [[0, 1, 2], [0, 1, 2]]
    assert counts(report.stages[0]) == (3, 3, 0)


@both
def test_h1_a_split_batch_tries_the_items_as_they_came(eager: bool) -> None:
    """``split_on_error`` gives back each item of the batch, also those that the handler took out of its list."""
    calls: list[list[int]] = []

    @consumer(batch=Batch(3, split_on_error=True), on_error="skip")
    async def handle(rows: list[int]) -> None:
        calls.append(list(rows))
        bad = 1 in rows
        empty(rows)
        if bad:
            raise ValueError

    report = testing.run(source(range(3)) >> handle, eager=eager)
    assert calls == [[0, 1, 2], [0], [1], [2]]
    assert counts(report.stages[0]) == (3, 2, 1)


@both
def test_h1_results_belong_to_the_items_as_they_came(eager: bool) -> None:
    """A handler that takes its list apart still gives one result for each item that came."""
    sink = Sink()

    @consumer(batch=Batch(4))
    async def double(rows: list[int]) -> list[int]:
        results = []
        while rows:
            results.append(2 * rows.pop(0))
        return results

    report = testing.run(source(range(8)) >> double >> consumer(sink), eager=eager)
    assert sink.items == [0, 2, 4, 6, 8, 10, 12, 14]
    assert counts(report.stages[0]) == (8, 8, 0)


@both
def test_h1_a_generating_batch_handler_may_change_its_list(eager: bool) -> None:
    """The same for a handler that yields."""
    sink = Sink()

    @consumer(batch=Batch(4))
    async def each(rows: list[int]) -> AsyncIterator[int]:
        while rows:
            yield rows.pop(0)

    report = testing.run(source(range(8)) >> each >> consumer(sink), eager=eager)
    assert sink.items == list(range(8))
    assert counts(report.stages[0]) == (8, 8, 0)


@both
def test_h1_a_cancelled_batch_is_listed_as_it_came(eager: bool) -> None:
    """Invariant 2: at the deadline all items of the batch are unfinished, also those taken out of the list."""

    @consumer(batch=Batch(4))
    async def handle(rows: list[int]) -> None:
        rows.pop()
        rows.append(99)
        rows.append(100)
        await asyncio.Event().wait()

    async def main() -> Report:
        async with Pipeline(handle) as running:
            for n in range(4):
                await running.put(n)
            await asyncio.sleep(1)
            return await running.drain(timeout=0)

    report = testing.run(main(), eager=eager)
    assert sorted(one.item for one in report.unfinished) == [0, 1, 2, 3]


@both
def test_h1_a_batch_that_ends_the_run_counts_all_its_items(eager: bool) -> None:
    """By default the run fails of it; its report says that all of them failed."""

    @consumer(batch=Batch(4))
    async def handle(rows: list[int]) -> None:
        empty(rows)
        raise ValueError

    with pytest.raises(PipelineError) as failed:
        testing.run(source(range(4)) >> handle, eager=eager)
    assert [type(error) for error in failed.value.exceptions] == [ValueError]
    assert counts(failed.value.report.stages[0]) == (4, 0, 4)


# -- a list that is one item (H8) -----------------------------------------------------------------


@both
@pytest.mark.parametrize("on_error", ["stop", "skip", "told"])
@pytest.mark.parametrize("retry", [None, Retry(2, wait=no_wait)], ids=["once", "retried"])
def test_h8_a_batch_that_goes_on_as_one_item_fails_as_one_item(retry: Any, on_error: str, eager: bool) -> None:
    """The stage's option says what a batch is, never the type of an item."""
    told, calls = list[Failure](), list[Any]()

    @consumer(batch=Batch(3))
    async def gather(rows: list[int]) -> AsyncIterator[list[int]]:
        yield rows

    @consumer(retry=retry, on_error=told.append if on_error == "told" else on_error)  # type: ignore[arg-type]
    async def save(rows: list[int]) -> None:
        calls.append(rows)
        if 4 in rows:
            raise ValueError

    pipeline = source(range(9)) >> gather >> save
    if on_error == "stop":
        with pytest.raises(PipelineError) as failed:
            testing.run(pipeline, eager=eager)
        assert error_types(failed.value) == [ValueError]
        report = failed.value.report
        assert report.stages[1].failed == 1
        assert balanced(report)
    else:
        report = testing.run(pipeline, eager=eager)
        assert counts(report.stages[1]) == (3, 2, 1)
        assert calls.count([3, 4, 5]) == (1 if retry is None else 2)
    assert [list(one.item) for one in told] == ([[3, 4, 5]] if on_error == "told" else [])


@both
@pytest.mark.parametrize("options", [{"ordered": True}, {"timeout": 1}, {"batch": Batch(2)}], ids=str)
def test_h8_a_list_as_an_item_is_no_batch_whatever_the_stage(options: dict[str, Any], eager: bool) -> None:
    """In order, with a time limit, or as an item of the next stage's own batches."""

    @consumer(batch=Batch(3))
    async def gather(rows: list[int]) -> AsyncIterator[list[int]]:
        yield rows

    async def save(rows: Any) -> None:
        raise ValueError

    report = testing.run(source(range(12)) >> gather >> named("save", save, on_error="skip", **options), eager=eager)
    assert counts(report.stages[1]) == (4, 0, 4)


@both
def test_h8_a_list_that_is_routed_or_fed_is_one_item(eager: bool) -> None:
    """The same on the other ways out of a batch stage."""

    @consumer(batch=Batch(3))
    async def gather(rows: list[int]) -> AsyncIterator[list[int]]:
        yield rows

    async def save(rows: list[int]) -> None:
        raise ValueError

    branches: dict[Any, AnyStage] = {3: named("save", save, on_error="skip")}
    report = testing.run(source(range(6)) >> gather >> route(len, branches), eager=eager)
    assert [stage.failed for stage in report.stages] == [0, 0, 2]

    @consumer(on_error="skip")
    async def first(item: Any) -> Any:
        if isinstance(item, list):
            raise ValueError
        return item

    @consumer(batch=Batch(3))
    async def back(rows: list[int]) -> None:
        feed(rows)

    report = testing.run(source(range(6)) >> first >> back, eager=eager)
    assert counts(report.stages[0]) == (8, 6, 2)
    assert report.fed == 2


# -- batches of a key (H14) -----------------------------------------------------------------------


@both
@pytest.mark.parametrize("within", [None, 0.5])
@pytest.mark.parametrize("keys", [1, 3, 10])
def test_h14_batches_of_a_key_come_one_at_a_time_and_in_order(keys: int, within: Any, eager: bool) -> None:
    """No key of a batch that is being handled is in another one that starts before it ends."""
    handler = PerKey(lambda rows: 1.0 + rows[0][1] % 3)
    stage = named("stage", handler, batch=Batch(5, within), key=by_first, concurrency=4)
    report = testing.run(source([(n % keys, n) for n in range(200)]) >> stage, eager=eager)
    assert handler.clashes == 0
    assert handler.seen == {key: list(range(key, 200, keys)) for key in range(keys)}
    assert counts(report.stages[0]) == (200, 200, 0)
    assert max(map(len, handler.batches)) <= 5


@both
def test_h14_other_keys_go_on_while_one_is_handled(eager: bool) -> None:
    """The point of ``concurrency`` beside ``key=``: a slow key holds up its own items only."""
    handler = PerKey(lambda rows: 100.0 if rows[0][0] == "slow" else 1.0)
    stage = named("stage", handler, batch=Batch(2, within=0.1), key=by_first, concurrency=4)
    items = [("slow", 0), ("slow", 1), ("slow", 2), *[(f"key {n % 3}", n) for n in range(30)]]
    report = testing.run(source(items) >> stage, eager=eager)
    assert handler.clashes == 0
    assert handler.peak > 1
    assert report.done == 33
    slow = [batch for batch in handler.batches if batch[0][0] == "slow"]
    assert slow[-1] == [("slow", 2)]
    assert handler.batches[-1] == slow[-1]


@both
def test_h14_a_batch_may_hold_several_keys(eager: bool) -> None:
    """With as many keys as items, batches are full; they are not one item each."""
    handler = PerKey()
    stage = named("stage", handler, batch=Batch(5), key=by_first, concurrency=2)
    testing.run(source([(n, n) for n in range(20)]) >> stage, eager=eager)
    assert sorted(map(len, handler.batches)) == [5, 5, 5, 5]


@both
@pytest.mark.parametrize("keys", [1, 2, 5])
def test_h14_a_small_queue_of_busy_keys_is_no_deadlock(keys: int, eager: bool) -> None:
    """All that is queued may be of keys that are being handled: it waits for them, and goes on."""
    handler = PerKey()
    stage = named("stage", handler, batch=Batch(5), key=by_first, concurrency=3, maxsize=5)
    report = testing.run(source([(n % keys, n) for n in range(53)]) >> stage, eager=eager)
    assert handler.clashes == 0
    assert report.done == 53


@both
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("retry", [None, Retry(2, wait=lambda attempt: 5.0)], ids=["once", "retried"])
def test_h14_a_batch_that_failed_keeps_its_keys_until_it_is_settled(retry: Any, split: bool, eager: bool) -> None:
    """Attempts, and the items of a split batch, come before later items of their keys."""
    seen: dict[int, list[int]] = {}
    busy: Counter[int] = Counter()
    clashes = 0

    @consumer(
        batch=Batch(4, within=0.5, split_on_error=split), key=by_first, concurrency=3, retry=retry, on_error="skip"
    )
    async def stage(rows: list[tuple[int, int]]) -> None:
        nonlocal clashes
        keys = {key for key, _ in rows}
        clashes += sum(1 for key in keys if busy[key])
        busy.update(keys)
        for key, number in rows:
            if not seen.setdefault(key, []) or seen[key][-1] != number:
                seen[key].append(number)
        await asyncio.sleep(1)
        busy.subtract(keys)
        if any(number % 7 == 0 for _, number in rows):
            raise ValueError

    report = testing.run(source([(n % 3, n) for n in range(60)]) >> stage, eager=eager)
    assert clashes == 0
    assert report.done + report.failed == 60
    for numbers in seen.values():
        first_seen, last_seen = list(dict.fromkeys(numbers)), list(dict.fromkeys(reversed(numbers)))
        assert first_seen == sorted(first_seen)
        assert last_seen == sorted(last_seen, reverse=True)


@both
def test_h14_a_drain_flushes_what_waits_for_its_key(eager: bool) -> None:
    """Fault C15: an incomplete batch whose key is being handled is handled after it, not forgotten."""
    handler = PerKey()

    async def main() -> Report:
        async with Pipeline(named("stage", handler, batch=Batch(2), key=by_first, concurrency=2)) as running:
            for n in range(3):
                await running.put(("a", n))
            await asyncio.sleep(0.5)
            return await running.drain(timeout=10)

    report = testing.run(main(), eager=eager)
    assert handler.batches == [[("a", 0), ("a", 1)], [("a", 2)]]
    assert (report.done, report.complete, handler.clashes) == (3, True, 0)


@pytest.mark.parametrize("key", [None, by_first])
def test_h14_a_priority_beside_batches_is_refused(key: Any) -> None:
    """It was switched off in silence; the error names the stage, the pair and the cure."""
    with pytest.raises(DefinitionError) as refused:
        named("stage", PerKey(), batch=Batch(5), key=key, priority=lambda item: item)
    told = str(refused.value)
    assert "'stage'" in told
    assert "batch" in told
    assert "priority" in told
    assert ";" in told or ":" in told.partition("'stage'")[2][2:]  # then it says what to write instead


# -- a rate by key, and batches (H19) -------------------------------------------------------------


def refused_pair(told: str) -> None:
    assert "'stage'" in told
    assert "batch" in told
    assert "rate" in told.lower()
    assert "key" in told


@pytest.mark.parametrize("batch", [Batch(5), Batch(1), Batch(5, within=1, key=by_first)], ids=["5", "1", "key"])
def test_h19_a_rate_by_key_beside_batches_is_refused(batch: Batch) -> None:
    """Its function is for an item, and would get the list; the error names the stage, the pair and the cure."""
    with pytest.raises(DefinitionError) as refused:
        named("stage", PerKey(), batch=batch, rate=Rate(10, key=by_first))
    refused_pair(str(refused.value))


@both
def test_h19_a_rate_by_key_is_refused_for_batches_also_later(eager: bool) -> None:
    """``set_rate`` is no way around it; the run goes on at its rate."""

    async def main() -> None:
        async with Pipeline(named("stage", PerKey(), batch=Batch(2), rate=Rate(10))) as running:
            with pytest.raises(DefinitionError) as refused:
                running.set_rate("stage", Rate(10, key=by_first))
            refused_pair(str(refused.value))
            await running.put(("a", 1))
            assert (await running.drain()).done == 1

    testing.run(main(), eager=eager)


def test_h19_a_rate_without_key_beside_batches_is_fine() -> None:
    """It is one of calls, and a call handles a batch."""
    handler = PerKey(lambda rows: 0.0)
    report = testing.run(source([(0, n) for n in range(20)]) >> named("stage", handler, batch=Batch(5), rate=Rate(1)))
    assert (report.done, len(handler.batches)) == (20, 4)


# -- taking what is there -------------------------------------------------------------------------


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("weigh", [None, float])
def test_a_worker_takes_what_is_there(weigh: Any, eager: bool) -> None:
    """Protects ``within=0``: no item waits for others, and a batch grows only while the worker is busy."""
    batches: list[list[int]] = []

    @consumer(batch=Batch(4, within=0, weigh=None if weigh is None else lambda _: 1.0), maxsize=100)
    async def slow(numbers: list[int]) -> None:
        batches.append(list(numbers))
        await asyncio.sleep(1)

    async def main() -> None:
        async with Pipeline(slow) as running:
            await running.put(0)
            await asyncio.sleep(0.1)
            assert batches == [[0]]
            for number in range(1, 8):
                await running.put(number)
            await asyncio.sleep(1)
            assert batches[1] == [1, 2, 3, 4]
            await asyncio.sleep(1)
            assert batches[2] == [5, 6, 7]

    testing.run(main(), eager=eager)
    assert [number for batch in batches for number in batch] == list(range(8))


@pytest.mark.parametrize("within", [None, 0.0])
@pytest.mark.parametrize("seed", range(30))
async def test_the_short_way_gathers_as_the_long_one_does(seed: int, within: float | None) -> None:
    """Protects plain batches, which are cut only when they are taken: the same batches, reasons and counts."""
    draw = Random(seed)
    size = draw.randint(1, 4)
    limit = draw.choice([inf, size * draw.randint(1, 4)])
    asked = Batch(size, within=within)
    short, long = PlainBatches(asked, limit), Batches(asked, limit, lambda: None)
    for n in range(200):
        if draw.random() < 0.6 and len(short) < limit:
            short.append(n)
            long.append(n)
        elif draw.random() < 0.05:
            assert short.complete() == long.complete()
            while long:  # or what comes next might be cut in another way
                assert taken(short) == taken(long)
        else:
            assert taken(short) == taken(long)
        assert (len(short), bool(short), short.available()) == (len(long), bool(long), long.available())
        assert list(short) == list(long)


def taken(batches: PlainBatches | Batches) -> tuple[list[Any], str] | None:
    try:
        batch = batches.popleft()
    except IndexError:
        return None
    return list(batch), batch.reason


@pytest.mark.parametrize("seed", range(30))
def test_plain_batches_in_a_queue_whose_bound_is_no_multiple_of_their_size(seed: int) -> None:
    """Protects their order and bound, and progress: a full queue gives a batch that is not complete."""
    draw = Random(seed)
    size, limit, given, got = draw.randint(2, 5), draw.randint(5, 13), 0, []
    batches = PlainBatches(Batch(size), limit)
    while given < 200:
        if draw.random() < 0.7 and len(batches) < limit:
            batches.append(given)
            given += 1
        else:
            can, full = bool(batches), len(batches) >= limit
            assert can or not full
            assert can == (batches.available() > 0)
            batch = taken(batches)
            assert can == (batch is not None)
            if batch is not None:
                assert len(batch[0]) == size if batch[1] == "size" else 0 < len(batch[0]) < size
                got += batch[0]
    batches.complete()
    while (batch := taken(batches)) is not None:
        got += batch[0]
    assert got == list(range(200))


@both
def test_a_task_of_a_handler_may_put_while_its_batch_is_given_up(eager: bool) -> None:
    """Protects a task that goes on after its handler: the moment at which no item of the batch is left was an error."""
    jobs, results = remote_queue("memory://jobs", int), remote_queue("memory://results", int)
    tasks: list[asyncio.Task[None]] = []

    async def main() -> None:
        async with jobs.open() as jobs_in, results.open() as out:

            async def go_on(turns: int) -> None:
                await steps(turns)
                await out.put(turns)

            @consumer(batch=Batch(BUDGET, within=0.1), on_error="skip")
            async def fail(rows: list[int]) -> None:
                tasks.extend([asyncio.create_task(go_on(turns)) for turns in range(10)])
                await asyncio.sleep(0)
                raise ValueError

            await jobs_in.put_many(range(BUDGET))
            async with jobs >> fail:
                await asyncio.sleep(1)
        await asyncio.gather(*tasks)

    testing.run(main(), eager=eager)
    assert len(tasks) == 10
