"""``breaker=``: a stage whose calls fail in a row rests for a while. All in virtual time."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from spy import Sink
from support import both, named, no_wait, places

from asyncpc import Batch, Breaker, Rate, Retry, RetryLater, broadcast, consumer, source, testing
from asyncpc.testing import now


@both
@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_breaker_rests_and_tries_with_one_item(concurrency: int, eager: bool) -> None:
    """While the service is down it is asked once in ten seconds, and no item is lost over it."""
    calls: list[float] = []

    @consumer(breaker=Breaker(failures=3, reset_after=10), retry=Retry(50, wait=no_wait), concurrency=concurrency)
    async def call(n: int) -> int:
        calls.append(now())
        await asyncio.sleep(0.1)
        if now() < 35:
            raise ConnectionError
        return n

    report = testing.run(source(range(20)) >> call, eager=eager)
    assert (report.done, report.failed) == (20, 0)
    down = [when for when in calls if 1 < when < 35]
    assert len(down) == 3
    assert all(later - earlier >= 10 for earlier, later in itertools.pairwise(down))
    assert max(calls) < 45


def test_a_cancelled_trial_lets_another_try() -> None:
    """A worker cancelled in its trial call must not leave the circuit open for ever."""

    @consumer(breaker=Breaker(1, 1), retry=Retry(9, wait=no_wait), timeout=0.5, concurrency=2, on_error="skip")
    async def call(n: int) -> None:
        if now() < 2:
            await asyncio.sleep(9)

    report = testing.run(source([1, 2, 3]) >> call)
    assert report.done == 3


@both
@pytest.mark.parametrize("failures", [1, 2, 3, 4])
def test_a_breaker_opens_after_so_many_failures_and_not_one_more_or_less(failures: int, eager: bool) -> None:
    """In a row: a call that succeeds begins the count anew."""
    calls: list[float] = []
    worked = failures - 1  # fails so often, then succeeds once

    @consumer(breaker=Breaker(failures, reset_after=100), on_error="skip")
    async def handle(n: int) -> None:
        calls.append(now())
        if n != worked:
            raise ValueError

    report = testing.run(source(range(2 * failures + 1)) >> handle, eager=eager)
    before = [when for when in calls if when < 100]
    assert len(before) == worked + 1 + failures
    assert calls[len(before)] == pytest.approx(100)
    assert report.failed == 2 * failures


@both
@pytest.mark.parametrize("options", [{}, {"timeout": 5}, {"ordered": True}, {"batch": Batch(1)}], ids=str)
def test_calls_that_wait_for_their_rate_do_not_begin_while_the_breaker_rests(
    options: dict[str, Any], eager: bool
) -> None:
    """The circuit may open meanwhile; then they wait for it, and take their turns anew, none faster than the rate."""
    calls: list[float] = []

    async def call(item: Any) -> Any:
        calls.append(now())
        if now() < 50:
            raise ConnectionError
        return [item] if options.get("batch") else item

    stage: Any = consumer(concurrency=20, rate=Rate(20), breaker=Breaker(2, reset_after=60), on_error="skip", **options)
    report = testing.run(source(range(100)) >> stage(call) >> consumer(Sink()), eager=eager)
    assert (report.stages[0].failed, report.stages[0].done) == (2, 98)
    assert calls[:2] == pytest.approx([0, 0.05])
    assert calls[2:] == pytest.approx([60.05 + n / 20 for n in range(98)], abs=0.06)
    assert min(later - sooner for sooner, later in itertools.pairwise(calls)) > 0.0499


@both
def test_one_call_tries_for_all_that_wait_for_their_rate(eager: bool) -> None:
    """Also when it fails: they wait on, and the rest begins again."""
    calls: list[float] = []

    @consumer(concurrency=20, rate=Rate(20), breaker=Breaker(2, reset_after=10), on_error="skip")
    async def call(n: int) -> None:
        calls.append(now())
        await asyncio.sleep(0.5)
        if now() < 25:
            raise ConnectionError

    testing.run(source(range(40)) >> call, eager=eager)
    down = [when for when in calls if 1 < when < 30]
    assert all(later - sooner >= 10 for sooner, later in itertools.pairwise(down))
    assert len(down) == 2


@both
def test_a_call_that_was_cancelled_by_a_stranger_has_failed(eager: bool) -> None:
    """A handler that awaits something that somebody cancelled: invariant 7 says that this is a failure."""
    calls: list[float] = []

    @consumer(breaker=Breaker(2, reset_after=60), on_error="skip")
    async def call(n: int) -> None:
        calls.append(now())
        if len(calls) < 3:
            raise asyncio.CancelledError

    report = testing.run(source(range(4)) >> call, eager=eager)
    assert calls == pytest.approx([0, 0, 60, 60])
    assert (report.done, report.failed) == (2, 2)


@both
@pytest.mark.parametrize("failures", [1, 2])
def test_h9_patience_trips_no_breaker(failures: int, eager: bool) -> None:
    """A sink that asks for patience is no sink that is down."""
    calls: list[float] = []

    @consumer(breaker=Breaker(failures, reset_after=1000))
    async def handle(n: int) -> None:
        calls.append(now())
        if len(calls) <= 3:
            raise RetryLater(1)

    report = testing.run(source([1]) >> handle, eager=eager)
    assert calls == pytest.approx([0, 1, 2, 3])
    assert (report.done, report.stages[0].retried) == (1, 3)


@both
def test_h9_patience_counts_beside_failures_as_nothing(eager: bool) -> None:
    """Only the failures are counted against the breaker."""
    calls: list[float] = []

    @consumer(breaker=Breaker(2, reset_after=1000), on_error="skip")
    async def handle(n: int) -> None:
        calls.append(now())
        if len(calls) == 1:
            raise ValueError
        if len(calls) == 2:
            raise RetryLater(1)

    testing.run(source([1, 2, 3]) >> handle, eager=eager)
    assert calls == pytest.approx([0, 0, 1, 1])


async def _mark(item: Any) -> tuple[str, Any]:
    return "second", item


@both
@places
def test_h16_the_places_of_a_consumer_share_its_breaker(how: str, eager: bool) -> None:
    """What the second place finds to be down rests in the first place too."""
    calls: list[float] = []
    failed: list[float] = []

    @consumer(breaker=Breaker(1, reset_after=10), on_error="skip")
    async def call(item: Any) -> tuple[str, Any]:
        calls.append(now())
        await asyncio.sleep(0.1)
        if item[0] == "second" and not failed:
            failed.append(now())
            raise ConnectionError
        return "second", item

    pipeline = broadcast(call, named("mark", _mark) >> call) if how == "branches" else call >> call
    report = testing.run(source(("first", n) for n in range(6)) >> pipeline, eager=eager)
    assert report.failed == 1
    (down,) = failed
    assert [when for when in calls if down < when < down + 10] == []
    assert len(calls) == 12
