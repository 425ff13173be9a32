"""How items flow: by key, in order, by priority, in batches, into a full queue, by request; and a run under control.

All in virtual time.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, cast

import pytest
from spy import Sink, Spy
from virtual import EAGER, idle, measuring_with, now, ran, run_virtual

from asyncpc import (
    Adaptive,
    Batch,
    Breaker,
    DefinitionError,
    Failure,
    Pipeline,
    PipelineError,
    QueueShutDown,
    Rate,
    Report,
    Retry,
    StateError,
    consumer,
    source,
)
from asyncpc.watch.drawing import draw

both = pytest.mark.parametrize("eager", EAGER)


@pytest.fixture
def virtual_clock() -> Iterator[None]:
    """Let the workers measure their calls in virtual time too."""
    with measuring_with(now):
        yield


# -- key ------------------------------------------------------------------------------------------


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

    ran(source(range(100)) >> handle >> last, eager=eager)
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

        ran(source(range(1000)) >> handle)
        return max(ends)

    assert others_end(1.0) <= 1.2 * others_end(0.01)


def test_waiting_items_of_a_key_count_against_the_bound() -> None:
    """Promise 6: a key that hangs must not fill the memory with what waits for it."""

    async def main() -> None:
        @consumer(concurrency=4, key=lambda n: 0, maxsize=10)
        async def hangs(n: int) -> None:
            await asyncio.Event().wait()

        async with Pipeline(range(100), hangs) as running:
            await asyncio.sleep(1)
            (stage,) = running.statistics().stages
            assert (stage.in_flight, stage.queued, stage.received) == (1, 9, 10)
            report = await running.drain(timeout=1)
            assert [left.item for left in report.unfinished] == list(range(10))

    run_virtual(main)


# -- order ----------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("maxsize", [1, 3, 128])
@pytest.mark.parametrize("generates", [False, True])
def test_ordered_values_leave_as_the_items_came(generates: bool, maxsize: int, eager: bool) -> None:
    """Whatever the handlers' speed, and whatever each gives."""
    rng, sink = random.Random(2), Sink()

    async def one(n: int) -> int:
        await asyncio.sleep(rng.random())
        return n

    async def some(n: int) -> AsyncIterator[int]:
        for _ in range(n % 3):
            await asyncio.sleep(rng.random() / 3)
            yield n

    stage = consumer(ordered=True, concurrency=6)
    first: Any = stage(some) if generates else stage(one)
    report = ran(Pipeline(range(60), first >> consumer(sink), maxsize=maxsize), eager=eager)
    assert sink.items == [n for n in range(60) for _ in range(n % 3 if generates else 1)]
    assert report.done == len(sink.items)


def test_a_slow_head_idles_nobody_within_the_window() -> None:
    """A hundred items overtake one that takes ten seconds, and leave right behind it."""
    sink = Sink()

    @consumer(ordered=True, concurrency=4, maxsize=200)
    async def handle(n: int) -> int:
        await asyncio.sleep(10 if n == 0 else 0.1)
        return n

    ran(source(range(101)) >> handle >> consumer(maxsize=200)(sink))
    assert sink.items == list(range(101))
    assert sink.times[-1] == pytest.approx(10, abs=0.01)


def test_the_window_behind_a_slow_head_is_bounded() -> None:
    """Promise 6: a head that hangs must not let the values behind it grow without end."""

    async def main() -> None:
        @consumer(ordered=True, concurrency=4)
        async def handle(n: int) -> int:
            await asyncio.sleep(1e6 if n == 0 else 0.01)
            return n

        async with source(range(10_000)) >> handle >> consumer(Sink()) as running:
            await asyncio.sleep(1e5)
            first = running.statistics().stages[0]
            assert first.done < 140
            report = await running.drain(timeout=0)
            assert report.stages[0].done == report.stages[1].received

    run_virtual(main)


def test_what_was_given_up_leaves_a_gap_only() -> None:
    """A skipped item must not hold up those behind it for ever."""
    sink = Sink()

    @consumer(ordered=True, concurrency=3, on_error="skip", retry=Retry(2, wait=lambda attempt: 0.1))
    async def handle(n: int) -> int:
        await asyncio.sleep(1 / (n + 1))
        if n % 4 == 0:
            raise ValueError
        return n

    report = ran(source(range(20)) >> handle >> consumer(sink))
    assert sink.items == [n for n in range(20) if n % 4]
    assert (report.stages[0].done, report.stages[0].failed, report.stages[0].retried) == (15, 5, 5)


# -- priority -------------------------------------------------------------------------------------


@both
def test_the_lowest_priority_value_comes_first(eager: bool) -> None:
    """Triage: what is urgent is handled before what came earlier; equal ones in the order they came."""
    sink = Sink()

    async def main() -> None:
        @consumer(priority=lambda order: order[0])
        async def handle(order: tuple[int, str]) -> None:
            await sink(order)
            await asyncio.sleep(1)

        async with Pipeline(handle) as running:
            running.put_nowait((5, "first of all"))
            await asyncio.sleep(0.5)
            for order in [(3, "a"), (1, "b"), (3, "c"), (0, "d"), (1, "e")]:
                running.put_nowait(order)

    run_virtual(main, eager=eager)
    assert [name for _, name in sink.items] == ["first of all", "d", "b", "e", "a", "c"]


def test_a_priority_that_raises_is_an_error_of_whoever_puts() -> None:
    """The item was not accepted, so nobody has to account for it."""

    async def main() -> None:
        @consumer(priority=lambda n: 1 / n)
        async def handle(n: int) -> None: ...

        async with Pipeline(handle) as running:
            with pytest.raises(ZeroDivisionError):
                await running.put(0)
            await running.put(1)
        assert running.report is not None
        assert (running.report.produced, running.report.done) == (1, 1)

    run_virtual(main)


@pytest.mark.parametrize(
    "options",
    [
        {"priority": lambda n: 1 / n}, {"key": lambda n: 1 / n},
        {"batch": Batch(2, within=1, key=lambda n: 1 / n)}, {"batch": Batch(2, within=1, weigh=lambda n: 1 / n)},
    ],
    ids=["priority", "key", "batch key", "batch weigh"],
)  # fmt: skip
@pytest.mark.parametrize("where", ["source", "stage", "batch"])
@pytest.mark.parametrize("maxsize", [2, 128])
def test_an_option_that_raises_fails_the_run_with_its_own_error(where: str, options: Any, maxsize: int) -> None:
    """The user's mistake must come out as itself, with books that balance."""

    @consumer
    async def same(n: int) -> int:
        return n

    @consumer(batch=Batch(2))
    async def pairs(items: list[int]) -> list[int]:
        return items

    stage: Any = consumer(maxsize=maxsize, **options)
    last = stage(Sink())

    async def main() -> None:
        numbers = source([1, 2, 3, 0, 4])
        await ({"source": numbers, "stage": numbers >> same, "batch": numbers >> pairs}[where] >> last)

    with pytest.raises(PipelineError) as failed:
        run_virtual(main)
    assert {type(error) for error in failed.value.exceptions} == {ZeroDivisionError}


# -- overflow -------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(("overflow", "kept"), [("drop_oldest", [0, 8, 9]), ("drop_newest", [0, 1, 2])])
@pytest.mark.parametrize("way", ["source", "put", "put_nowait", "stage"])
def test_a_full_queue_drops_and_tells(way: str, overflow: Any, kept: list[int], eager: bool) -> None:
    """A sensor that is faster than its reader: never waits, never grows, and every dropped item is counted and told."""
    sink, dropped = Sink(), list[int]()

    @consumer(maxsize=2, overflow=overflow, on_drop=dropped.append)
    async def slow(n: int) -> None:
        await sink(n)
        await asyncio.sleep(1)

    @consumer
    async def same(n: int) -> int:
        if n == 1:
            await asyncio.sleep(0.1)
        return n

    async def readings() -> AsyncIterator[int]:
        for n in range(10):
            yield n
            if n == 0:
                await asyncio.sleep(0.1)

    async def main() -> Report:
        if way in ("source", "stage"):
            return await (source(readings()) >> slow if way == "source" else source(readings()) >> same >> slow)
        async with Pipeline(slow) as running:
            for n in range(10):
                if way == "put":
                    await running.put(n)
                else:
                    running.put_nowait(n)
                if n == 0:
                    await asyncio.sleep(0.1)
        assert running.report is not None
        return running.report

    report = run_virtual(main, eager=eager)
    assert sink.items == kept
    assert sorted(dropped + kept) == list(range(10))
    assert (report.dropped, report.done, report.produced) == (7, 3, 10)


def test_overflow_raise_is_queue_full_at_once() -> None:
    """A caller of put that would rather answer 503 than wait."""

    async def main() -> None:
        @consumer(maxsize=1, overflow="raise")
        async def slow(n: int) -> None:
            await asyncio.sleep(1)

        async with Pipeline(slow) as running:
            await running.put(1)
            await idle()
            await running.put(2)
            with pytest.raises(asyncio.QueueFull, match="stage 'slow': its queue is full"):
                await running.put(3)
        assert running.report is not None
        assert (running.report.produced, running.report.done) == (2, 2)

    run_virtual(main)


def test_an_on_drop_that_raises_fails_the_run_and_not_the_caller() -> None:
    """Whoever put the item has nothing to do with it; and an error is never silent."""

    def broken(n: int) -> None:
        raise OSError("no log")

    async def main() -> None:
        @consumer(maxsize=1, overflow="drop_newest", on_drop=broken)
        async def slow(n: int) -> None:
            await asyncio.sleep(1)

        async with Pipeline(slow) as running:
            await running.put(1)
            await idle()
            await running.put(2)
            await running.put(3)

    with pytest.raises(PipelineError) as failed:
        run_virtual(main)
    assert [type(error) for error in failed.value.exceptions] == [OSError]


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
    report = ran(source(in_time(0, 0, 0, 5, 5.9, 8, 8.1)) >> stage(batcher) >> consumer(sink), eager=eager)
    assert batcher.items == [([0, 1, 2], "size"), ([3, 4], "time"), ([5, 6], "end")]
    assert batcher.times == pytest.approx([0, 6.0, 8.1])
    assert sink.items == [n * 10 for n in range(7)]
    assert (report.stages[0].received, report.stages[0].done, report.stages[0].emitted) == (7, 7, 7)


def test_a_batch_by_weight_and_by_key() -> None:
    """Bytes for an upload, customers for a bulk call: an item too heavy comes alone, keys never mix."""
    by_weight, by_key = Batcher(), Batcher()
    weigh: Any = consumer(batch=Batch(10, weigh=lambda n: n))
    ran(source([4, 5, 3, 20, 9, 1, 1]) >> weigh(by_weight))
    assert [items for items, _ in by_weight.items] == [[4, 5], [3], [20], [9, 1], [1]]
    keyed: Any = consumer(batch=Batch(2, key=lambda n: n % 3))
    ran(source(range(8)) >> keyed(by_key))
    assert sorted(items for items, _ in by_key.items) == [[0, 3], [1, 4], [2, 5], [6], [7]]


def test_a_full_queue_flushes() -> None:
    """Keys that never fill a batch must not stop the stage for ever."""
    batcher = Batcher()
    stage: Any = consumer(batch=Batch(4, key=lambda n: n), maxsize=4)
    report = ran(source(range(10)) >> stage(batcher))
    assert report.done == 10
    assert {reason for _, reason in batcher.items} == {"full", "end"}


def test_the_queue_of_a_batch_stage_holds_more_than_a_batch() -> None:
    """Batch(500) behind the default bound of 128 would never be full."""
    batcher = Batcher()
    stage: Any = consumer(batch=Batch(500))
    ran(source(range(1000)) >> stage(batcher))
    assert [(len(items), reason) for items, reason in batcher.items] == [(500, "size"), (500, "size")]


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

        report = ran(source(range(12)) >> insert, eager=eager)
        assert (report.done, report.failed, len(told)) == (12 - failed, failed, failed)
        assert 5 in [one.item for one in told]


@pytest.mark.parametrize("results", [[1], "abc", 7])
def test_a_batch_that_gives_the_wrong_number_of_results_is_an_error(results: Any) -> None:
    """Nobody could say whose result is whose."""

    @consumer(batch=Batch(3))
    async def insert(rows: list[int]) -> Any:
        return results

    with pytest.raises(PipelineError) as failed:
        ran(source(range(3)) >> insert >> consumer(Sink()))
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

    report = run_virtual(main)
    assert (report.stages[0].done, report.stages[0].emitted, report.stages[1].received) == (4, 4, 4)
    assert sorted(left.item for left in report.unfinished) == [0, 1, 2, 3]


# -- call -----------------------------------------------------------------------------------------


@both
def test_call_returns_the_result_of_its_own_item(eager: bool) -> None:
    """Request and response through all stages, many callers at once, beside plain puts."""

    @consumer(concurrency=3)
    async def double(n: int) -> int:
        await asyncio.sleep(1 / (n + 1))
        return 2 * n

    @consumer
    async def text(n: int) -> str:
        return f"<{n}>"

    async def main() -> None:
        async with Pipeline(double, text) as running:
            await running.put(100)
            answers = await asyncio.gather(*(running.call(n) for n in range(10)))
            assert answers == [f"<{2 * n}>" for n in range(10)]
        assert running.report is not None
        assert running.report.done == 11

    run_virtual(main, eager=eager)


@both
def test_call_raises_what_its_handler_raised_and_nobody_else_is_disturbed(eager: bool) -> None:
    """After its attempts; the run goes on although on_error is "stop", since somebody was told."""
    calls: Counter[int] = Counter()

    @consumer(retry=Retry(2, wait=lambda attempt: 0.0))
    async def odd(n: int) -> int:
        calls[n] += 1
        if n % 2 == 0:
            raise ValueError(n)
        return n

    async def main() -> None:
        async with Pipeline(odd) as running:
            answers = await asyncio.gather(*(running.call(n) for n in range(4)), return_exceptions=True)
            assert [str(answer) for answer in answers] == ["0", "1", "2", "3"]
            assert [type(answer) for answer in answers] == [ValueError, int, ValueError, int]
        assert running.report is not None
        assert (running.report.done, running.report.failed, running.report.stages[0].retried) == (2, 2, 2)

    run_virtual(main, eager=eager)
    assert calls == {0: 2, 1: 1, 2: 2, 3: 1}


@both
def test_cancelling_a_caller_does_not_disturb_the_pipeline(eager: bool) -> None:
    """Its item is handled, its result dropped."""
    sink = Sink()

    async def main() -> None:
        @consumer
        async def slow(n: int) -> int:
            await asyncio.sleep(1)
            await sink(n)
            return n

        async with Pipeline(slow) as running:
            gone = asyncio.ensure_future(running.call(1))
            stays = asyncio.ensure_future(running.call(2))
            await asyncio.sleep(0.5)
            gone.cancel()
            assert await stays == 2
            with pytest.raises(asyncio.CancelledError):
                await gone
        assert sink.items == [1, 2]

    run_virtual(main, eager=eager)


def test_a_caller_is_told_when_the_run_ends_before_its_item() -> None:
    """Promise 5: no caller waits for ever for a run that is over; the item is listed as itself."""

    async def main() -> None:
        @consumer
        async def hangs(n: int) -> int:
            await asyncio.sleep(1e9)
            return n

        async with Pipeline(hangs, drain_timeout=1) as running:
            waiting = [asyncio.ensure_future(running.call(n)) for n in range(3)]
            await asyncio.sleep(1)
            report = await running.drain(timeout=1)
            assert [left.item for left in report.unfinished] == [0, 1, 2]
            for caller in waiting:
                with pytest.raises(QueueShutDown, match="ended before it handled this item"):
                    await caller

    run_virtual(main)


@both
def test_call_through_a_batch_is_a_micro_batching_server(eager: bool) -> None:
    """64 callers, batches of 32, 5 ms of fixed cost a batch: at least fifteen times the throughput of one by one."""

    def seconds(**options: Any) -> float:
        async def handle(items: Any) -> Any:
            await asyncio.sleep(0.005)
            return [n + 1 for n in items] if options else items + 1

        stage: Any = consumer(**options)

        async def main() -> float:
            async with Pipeline(stage(handle)) as running:

                async def caller(first: int) -> None:
                    for n in range(10):
                        assert await running.call(first + n) == first + n + 1

                await asyncio.gather(*(caller(10 * each) for each in range(64)))
            return now()

        return run_virtual(main, eager=eager)

    assert seconds() >= 15 * seconds(batch=Batch(32, within=0.01))


def test_a_failing_batch_tells_each_caller() -> None:
    """Those who asked get the error, and the run goes on; a plain item in the same batch would stop it."""

    async def main() -> None:
        @consumer(batch=Batch(3, within=1, split_on_error=True))
        async def handle(items: list[int]) -> list[int]:
            if 1 in items:
                raise ValueError("one")
            return items

        async with Pipeline(handle) as running:
            answers = await asyncio.gather(*(running.call(n) for n in range(3)), return_exceptions=True)
            assert [str(answer) for answer in answers] == ["0", "one", "2"]

    run_virtual(main)


def test_call_does_not_wait_for_a_batch_that_nobody_may_fill() -> None:
    """No deadlock: a batch without a limit of time might wait for others for ever, so the call is refused."""

    async def main() -> None:
        batched: Any = consumer(batch=Batch(2))(lambda items: items)
        async with Pipeline(batched) as running:
            with pytest.raises(StateError, match="stage '<lambda>' would wait for others: give Batch"):
                await running.call(1)

    run_virtual(main)


def test_call_needs_a_run_that_was_entered() -> None:
    """The results of a stream are read, so there is nobody to answer."""

    async def main() -> None:
        async with Pipeline([1], consumer(Sink())).stream() as values:
            with pytest.raises(StateError, match="async with pipeline as running"):
                await values.running.call(1)

    run_virtual(main)


def test_show_tells_the_options() -> None:
    """Whoever looks at a pipeline sees what it does with an item, in words."""

    def by_user(n: int) -> int:
        return n

    @consumer(key=by_user, retry=3, timeout=10, rate=Rate(100), breaker=Breaker(5, 30), on_error="skip")
    async def store(n: int) -> None: ...

    @consumer(batch=Batch(500, within=1), overflow="drop_newest", on_error=print)
    async def insert(rows: list[None]) -> None: ...

    @consumer(ordered=True, concurrency=Adaptive(1, 9, 0.2), overflow="raise")
    async def last(n: None) -> None: ...

    notes = draw((store >> insert >> last)._plan, 200)
    assert (
        "store: key test_show_tells_the_options.<locals>.by_user, at most 10 s a call, "
        "at most 100 calls in 1 s, rests 30 s after 5 failures in a row, skips what fails, 3 attempts"
    ) in notes
    assert "insert: batches of 500 or after 1 s, drops the newest when full, what fails goes to print" in notes
    assert "last: raises when full, values leave in order, up to 9 workers while calls take at most 0.2 s" in notes


def test_call_needs_one_result_per_item() -> None:
    """A generator gives any number, and none of them is the answer."""

    async def main() -> None:
        @consumer
        async def many(n: int) -> AsyncIterator[int]:
            yield n

        async with Pipeline(many) as running:
            with pytest.raises(StateError, match="stage 'many' may give more"):
                await running.call(1)

    run_virtual(main)


# -- control --------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("with_resource", [False, True])
def test_scale_up_and_down(with_resource: bool, eager: bool) -> None:
    """More work at once from now on, or less; nobody is cut off, and what is open is closed."""
    spy, opened = Spy(1), 0

    @asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        nonlocal opened
        opened += 1
        yield
        opened -= 1

    async def handle(n: int, *resource: None) -> None:
        await spy(n)

    context: Any = resource if with_resource else None
    stage: Any = consumer(concurrency=2, name="handle", context=context)

    async def main() -> None:
        async with Pipeline(range(10_000), stage(handle)) as running:
            await asyncio.sleep(9.5)
            assert spy.peak == spy.running == 2
            running.scale("handle", 50)
            await asyncio.sleep(10)
            assert spy.peak == spy.running == 50
            assert running.statistics().stages[0].concurrency == 50
            running.scale("handle", 3)
            await asyncio.sleep(2)
            assert spy.running == 3
            if with_resource:
                assert opened == 3
            running.scale("handle", 1)
            running.scale("handle", 4)
            await asyncio.sleep(2)
            assert spy.running == 4
            report = await running.drain(timeout=1e9)
            assert report.complete
        assert opened == 0

    run_virtual(main, eager=eager)


def test_idle_workers_that_are_too_many_leave_at_once() -> None:
    """A connection per worker is given back when it is not needed, not with the next item."""
    opened = 0

    @asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        nonlocal opened
        opened += 1
        yield
        opened -= 1

    @consumer(concurrency=5, context=resource)
    async def handle(n: int, resource: None) -> None: ...

    async def main() -> None:
        async with Pipeline(handle) as running:
            await idle()
            assert opened == 5
            running.scale("handle", 2)
            await idle()
            assert opened == 2
            await asyncio.gather(*(running.put(n) for n in range(300)))

    run_virtual(main)


@both
def test_pause_and_resume(eager: bool) -> None:
    """Handlers finish what they are at; callers meet a full queue; nothing is lost."""

    @consumer(concurrency=2, maxsize=3)
    async def handle(n: int) -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        async with Pipeline(range(20), handle) as running:
            await asyncio.sleep(3.5)
            running.pause()
            await asyncio.sleep(100)
            paused = running.statistics().stages[0]
            assert (paused.in_flight, paused.queued, paused.done) == (0, 3, 8)
            running.resume()
            await asyncio.sleep(0.5)
            assert running.statistics().stages[0].in_flight == 2
            report = await running.wait()
            assert report.done == 20

    run_virtual(main, eager=eager)


@both
def test_a_drain_resumes(eager: bool) -> None:
    """A paused run must not sit out its deadline."""

    @consumer
    async def handle(n: int) -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        async with Pipeline(handle) as running:
            running.pause()
            await asyncio.gather(*(running.put(n) for n in range(5)))
            await asyncio.sleep(10)
            assert running.statistics().done == 0
        assert running.report is not None
        assert running.report.done == 5
        assert now() == pytest.approx(15)

    run_virtual(main, eager=eager)


def test_set_rate_takes_effect_at_once() -> None:
    """An API that asks for less gets less, without a restart."""
    sink = Sink()

    async def main() -> None:
        stage = consumer(rate=Rate(10), name="ask")
        async with Pipeline(range(10_000), stage(sink)) as running:
            await asyncio.sleep(10.01)
            assert len(sink.items) == pytest.approx(100, abs=2)
            running.set_rate("ask", Rate(100))
            await asyncio.sleep(10)
            assert len(sink.items) == pytest.approx(1100, rel=0.03)
            await running.drain(timeout=0)

    run_virtual(main)


@both
@pytest.mark.parametrize("options", [{}, {"timeout": 5}, {"ordered": True}, {"context": nullcontext()}])
def test_a_stage_without_a_rate_can_be_given_one(options: dict[str, Any], eager: bool) -> None:
    """Workers at work and idle ones keep to it from their next call on, and nothing else changes."""
    seen: ContextVar[int] = ContextVar("seen", default=-1)
    called: list[float] = []

    async def ask(n: int, *resource: Any) -> int:
        assert seen.get() == -1  # of another item
        seen.set(n)
        called.append(now())
        await asyncio.sleep(0.01)
        return n

    stage: Any = consumer(concurrency=4, name="fetch", **options)

    async def main() -> None:
        async with Pipeline(range(10_000), stage(ask) >> consumer(Sink()), drain_timeout=0) as running:
            await asyncio.sleep(1)
            assert len(called) >= 300
            called.clear()
            running.set_rate("fetch", Rate(10, per=1))
            await asyncio.sleep(10)
            assert 98 <= len(called) <= 102
            await running.drain()

    run_virtual(main, eager=eager)


def test_adaptive_concurrency_finds_what_the_service_bears(virtual_clock: None) -> None:
    """Up while calls stay quick, down when they do not: a service that bears 20 at once is given about 20."""
    busy = 0
    seen: list[int] = []

    async def ask(n: int) -> None:
        nonlocal busy
        busy += 1
        await asyncio.sleep(0.1 if busy <= 20 else 0.5)
        busy -= 1

    async def main() -> None:
        stage = consumer(concurrency=Adaptive(min=2, max=100, target=0.15, every=1.0), name="ask")
        async with Pipeline(range(10**9), stage(ask)) as running:
            for _ in range(200):
                await asyncio.sleep(1)
                seen.append(running.statistics().stages[0].concurrency)
            await running.drain(timeout=0)

    run_virtual(main)
    assert seen[0] <= 3
    later = seen[50:]
    assert min(later) >= 8
    assert max(later) <= 30


def test_adaptive_concurrency_stays_within_its_bounds(virtual_clock: None) -> None:
    """Never fewer than min, however slow; never more than max, however quick; not more than there is work for."""

    async def main(seconds: float, items: int) -> int:
        async def ask(n: int) -> None:
            await asyncio.sleep(seconds)

        stage = consumer(concurrency=Adaptive(min=2, max=5, target=0.15, every=1.0), name="ask")
        async with Pipeline(range(items), stage(ask)) as running:
            await asyncio.sleep(30)
            concurrency = running.statistics().stages[0].concurrency
            await running.drain(timeout=0)
        return concurrency

    assert run_virtual(lambda: main(1.0, 10**6)) == 2
    assert run_virtual(lambda: main(0.01, 10**6)) == 5
    assert run_virtual(lambda: main(0.01, 3)) == 2


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

    run_virtual(main)


@pytest.mark.parametrize("sources", ["ended", "none"])
@pytest.mark.parametrize("how", ["drain", "stop", "leave"])
def test_a_stop_ends_a_pause_and_allows_no_other(sources: str, how: str) -> None:
    """A drain handles what is queued, so it resumes, whatever ended the intake; nothing pauses it again."""
    sink = Sink()

    async def main() -> None:
        pipeline = Pipeline(range(50), consumer(sink)) if sources == "ended" else Pipeline(consumer(sink))
        async with pipeline as running:
            running.pause()
            if sources == "none":
                for n in range(50):
                    await running.put(n)
            await asyncio.sleep(1)
            assert sink.items == []
            if how != "leave":
                running.stop(1)
                running.pause()
            if how == "drain":
                await running.drain(1)

    run_virtual(main)
    assert sink.items == list(range(50))


def test_the_end_of_the_sources_lifts_no_pause() -> None:
    """Whoever paused says when it goes on; the run ends after that."""
    sink = Sink()

    async def main() -> None:
        async with source(range(10)) >> consumer(sink) as running:
            running.pause()
            await asyncio.sleep(10)
            assert sink.items == []
            assert running.statistics().state == "draining"
            running.resume()
            await running.wait()

    run_virtual(main)
    assert sink.items == list(range(10))


def test_workers_that_left_are_forgotten() -> None:
    """Memory does not grow with every change of the concurrency; what they did stays in the books."""

    @consumer
    async def handle(n: int) -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        async with Pipeline(handle) as running:
            for n in range(20):
                running.scale("handle", 1 + n % 2 * 3)
                for k in range(8):
                    await running.put(k)
                await asyncio.sleep(20)
            (stage,) = running._run.stages
            assert len(stage.staff.workers) <= 4
            assert stage.staff.started > 20
            assert running.statistics().stages[0].done == 160

    run_virtual(main)


def test_control_of_what_is_not_there_is_refused() -> None:
    """The message names what there is."""

    async def main() -> None:
        async with Pipeline(consumer(name="save")(Sink())) as running:
            with pytest.raises(StateError, match=r"no stage 'store'; it has 'save'"):
                running.scale("store", 3)
            with pytest.raises(DefinitionError, match="stage 'save': concurrency=0 must be a whole number, at least 1"):
                running.scale("save", 0)

    run_virtual(main)


# -- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": Adaptive(0, 5, 1)}, {"concurrency": Adaptive(5, 2, 1)}, {"concurrency": Adaptive(1, 5, 0)},
        {"batch": 500}, {"batch": Batch(0)}, {"batch": Batch(2.5)}, {"batch": Batch(3, within=0)},
        {"batch": Batch(10), "maxsize": 5}, {"batch": Batch(3, key=cast(Any, 3))},
        {"batch": Batch(3, weigh=cast(Any, 3))},
        {"ordered": "yes"}, {"ordered": True, "key": len}, {"ordered": True, "batch": Batch(3)},
        {"key": 3}, {"key": lambda: 0}, {"priority": "high"},
        {"overflow": "drop"}, {"overflow": "drop_oldest", "key": len}, {"on_drop": print},
        {"overflow": "drop_newest", "on_drop": 3},
    ],
    ids=str,
)  # fmt: skip
def test_a_mistake_is_refused_where_it_is_written(options: dict[str, Any]) -> None:
    """Bad input gets a clear error at definition time, with the name of the stage."""
    with pytest.raises(DefinitionError, match="consumer 'handle'"):

        @consumer(**options)  # type: ignore[untyped-decorator]  # which options, only the test knows
        async def handle(n: Any) -> None: ...


def test_options_that_are_not_used_change_nothing() -> None:
    """The fast path against the slow one: with every harmless option on, the values and their order are the same."""
    sinks = Sink(), Sink()
    everything = consumer(
        retry=3, timeout=1e6, on_error="skip", rate=Rate(1e9), breaker=Breaker(5, 1), ordered=True, concurrency=1
    )

    async def same(n: int) -> int:
        return n

    ran(source(range(300)) >> consumer(same) >> consumer(sinks[0]))
    ran(source(range(300)) >> everything(same) >> consumer(sinks[1]))
    assert sinks[0].items == sinks[1].items == list(range(300))
