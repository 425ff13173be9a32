"""``timeout=``: a call that takes too long is cancelled, and has failed. All in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from spy import Flaky
from support import both, no_wait

from asyncpc import Pipeline, PipelineError, Rate, Report, Retry, consumer, source, testing
from asyncpc.testing import now
from asyncpc.testing.clock import measuring_with


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

    report = testing.run(source(range(12)) >> handle, eager=eager)
    assert (report.done, report.failed) == (6, 6)
    assert sorted(n for _, n in cancelled) == [0, 2, 4, 6, 8, 10]
    assert [seconds for seconds, _ in cancelled] == pytest.approx([1.0] * 6)


def test_the_timeout_names_the_stage_and_leaves_other_cancels_alone() -> None:
    """A cancel that somebody else asked for in the same moment must not become a failure."""

    @consumer(timeout=1.0)
    async def slow(n: int) -> None:
        await asyncio.sleep(30)

    with pytest.raises(PipelineError) as failed:
        testing.run(source([1]) >> slow)
    assert str(failed.value.exceptions[0]) == "stage 'slow': the call took longer than timeout=1 seconds"

    async def main() -> None:
        task = asyncio.ensure_future(Pipeline([1], slow)._complete())
        asyncio.get_running_loop().call_later(1.0, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task

    testing.run(main())


def test_a_handler_that_finishes_in_spite_of_its_timeout_has_succeeded() -> None:
    """As with asyncio.timeout: what swallows the cancellation and returns is done; the next call is not disturbed."""

    @consumer(timeout=1.0)
    async def stubborn(n: int) -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            await asyncio.sleep(0.5)

    with measuring_with(now):
        report = testing.run(source([1, 2]) >> stubborn)
    assert (report.done, report.failed) == (2, 0)
    assert report.elapsed == 3.0


def test_waiting_for_room_is_no_part_of_a_call() -> None:
    """Backpressure is not the handler's fault, so it cannot time a generator out."""

    @consumer(timeout=1.0)
    async def many(n: int) -> AsyncIterator[int]:
        for each in range(5):
            yield each

    @consumer(maxsize=1)
    async def slow(n: int) -> None:
        await asyncio.sleep(10)

    assert testing.run(source([1, 2]) >> many >> slow).done == 10


def test_each_attempt_has_its_own_time() -> None:
    """timeout= is per call; retry= makes new ones."""
    flaky = Flaky(0, seconds=5)
    with pytest.raises(PipelineError):
        testing.run(source([1]) >> consumer(timeout=1.0, retry=Retry(3, wait=no_wait))(flaky))
    assert [when for when, _ in flaky.calls] == pytest.approx([0, 1, 2])


@both
@pytest.mark.parametrize("late", ["ends", "makes an error of it", "makes a value of it"])
def test_a_cancel_after_a_time_out_is_a_cancel(late: str, eager: bool) -> None:
    """Promise 3: a call that took too long failed; the next one is cancelled by a drain, and is released."""

    @consumer(timeout=1, on_error="skip")
    async def handle(n: int) -> None:
        if n == 0:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                if late == "ends":
                    raise
                if late == "makes an error of it":
                    raise ValueError from None
        else:
            await asyncio.sleep(0.9)

    async def main() -> Report:
        async with Pipeline(handle) as running:
            await running.put(0)
            await running.put(1)
            await asyncio.sleep(1.5)
            return await running.drain(timeout=0)

    report = testing.run(main(), eager=eager)
    failed = 0 if late == "makes a value of it" else 1
    assert (report.failed, report.done) == (failed, 1 - failed)
    assert [one.item for one in report.unfinished] == [1]


@both
@pytest.mark.parametrize("late", ["an error", "a value"])
def test_a_time_out_that_a_handler_made_something_of_leaves_the_next_one_alone(late: str, eager: bool) -> None:
    """The cancel is taken back, or the next call that is too late would seem to be cancelled by somebody else."""

    @consumer(timeout=1, on_error="skip")
    async def handle(n: int) -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            if n > 0:
                raise
            if late == "an error":
                raise ValueError from None

    report = testing.run(source(range(3)) >> handle, eager=eager)
    assert (report.done, report.failed) == ((1, 2) if late == "a value" else (0, 3))
    assert "timeout=1" in report.stages[0].last_failure


def timers() -> list[asyncio.TimerHandle]:
    """The timers that are set in the running virtual loop."""
    scheduled = cast(Any, asyncio.get_running_loop())._scheduled
    return [timer for timer in scheduled if not timer.cancelled()]


@both
@pytest.mark.parametrize("end", ["ends", "is drained", "fails", "gets another rate"])
def test_a_run_leaves_no_timer_of_a_time_limit(end: str, eager: bool) -> None:
    """Invariant 6: nothing of a run is in the loop when it is over, or the loop keeps the run alive for so long."""

    @consumer(timeout=1000, concurrency=3)
    async def handle(n: int) -> None:
        await asyncio.sleep(10 if n == 0 else 1)
        if n == 1 and end == "fails":
            raise ValueError

    async def main() -> None:
        try:
            async with Pipeline(handle) as running:
                for n in range(6):
                    await running.put(n)
                await asyncio.sleep(0.5)
                if end == "is drained":
                    await running.drain(timeout=1)
                if end == "gets another rate":
                    running.set_rate("handle", Rate(10))
        except PipelineError:
            assert end == "fails"
        assert timers() == []

    testing.run(main(), eager=eager)


@both
def test_the_time_of_a_call_goes_on_after_a_wait_for_room(eager: bool) -> None:
    """The clock stands still while a value waits, not for the rest of the call."""

    @consumer(timeout=1.0, on_error="skip")
    async def gives_and_hangs(n: int) -> AsyncIterator[int]:
        for value in range(4):
            yield value
        await asyncio.sleep(3600)

    @consumer(maxsize=1)
    async def slow(n: int) -> None:
        await asyncio.sleep(5)

    report = testing.run(source([1]) >> gives_and_hangs >> slow, eager=eager)
    assert [stage.done for stage in report.stages] == [0, 4]
    assert report.failed == 1
    assert report.elapsed < 30
