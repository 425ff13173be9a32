"""``ordered=``: values leave a stage in the order its items came in. All in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, cast

import pytest
from spy import Sink
from support import both, ignore

from asyncpc import Pipeline, PipelineError, Report, Retry, Running, consumer, source, testing


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
    report = testing.run(Pipeline(range(60), first >> consumer(sink), maxsize=maxsize), eager=eager)
    assert sink.items == [n for n in range(60) for _ in range(n % 3 if generates else 1)]
    assert report.done == len(sink.items)


def test_a_slow_head_idles_nobody_within_the_window() -> None:
    """A hundred items overtake one that takes ten seconds, and leave right behind it."""
    sink = Sink()

    @consumer(ordered=True, concurrency=4, maxsize=200)
    async def handle(n: int) -> int:
        await asyncio.sleep(10 if n == 0 else 0.1)
        return n

    testing.run(source(range(101)) >> handle >> consumer(maxsize=200)(sink))
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

    testing.run(main())


def test_what_was_given_up_leaves_a_gap_only() -> None:
    """A skipped item must not hold up those behind it for ever."""
    sink = Sink()

    @consumer(ordered=True, concurrency=3, on_error="skip", retry=Retry(2, wait=lambda attempt: 0.1))
    async def handle(n: int) -> int:
        await asyncio.sleep(1 / (n + 1))
        if n % 4 == 0:
            raise ValueError
        return n

    report = testing.run(source(range(20)) >> handle >> consumer(sink))
    assert sink.items == [n for n in range(20) if n % 4]
    assert (report.stages[0].done, report.stages[0].failed, report.stages[0].retried) == (15, 5, 5)


@both
@pytest.mark.parametrize("end", ["drain", "cancel"])
def test_values_that_are_refused_at_the_end_have_failed(end: str, eager: bool) -> None:
    """Behind a slow head, in order, lies a value that the next stage's ``key=`` refuses: the run ends, and tells."""

    @consumer(concurrency=3, ordered=True)
    async def fetch(n: int) -> dict[str, int]:
        if n == 0:
            await asyncio.sleep(1000)
        return {"n": n} if n == 2 else {"n": n, "site": 1}

    @consumer(key=lambda page: page["site"])
    async def save(page: dict[str, int]) -> None: ...

    async def main(told: list[Running[int, None]]) -> None:
        async with Pipeline(fetch, save) as running:
            told.append(running)
            for n in range(3):
                await running.put(n)
            await asyncio.sleep(1)
            if end == "cancel":
                raise asyncio.CancelledError
            await running.drain(timeout=1)

    async def ended() -> Report:
        told: list[Running[int, None]] = []
        with pytest.raises((PipelineError, asyncio.CancelledError)):
            await main(told)
        assert [type(error) for error in told[0]._run.outcome.errors] == [KeyError]
        return cast(Report, told[0].report)

    report = testing.run(ended(), eager=eager)
    assert [(one.item, one.stage) for one in report.unfinished] == [
        (0, "fetch"),
        ({"n": 1, "site": 1}, "save"),
    ]
    assert report.failed == 1


@both
@pytest.mark.parametrize("end", ["runs on", "is cancelled"])
def test_a_value_in_order_that_is_refused_has_failed(end: str, eager: bool) -> None:
    """Invariant 2: whoever passes on the values of others must not lose one of them."""

    @consumer(concurrency=4, ordered=True)
    async def first(n: int) -> int:
        await asyncio.sleep(1 if n % 4 == 0 else 0)
        return n

    @consumer(maxsize=1, key=lambda n: {5: 1}[n] if n == 6 else n)
    async def second(n: int) -> None:
        await asyncio.sleep(1000 if end == "is cancelled" and n == 4 else 0)

    with pytest.raises(PipelineError) as failed:
        testing.run(Pipeline(range(8), first >> second, drain_timeout=5), eager=eager)
    report = failed.value.report
    assert [type(error) for error in failed.value.exceptions] == [KeyError]
    left = [(one.item, one.stage) for one in report.unfinished]
    assert 6 not in [item for item, _ in left]
    assert report.failed == 1
    assert report.done + len(left) + report.failed == 8


@both
def test_an_ordered_generator_that_swallows_its_cancel_is_stopped(eager: bool) -> None:
    """Fault B4: what it would give next is not waited for."""
    given: list[int] = []

    @consumer(ordered=True, concurrency=2)
    async def stubborn(n: int) -> AsyncIterator[int]:
        for value in range(100):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(1)
            given.append(value)
            yield value

    async def main() -> None:
        async with asyncio.timeout(2.5):
            await (source([1]) >> stubborn >> ignore)

    with pytest.raises(TimeoutError):
        testing.run(main(), eager=eager)
    assert given == [0, 1, 2]
