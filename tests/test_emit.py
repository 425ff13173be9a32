"""How values leave a stage when that goes wrong: what the next channel refuses, when it comes, and who learns of it.

``test_found_faults.py`` has the programs for a value that is refused in a run that goes on (H3).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from virtual import EAGER, idle, run_virtual

from asyncpc import Batch, Failure, Pipeline, PipelineError, Report, Retry, broadcast, consumer, source

both = pytest.mark.parametrize("eager", EAGER)


class Odd(Exception):
    """What a function of an item raises here for odd items."""


def refuse_odd(item: int) -> int:
    if item % 2:
        raise Odd(item)
    return 0


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
    assert failed.value.report is not None
    return failed.value.report


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

    run_virtual(main, eager=eager)


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

    run_virtual(main, eager=eager)


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

    run_virtual(main, eager=eager)


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

    run_virtual(main, eager=eager)


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

    refusing = consumer(key=refuse_odd)(plain)

    async def main() -> None:
        await (source([1, 2]) >> generate >> refusing)

    run_virtual(main, eager=eager)
    assert calls == [1, 2]
    assert [(failure.item, failure.error) for failure in failures] == [(1, "OSError: while it was closed")]
    assert "Odd: 1" in failures[0].traceback
