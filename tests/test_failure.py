"""What becomes of an item whose handler fails: retries, timeouts, policies, circuit breakers. All in virtual time."""

from __future__ import annotations

import asyncio
import gc
import itertools
import re
import signal
import weakref
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from spy import Flaky
from virtual import EAGER, now, ran, run_virtual

from asyncpc import (
    BoundedQueue,
    Breaker,
    DefinitionError,
    Failure,
    Pipeline,
    PipelineError,
    Rate,
    Retry,
    RetryLater,
    TooManyFailures,
    consumer,
    source,
)
from asyncpc.core.channel import Channel
from asyncpc.core.plan import Handler
from asyncpc.core.stage import ConsumerWorker, RunLinks, Stage
from asyncpc.options.rate import Throttle

both = pytest.mark.parametrize("eager", EAGER)


def no_wait(attempt: int) -> float:
    return 0.0


# -- retry ----------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("concurrency", [1, 2])
def test_retry_calls_again_until_it_succeeds(concurrency: int, eager: bool) -> None:
    """Three attempts; the books tell successes and calls apart, and the value goes on once."""
    flaky, seen = Flaky(2), Flaky(0)
    report = ran(source(range(5)) >> consumer(retry=3, concurrency=concurrency)(flaky) >> consumer(seen), eager=eager)
    assert flaky.counts == dict.fromkeys(range(5), 3)
    assert sorted(item for _, item in seen.calls) == list(range(5))
    first, last = report.stages
    assert (first.received, first.done, first.failed, first.retried, last.received) == (5, 5, 0, 10, 5)


def test_retry_gives_up_after_its_attempts_and_the_run_fails() -> None:
    """Invariant 7: the last error comes out itself, with a note how often it was tried."""
    flaky = Flaky(9)
    with pytest.raises(PipelineError) as failed:
        ran(source([7]) >> consumer(retry=Retry(attempts=4, wait=no_wait), name="flaky")(flaky))
    (error,) = failed.value.exceptions
    assert isinstance(error, ValueError)
    assert "asyncpc: after 4 calls" in error.__notes__
    assert len(flaky.calls) == 4
    assert failed.value.report.failed == 1


@pytest.mark.parametrize(("on", "calls"), [(KeyError, 1), (ValueError, 3), ((KeyError, ValueError), 3)])
def test_only_errors_worth_it_are_retried(on: Any, calls: int) -> None:
    """Another attempt at what can never succeed only costs time."""
    flaky = Flaky(9)
    with pytest.raises(PipelineError):
        ran(source([1]) >> consumer(retry=Retry(3, on=on, wait=no_wait))(flaky))
    assert len(flaky.calls) == calls


def test_a_thousand_failing_items_wait_with_full_jitter_and_a_cap() -> None:
    """Fault C6: waits are spread over 0 … cap, so a thousand that failed together do not come back together."""
    flaky = Flaky(6)
    ran(Pipeline(range(1000), consumer(retry=7, concurrency=1000)(flaky), maxsize=1000))
    times: dict[int, list[float]] = {}
    for when, item in flaky.calls:
        times.setdefault(item, []).append(when)
    for attempt in range(1, 7):
        waits = [calls[attempt] - calls[attempt - 1] for calls in times.values()]
        longest = 0.1 * 2 ** (attempt - 1)
        assert max(waits) <= longest + 1e-6
        assert max(waits) > 0.9 * longest
        assert min(waits) < 0.1 * longest
        assert sum(waits) / 1000 == pytest.approx(longest / 2, rel=0.15)


def test_any_callable_is_a_wait() -> None:
    """So tenacity's waits fit, or a table."""
    flaky = Flaky(3)
    ran(source([1]) >> consumer(retry=Retry(4, wait=lambda attempt: attempt * 10.0))(flaky))
    assert [when for when, _ in flaky.calls] == pytest.approx([0, 10, 30, 60], abs=0.01)


@both
def test_nothing_is_retried_after_the_deadline(eager: bool) -> None:
    """Promise 5: a retry that waits is cancelled as a handler is; its item is listed."""
    flaky = Flaky(9)

    async def main() -> None:
        async with Pipeline(consumer(retry=Retry(100, wait=lambda attempt: 1.0))(flaky)) as running:
            await running.put(1)
            await asyncio.sleep(0.5)
            report = await running.drain(timeout=3.0)
            assert now() == pytest.approx(3.5, abs=0.1)
            assert [left.item for left in report.unfinished] == [1]
        calls = len(flaky.calls)
        await asyncio.sleep(100)
        assert len(flaky.calls) == calls == 4

    run_virtual(main, eager=eager)


def test_a_cancelled_handler_that_raises_is_not_retried() -> None:
    """Fault B4: a handler that makes an error of its cancellation must not keep the run alive."""
    calls = 0

    @consumer(retry=100, on_error="skip")
    async def handle(n: int) -> None:
        nonlocal calls
        calls += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError from None

    async def main() -> None:
        async with Pipeline([1], handle) as running:
            await asyncio.sleep(1)
            with pytest.raises(PipelineError):
                await running.drain(timeout=1)
            assert now() < 2.2

    run_virtual(main)
    assert calls == 1


@both
def test_retry_later_is_patience_not_failure(eager: bool) -> None:
    """A sink that is full, or a 429, says itself when to come back; it is no attempt, however often."""
    flaky = Flaky(5, error=lambda item: RetryLater(10))
    report = ran(source([1]) >> consumer(flaky), eager=eager)
    assert [round(when, 1) for when, _ in flaky.calls] == [0, 10, 20, 30, 40, 50]
    assert (report.done, report.failed, report.stages[0].retried) == (1, 0, 5)


@both
def test_a_generator_is_retried_from_its_beginning(eager: bool) -> None:
    """What it gave stays given: documented, since nobody can take it back."""
    seen, calls = Flaky(0), 0

    @consumer(retry=Retry(2, wait=no_wait))
    async def twice(n: int) -> AsyncIterator[str]:
        nonlocal calls
        calls += 1
        yield f"{n}, call {calls}"
        if calls == 1:
            raise ValueError

    report = ran(source([7]) >> twice >> consumer(seen), eager=eager)
    assert [item for _, item in seen.calls] == ["7, call 1", "7, call 2"]
    assert (report.stages[0].done, report.stages[0].emitted) == (1, 2)


# -- timeout --------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_call_that_takes_too_long_is_cancelled_and_has_failed(concurrency: int, eager: bool) -> None:
    """One timer per worker serves all its calls: each is timed from its own beginning."""
    cancelled: list[tuple[float, int]] = []

    @consumer(timeout=1.0, on_error="skip", concurrency=concurrency)
    async def handle(n: int) -> None:
        began = now()
        try:
            await asyncio.sleep(0.7 if n % 2 else 30)
        except asyncio.CancelledError:
            cancelled.append((now() - began, n))
            raise

    report = ran(source(range(12)) >> handle, eager=eager)
    assert (report.done, report.failed) == (6, 6)
    assert sorted(n for _, n in cancelled) == [0, 2, 4, 6, 8, 10]
    assert [seconds for seconds, _ in cancelled] == pytest.approx([1.0] * 6)


def test_the_timeout_names_the_stage_and_leaves_other_cancels_alone() -> None:
    """A cancel that somebody else asked for in the same moment must not become a failure."""

    @consumer(timeout=1.0)
    async def slow(n: int) -> None:
        await asyncio.sleep(30)

    with pytest.raises(PipelineError) as failed:
        ran(source([1]) >> slow)
    assert str(failed.value.exceptions[0]) == "stage 'slow': the call took longer than timeout=1 seconds"

    async def main() -> None:
        task = asyncio.ensure_future(Pipeline([1], slow)._complete())
        asyncio.get_running_loop().call_later(1.0, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task

    run_virtual(main)


def test_a_handler_that_finishes_in_spite_of_its_timeout_has_succeeded() -> None:
    """As with asyncio.timeout: what swallows the cancellation and returns is done; the next call is not disturbed."""

    @consumer(timeout=1.0)
    async def stubborn(n: int) -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            await asyncio.sleep(0.5)

    report = ran(source([1, 2]) >> stubborn)
    assert (report.done, report.failed) == (2, 0)
    assert report.elapsed == pytest.approx(3.0)


def test_waiting_for_room_is_no_part_of_a_call() -> None:
    """Backpressure is not the handler's fault, so it cannot time a generator out."""

    @consumer(timeout=1.0)
    async def many(n: int) -> AsyncIterator[int]:
        for each in range(5):
            yield each

    @consumer(maxsize=1)
    async def slow(n: int) -> None:
        await asyncio.sleep(10)

    assert ran(source([1, 2]) >> many >> slow).done == 10


def test_each_attempt_has_its_own_time() -> None:
    """timeout= is per call; retry= makes new ones."""
    flaky = Flaky(0, seconds=5)
    with pytest.raises(PipelineError):
        ran(source([1]) >> consumer(timeout=1.0, retry=Retry(3, wait=no_wait))(flaky))
    assert [when for when, _ in flaky.calls] == pytest.approx([0, 1, 2])


# -- policies -------------------------------------------------------------------------------------


@both
def test_skip_goes_on_and_counts(eager: bool) -> None:
    """What failed is counted, is not passed on, and the rest is handled."""
    seen = Flaky(0)

    @consumer(on_error="skip", concurrency=2)
    async def odd(n: int) -> int:
        if n % 2 == 0:
            raise ValueError(n)
        return n

    report = ran(source(range(10)) >> odd >> consumer(seen), eager=eager)
    assert sorted(item for _, item in seen.calls) == [1, 3, 5, 7, 9]
    assert (report.stages[0].done, report.stages[0].failed, report.stages[1].received) == (5, 5, 5)
    assert report.exit_status == 1  # a script should not take it for a success
    last = f"ValueError: 8 (test_failure.py:{odd.__wrapped__.__code__.co_firstlineno + 3})"
    assert report.stages[0].last_failure == last
    assert f"odd: 5 failed, the last with {last}" in str(report).splitlines()
    report.signal = signal.SIGTERM  # a service that was stopped has done what it should
    assert report.exit_status == 143


def test_the_last_failure_is_safe_to_look_at() -> None:
    """Faults F8, F9: one line, bounded, without what moves a cursor; an error that cannot be shown is named."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError

    errors: list[Exception] = [ValueError("\x1b[2Ja\nb" + "x" * 1000), Mute()]

    @consumer(on_error="skip")
    async def fails(n: int) -> None:
        raise errors[n]

    def told(n: int) -> str:
        return ran(source([n]) >> fails).stages[0].last_failure

    assert re.fullmatch(r"ValueError: \\x1b\[2Ja b" + "x" * 193 + r"… \(test_failure\.py:\d+\)", told(0))
    assert re.fullmatch(r"Mute: \(its message cannot be shown\) \(test_failure\.py:\d+\)", told(1))


@both
@pytest.mark.parametrize("option", ["key", "priority"])
def test_an_error_of_a_function_of_the_item_says_whose_it_is(option: str, eager: bool) -> None:
    """Whoever gives the item meets it, and would be blamed for it."""

    @consumer(**{option: lambda item: item["id"]})  # type: ignore[call-overload,untyped-decorator]  # which option it is, only the test knows
    async def handle(item: dict[str, int]) -> None: ...

    with pytest.raises(PipelineError) as failed:
        ran(source([{}]) >> handle, eager=eager)
    (error,) = failed.value.exceptions
    assert isinstance(error, KeyError)
    assert error.__notes__[0] == f"asyncpc: in {option}= of stage 'handle'"


def dead_letters() -> tuple[list[Failure], dict[str, Any]]:
    """The ways to give a destination, and the list that all of them fill."""
    told: list[Failure] = []

    async def slowly(failure: Failure) -> None:
        await asyncio.sleep(1)
        told.append(failure)

    class Box(asyncio.Queue[Failure]):
        async def put(self, item: Failure) -> None:
            told.append(item)

    return told, {"function": told.append, "async function": slowly, "queue": Box()}


@pytest.mark.parametrize("way", dead_letters()[1])
def test_a_destination_is_told_each_failure_as_text(way: str) -> None:
    """Fault C8: item, error, attempts and stage; the traceback is text, so no frame is kept alive."""
    told, ways = dead_letters()
    flaky = Flaky(9)
    report = ran(source([1, 2]) >> consumer(on_error=ways[way], retry=Retry(2, wait=no_wait), name="flaky")(flaky))
    assert [(one.item, one.error, one.attempts, one.stage) for one in told] == [
        (n, f"ValueError: {n}", 2, "flaky") for n in (1, 2)
    ]
    assert "raise self.error(item)" in told[0].traceback
    assert (report.done, report.failed) == (0, 2)


def test_a_dead_letter_keeps_nothing_alive_but_the_item() -> None:
    """Fault C8: a kept exception would hold its frames, and all that is in them."""
    told: list[Failure] = []

    class Big:
        pass

    held: list[weakref.ref[Big]] = []

    @consumer(on_error=told.append)
    async def fails(n: int) -> None:
        big = Big()
        held.append(weakref.ref(big))
        raise ValueError

    ran(source([1]) >> fails)
    gc.collect()
    assert told
    assert held[0]() is None


def test_a_destination_that_fails_is_a_failure() -> None:
    """Fault C9: an item that nobody was told of is not given up in silence."""

    async def broken(failure: Failure) -> None:
        raise OSError("disk full")

    @consumer(on_error=broken)
    async def fails(n: int) -> None:
        raise ValueError(n)

    with pytest.raises(PipelineError) as failed:
        ran(source([1, 2]) >> fails)
    (error,) = failed.value.exceptions
    assert isinstance(error, OSError)
    assert isinstance(error.__context__, ValueError)
    report = failed.value.report
    assert (report.failed, [left.item for left in report.unfinished]) == (1, [2])


@both
def test_a_destination_queue_is_backpressure(eager: bool) -> None:
    """A full queue of dead letters holds the stage up, not the memory."""
    letters: BoundedQueue[Failure] = BoundedQueue(1)

    @consumer(on_error=letters)
    async def fails(n: int) -> None:
        raise ValueError(n)

    async def main() -> list[int]:
        async with source(range(5)) >> fails as running:
            await asyncio.sleep(1)
            assert running.statistics().failed == 1
            got = [(await letters.get()).item for _ in range(5)]
            report = await running.wait()
        assert report.failed == 5
        return got

    assert run_virtual(main, eager=eager) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("most", "failed"), [(0, 1), (3, 4), (0.0, 1), (0.02, 3), (0.5, 51)])
def test_one_failure_too_many_stops_the_run(most: float, failed: int) -> None:
    """A number of items, or a share of those settled, judged over at least a hundred."""

    @consumer(on_error="skip", max_failures=most)
    async def fails(n: int) -> None:
        raise ValueError(n)

    with pytest.raises(PipelineError) as stopped:
        ran(source(range(1000)) >> fails)
    (error,) = stopped.value.exceptions
    assert isinstance(error, TooManyFailures)
    assert str(error).startswith(f"stage 'fails': {failed} items failed, max_failures={most}")
    assert isinstance(error.__cause__, ValueError)
    assert stopped.value.report.failed == failed


def test_a_share_is_of_all_items_settled() -> None:
    """One per cent of ten thousand is a hundred, not the first of the first hundred."""

    @consumer(on_error="skip", max_failures=0.01)
    async def one_in_a_hundred(n: int) -> None:
        if n % 100 == 99:
            raise ValueError(n)

    assert ran(source(range(10_000)) >> one_in_a_hundred).failed == 100


# -- circuit breaker ------------------------------------------------------------------------------


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

    report = ran(source(range(20)) >> call, eager=eager)
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

    report = ran(source([1, 2, 3]) >> call)
    assert report.done == 3


# -- rate -----------------------------------------------------------------------------------------


def most_in_a_window(times: list[float], seconds: float) -> int:
    return max(sum(first <= time < first + seconds - 1e-9 for time in times) for first in times)


@both
@pytest.mark.parametrize("burst", [1, 20])
def test_rate_holds_in_every_window(burst: int, eager: bool) -> None:
    """Rate(100, per=1) over ten seconds: never more than 100 and the burst in any second, and not much less."""
    calls: list[float] = []

    @consumer(rate=Rate(100, per=1, burst=burst), concurrency=50)
    async def call(n: int) -> None:
        calls.append(now())

    ran(source(range(1000)) >> call, eager=eager)
    assert most_in_a_window(calls, 1.0) <= 100 + burst
    assert calls[-1] - calls[0] == pytest.approx((1000 - burst) / 100, abs=0.1)


def test_each_key_has_its_own_rate() -> None:
    """Twenty customers of an API, each with his own limit: none pays for another."""
    calls: dict[int, list[float]] = {}

    @consumer(rate=Rate(10, per=1, key=lambda n: n % 20), concurrency=1000)
    async def call(n: int) -> None:
        calls.setdefault(n % 20, []).append(now())

    ran(Pipeline(range(1000), call, maxsize=1000))
    for times in calls.values():
        assert most_in_a_window(times, 1.0) <= 11
        assert times[-1] - times[0] == pytest.approx(4.9, abs=0.1)


def test_a_rate_forgets_keys_that_rest() -> None:
    """Memory: a million keys seen once must not be a million entries for ever."""
    handler = Handler("stage", print, False, 1)
    links = RunLinks(False, lambda error, name: None)
    throttle = Throttle(Rate(10, key=lambda n: n))

    async def main() -> None:
        async def nothing(n: int) -> None: ...

        call = throttle.limit(nothing, ConsumerWorker("worker", Stage(handler, Channel(0), links)))
        for n in range(20_000):
            await call(n)
            await asyncio.sleep(0.001)

    run_virtual(main)
    assert len(throttle._due) < 2_500


# -- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"retry": "3"}, {"retry": 0}, {"retry": True}, {"retry": Retry(on=cast(Any, "x"))},
        {"retry": Retry(wait=cast(Any, 3))},
        {"timeout": 0}, {"timeout": "1"}, {"timeout": float("inf")},
        {"on_error": "ignore"}, {"on_error": lambda: None}, {"on_error": 3},
        {"max_failures": 3}, {"max_failures": 1.5, "on_error": "skip"}, {"max_failures": -1, "on_error": "skip"},
        {"rate": 100}, {"rate": Rate(0)}, {"rate": Rate(1, per=0)}, {"rate": Rate(1, burst=0)},
        {"rate": Rate(1, key=cast(Any, 3))},
        {"breaker": 3}, {"breaker": Breaker(0, 1)}, {"breaker": Breaker(1, 0)},
        {"retries": 3},
    ],
    ids=str,
)  # fmt: skip
def test_a_mistake_is_refused_where_it_is_written(options: dict[str, Any]) -> None:
    """Bad input gets a clear error at definition time, with the name of the stage or option."""
    with pytest.raises(DefinitionError, match=r"consumer 'handle'|no option retries"):

        @consumer(**options)  # type: ignore[untyped-decorator]  # which options, only the test knows
        async def handle(n: int) -> None: ...
