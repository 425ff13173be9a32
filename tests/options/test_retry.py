"""``retry=`` and ``RetryLater``: how often a handler is called again, and when. All in virtual time."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from spy import Flaky, Sink
from support import balanced, both, named, no_wait

from asyncpc import (
    Batch,
    Failure,
    Pipeline,
    PipelineError,
    QueueShutDown,
    Report,
    Retry,
    RetryLater,
    consumer,
    source,
    testing,
)
from asyncpc.testing import now

# -- attempts -------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("concurrency", [1, 2])
def test_retry_calls_again_until_it_succeeds(concurrency: int, eager: bool) -> None:
    """Three attempts; the books tell successes and calls apart, and the value goes on once."""
    flaky, seen = Flaky(2), Flaky(0)
    report = testing.run(
        source(range(5)) >> consumer(retry=3, concurrency=concurrency)(flaky) >> consumer(seen), eager=eager
    )
    assert flaky.counts == dict.fromkeys(range(5), 3)
    assert sorted(item for _, item in seen.calls) == list(range(5))
    first, last = report.stages
    assert (first.received, first.done, first.failed, first.retried, last.received) == (5, 5, 0, 10, 5)


def test_retry_gives_up_after_its_attempts_and_the_run_fails() -> None:
    """Invariant 7: the last error comes out itself, with a note how often it was tried."""
    flaky = Flaky(9)
    with pytest.raises(PipelineError) as failed:
        testing.run(source([7]) >> consumer(retry=Retry(attempts=4, wait=no_wait), name="flaky")(flaky))
    (error,) = failed.value.exceptions
    assert isinstance(error, ValueError)
    assert "asyncpc: after 4 calls" in error.__notes__
    assert len(flaky.calls) == 4
    assert failed.value.report.failed == 1


def test_a_failure_tells_what_the_last_earlier_calls_failed_with() -> None:
    """Protects who looks for the cause, since the last error may hide the first; and memory, since it may be many."""
    failures: list[Failure] = []
    numbers = iter(range(1, 41))

    async def fails(n: int) -> None:
        raise ValueError(next(numbers))

    report = testing.run(source([0]) >> consumer(retry=Retry(40, wait=no_wait), on_error=failures.append)(fails))
    (failure,) = failures
    assert (failure.error, failure.attempts) == ("ValueError: 40", 40)
    assert failure.history == tuple([f"ValueError: {n}" for n in range(20, 40)])
    assert report.failures == (failure,)


def test_the_history_of_a_failure_is_short_and_has_no_passwords() -> None:
    """Protects logs and dead letters: an error may quote the whole message, or an address; nothing is told twice."""
    errors = [RetryLater(1.5), OSError("redis://me:canary@host"), ValueError("a" * 5000 + "end"), KeyError("last")]

    async def fails(n: int) -> None:
        raise errors.pop(0)

    with pytest.raises(PipelineError) as failed:
        testing.run(source([1]) >> consumer(retry=Retry(3, wait=no_wait))(fails))
    (failure,) = failed.value.report.failures
    later, address, long = failure.history
    assert (later, address) == ("RetryLater: try again in 1.5 s", "OSError: redis://me:***@host")
    assert (long[:14], long[-5:], len(long)) == ("ValueError: aa", "aaend", 1003)
    assert failure.error == "KeyError: 'last'"


def test_a_failure_of_another_kind_has_the_history_too() -> None:
    """Protects what came before a value that nobody takes, and before a cancel that nobody asked for."""
    failures: list[Failure] = []
    calls = Counter[int]()

    @consumer(retry=Retry(3, wait=no_wait), on_error=failures.append)
    async def give(n: int) -> AsyncIterator[int]:
        calls[n] += 1
        if calls[n] == 1:
            raise ValueError("first")
        if n == 1:
            raise asyncio.CancelledError
        yield n

    def no_key(n: int) -> int:
        raise TypeError("no key")

    @consumer(key=no_key)
    async def take(n: int) -> None:
        raise AssertionError

    testing.run(source([1, 2]) >> give >> take)
    assert [failure.error.partition(":")[0] for failure in failures] == ["WorkerCancelled", "TypeError"]
    assert [failure.history for failure in failures] == [("ValueError: first",)] * 2


def test_each_item_of_a_batch_has_the_history_of_its_calls() -> None:
    """Protects batches: all of their items were in the same calls."""
    failures: list[Failure] = []
    errors = [ValueError("first"), ValueError("second")]

    @consumer(batch=Batch(2), retry=Retry(2, wait=no_wait), on_error=failures.append)
    async def handle(batch: list[int]) -> None:
        raise errors.pop(0)

    testing.run(source([1, 2]) >> handle)
    assert [(one.item, one.history) for one in failures] == [(1, ("ValueError: first",)), (2, ("ValueError: first",))]


def test_what_failed_at_its_only_call_has_no_history() -> None:
    """Protects the word: the error itself is not part of what came before it."""
    failures: list[Failure] = []
    testing.run(source([1, 2]) >> consumer(retry=Retry(2, on=KeyError), on_error=failures.append)(Flaky(9)))
    assert [failure.history for failure in failures] == [(), ()]


@pytest.mark.parametrize(("on", "calls"), [(KeyError, 1), (ValueError, 3), ((KeyError, ValueError), 3)])
def test_only_errors_worth_it_are_retried(on: Any, calls: int) -> None:
    """Another attempt at what can never succeed only costs time."""
    flaky = Flaky(9)
    with pytest.raises(PipelineError):
        testing.run(source([1]) >> consumer(retry=Retry(3, on=on, wait=no_wait))(flaky))
    assert len(flaky.calls) == calls


def test_a_thousand_failing_items_wait_with_full_jitter_and_a_cap() -> None:
    """Fault C6: waits are spread over 0 … cap, so a thousand that failed together do not come back together."""
    flaky = Flaky(6)
    testing.run(Pipeline(range(1000), consumer(retry=7, concurrency=1000)(flaky), maxsize=1000))
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
    testing.run(source([1]) >> consumer(retry=Retry(4, wait=lambda attempt: attempt * 10.0))(flaky))
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

    testing.run(main(), eager=eager)


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

    testing.run(main())
    assert calls == 1


@both
def test_retry_later_is_patience_not_failure(eager: bool) -> None:
    """A sink that is full, or a 429, says itself when to come back; it is no attempt, however often."""
    flaky = Flaky(5, error=lambda item: RetryLater(10))
    report = testing.run(source([1]) >> consumer(flaky), eager=eager)
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

    report = testing.run(source([7]) >> twice >> consumer(seen), eager=eager)
    assert [item for _, item in seen.calls] == ["7, call 1", "7, call 2"]
    assert (report.stages[0].done, report.stages[0].emitted) == (1, 2)


@both
@pytest.mark.timeout(5)
@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf, None, "1", 10**400], ids=lambda one: f"{one!s:.9}")
@pytest.mark.parametrize("by", ["wait", "RetryLater"])
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_h13_a_wait_that_is_no_time_fails_the_item(seconds: Any, by: str, on_error: Any, eager: bool) -> None:
    """Under the stage's policy, like any other failure: the error names the stage and the value."""
    calls: list[int] = []

    @consumer(retry=Retry(3, wait=lambda attempt: seconds), on_error=on_error, name="stage")
    async def handle(n: int) -> None:
        calls.append(n)
        if n == 1:
            raise RetryLater(seconds) if by == "RetryLater" else ValueError(n)

    report, told = _outcome(source([1, 2]) >> handle, on_error, eager)
    for word in ("wait", repr(seconds)[:9], "stage"):
        assert word in told
    assert calls == [1] if on_error == "stop" else [1, 2]
    assert report.failed == 1
    assert balanced(report)


@both
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_wait_that_raises_fails_the_item(on_error: Any, eager: bool) -> None:
    """A mistake in a function of the user is a failure like any other, and says where it was made."""

    def wait(attempt: int) -> float:
        raise KeyError("no such attempt")

    @consumer(retry=Retry(3, wait=wait), on_error=on_error, name="stage")
    async def handle(n: int) -> None:
        if n == 1:
            raise ValueError(n)

    report, told = _outcome(source([1, 2]) >> handle, on_error, eager)
    assert "no such attempt" in told
    assert report.failed == 1
    assert "in Retry(wait=) of stage 'stage'" in report.failures[0].traceback
    assert balanced(report)


def _outcome(pipeline: Pipeline[Any, Any], on_error: str, eager: bool) -> tuple[Report, str]:
    """The report of a run with one failure, and what was said of that."""
    if on_error == "skip":
        report = testing.run(pipeline, eager=eager)
        return report, report.stages[0].last_failure
    with pytest.raises(PipelineError) as failed:
        testing.run(pipeline, eager=eager)
    return failed.value.report, str(failed.value.exceptions[0])


@both
@pytest.mark.parametrize("seconds", [-0.01, -1e9, 0])
def test_after_a_moment_that_has_passed_the_handler_is_called_at_once(seconds: float, eager: bool) -> None:
    """``Retry-After`` may be a date, and that may be over by the time it is read."""
    flaky = Flaky(1, error=lambda item: RetryLater(seconds))
    report = testing.run(source([1, 2]) >> consumer(flaky), eager=eager)
    assert [when for when, _ in flaky.calls] == [0, 0, 0, 0]
    assert (report.done, report.failed, report.stages[0].retried) == (2, 0, 2)
    flaky = Flaky(1)
    report = testing.run(source([1, 2]) >> consumer(retry=Retry(2, wait=lambda attempt: seconds))(flaky), eager=eager)
    assert (report.done, report.failed, report.stages[0].retried) == (2, 0, 2)


# -- patience is no failure (H9) ------------------------------------------------------------------


@both
@pytest.mark.parametrize("kind", ["plain", "generator", "batch", "ordered"])
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_h9_a_cancel_that_becomes_patience_is_no_failure(kind: str, on_error: Any, eager: bool) -> None:
    """Promise 3: whoever would try again later was cancelled before; the item is released."""

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise RetryLater(1) from None

    async def plain(n: Any) -> None:
        await wait()

    async def generator(n: Any) -> AsyncIterator[int]:
        await wait()
        yield 1

    options: dict[str, Any] = {"batch": Batch(1)} if kind == "batch" else {"ordered": kind == "ordered"}
    stage = named("stage", generator if kind == "generator" else plain, on_error=on_error, **options)

    async def main() -> Report:
        async with Pipeline(stage, named("last", Sink())) as running:
            await running.put(1)
            await asyncio.sleep(1)
            return await running.drain(timeout=1)

    report = testing.run(main(), eager=eager)
    assert (report.failed, report.stages[0].last_failure) == (0, "")
    assert [(one.item, one.stage) for one in report.unfinished] == [(1, "stage")]


@both
def test_h9_a_caller_is_told_of_the_end_and_not_of_patience(eager: bool) -> None:
    """``call`` raises what it raises whenever the run ends before it comes to the item."""

    @consumer
    async def stage(n: int) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise RetryLater(1) from None

    async def main() -> None:
        async with Pipeline(stage) as running:
            call = asyncio.create_task(running.call(1))
            await asyncio.sleep(1)
            report = await running.drain(timeout=1)
            with pytest.raises(QueueShutDown):
                await call
            assert report.failed == 0

    testing.run(main(), eager=eager)
