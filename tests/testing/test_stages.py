"""``Spy`` and what it can do to calls; ``spied``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import ANY

import elsewhere
import pytest

from asyncpc import (
    Batch,
    DefinitionError,
    Failure,
    Pipeline,
    PipelineError,
    Retry,
    StateError,
    WorkerCancelled,
    consumer,
    merge,
    remote_queue,
    source,
    testing,
)
from asyncpc.testing import CancelWorker, Crash, Delay, Feed, Redeliver, Spy, collect, leak_check, now, spied

at_once = Retry(3, wait=lambda attempt: 0)


async def coroutine(item: int) -> int:
    await asyncio.sleep(1)
    return item


async def async_generator(item: int) -> AsyncIterator[int]:
    yield item
    await asyncio.sleep(1)


def function(item: int) -> int:
    time.sleep(0.001)
    return item


def generator(item: int) -> Iterator[int]:
    yield item


@pytest.mark.parametrize("kind", [coroutine, async_generator, function, generator])
def test_a_spy_is_the_consumer_and_counts(kind: Any) -> None:
    """Protects Spy: whatever the handler is, it runs where it would, with its options, and is counted."""

    async def main() -> None:
        spy = Spy(consumer(name="h", retry=at_once, concurrency=2)(kind), Crash(1, ValueError("no"), times=2))
        assert await collect(source(range(4)) >> spy) is not None
        assert spy.calls == {0: 1, 1: 3, 2: 1, 3: 1}
        assert sorted(spy.done) == [0, 1, 2, 3]
        assert len(spy.times) == len(spy.items) == 6
        assert (spy.running, spy.peak) == (0, spy.peak)
        assert 1 <= spy.peak <= 2

    with leak_check():
        testing.run(main())


def test_a_spy_counts_what_is_in_a_batch() -> None:
    """Protects Spy of batches: each item counts, and a fault is for the batch that has its item."""

    async def insert(items: list[int], opened: str) -> None:
        assert opened == "open"

    @asynccontextmanager
    async def resource() -> AsyncIterator[str]:
        yield "open"

    async def main() -> None:
        stage = consumer(batch=Batch(2, within=1), context=resource, retry=at_once)(insert)
        spy = Spy(stage, Crash(2, OSError, times=1))
        await (source(range(4)) >> spy)
        assert spy.calls == {0: 1, 1: 1, 2: 2, 3: 2}

    testing.run(main())


def test_a_generator_is_closed_with_its_call() -> None:
    """Protects the ``finally`` of a handler: it has run when the run is over, with a spy as without."""
    closed: list[int] = []

    async def handler(item: int) -> AsyncIterator[int]:
        try:
            yield item
            await asyncio.sleep(100)
        finally:
            closed.append(item)

    async def main() -> None:
        values = Spy(consumer(handler))(1)
        assert await anext(values) == 1
        await values.aclose()
        assert closed == [1]

    testing.run(main())


def test_a_spy_is_called_as_the_function() -> None:
    """Protects unit tests of a handler, and a spy within another handler."""

    async def main() -> None:
        spy = Spy(consumer(coroutine), Delay(ANY, 4))
        assert await spy(7) == 7
        assert (spy.done, now()) == ([7], 5)

    testing.run(main())


def test_a_spy_without_a_handler_passes_items_on() -> None:
    """Protects the shortest sink."""
    spy = Spy()
    assert testing.run(collect(source("ab") >> spy)) == ["a", "b"]
    assert spy.items == ["a", "b"]


def test_what_runs_in_a_process_cannot_be_seen() -> None:
    """Protects from a spy that sees nothing and says nothing."""
    with pytest.raises(DefinitionError, match="another process, where nobody can look: spy on a consumer"):
        Spy(elsewhere.square)
    anything: Any
    for anything in (coroutine, source([1]) >> consumer(coroutine)):
        with pytest.raises(DefinitionError, match="it looks at a consumer; for those of a pipeline, spied"):
            Spy(anything)


def test_a_fault_is_for_as_many_spies_as_get_it() -> None:
    """Protects ``times``: it is counted in each spy, so that a fault can be a constant of a test module."""
    twice = Crash(1, ValueError("no"), times=2)

    async def main() -> None:
        for _ in range(2):
            spy = Spy(consumer(retry=at_once)(coroutine), twice)
            await (source([1]) >> spy)
            assert spy.calls[1] == 3

    testing.run(main())


def test_a_worker_is_cancelled_from_outside() -> None:
    """Protects CancelWorker: the run ends as after a cancel that is not its own, and lists the item."""

    async def main() -> None:
        with pytest.raises(PipelineError) as failed:
            await (source(range(4)) >> Spy(consumer(coroutine), CancelWorker(2)))
        assert [type(error) for error in failed.value.exceptions] == [WorkerCancelled]
        assert [one.item for one in failed.value.report.unfinished] == [2, 3]

    testing.run(main())
    with pytest.raises(PipelineError) as failed:
        testing.run(source([1]) >> Spy(consumer(function), CancelWorker(1)))
    assert isinstance(failed.value.exceptions[0], StateError)


@pytest.mark.parametrize("kind", [coroutine, function])
def test_a_message_comes_again(kind: Any) -> None:
    """Protects Redeliver: the handler does all its work, and gets the message once more."""
    jobs = remote_queue(f"memory://comes-again-{kind.__name__}", int)

    async def main() -> None:
        async with jobs.open() as queue:
            await queue.put_many([1, 2, 3])
        spy = Spy(consumer(kind), Redeliver(2))
        assert sorted(await collect(jobs >> spy, most=4)) == [1, 2, 2, 3]
        assert spy.calls == {1: 1, 2: 2, 3: 1}
        assert (await jobs.depth()).ready == 0

    testing.run(main())


def test_a_message_comes_again_when_it_has_been_handled() -> None:
    """Protects Redeliver from a message that is in two calls at once, which no lost acknowledgement makes."""
    jobs = remote_queue("memory://comes-again-later", int)

    async def main() -> None:
        async with jobs.open() as queue:
            await queue.put(1)
        spy = Spy(consumer(concurrency=4)(coroutine), Redeliver(1))
        await collect(jobs >> spy, most=2)
        assert (spy.items, spy.peak) == ([1, 1], 1)

    testing.run(main())


def test_what_is_no_message_cannot_come_again() -> None:
    """Protects from a test that means nothing."""
    with pytest.raises(PipelineError) as failed:
        testing.run(source([1]) >> Spy(consumer(coroutine), Redeliver(1)))
    assert "did not come from a remote queue" in str(failed.value.exceptions[0])


# -- spied ----------------------------------------------------------------------------------------


def test_a_pipeline_is_spied_on_as_it_is() -> None:
    """Protects spied: the settings of the pipeline hold, its sources make way, failures go where they went."""

    @consumer
    async def dead(failure: Failure) -> None: ...

    @consumer(on_error=dead)
    async def first(item: int) -> int:
        return item

    @consumer
    async def last(item: int) -> None: ...

    pipeline = Pipeline(source(range(99)), first >> last, maxsize=3, drain_timeout=7, name="whole")
    faulty, letters, end = Spy(first, Crash(2, ValueError("no"))), Spy(dead), Spy(last)
    made = spied(pipeline, faulty, letters, end, source=source([1, 2, 3]))
    assert repr(made).startswith("<Pipeline whole;")
    assert (made._plan.maxsize, made._plan.drain_timeout) == (3, 7)
    report = testing.run(made)
    assert (report.produced, end.items) == (3, [1, 3])
    (letter,) = letters.items
    assert isinstance(letter, Failure)
    assert letter.item == 2
    assert testing.run(pipeline).produced == 99  # which is as it was
    assert len(end.items) == 2


def test_a_spy_that_would_see_nothing_is_refused() -> None:
    """Protects from a test that passes since nobody looked; and from sources that go to several places."""
    stage, other = consumer(coroutine), consumer(name="other")(function)
    with pytest.raises(DefinitionError, match=r"spied: other is not in <Pipeline"):
        spied(source([1]) >> stage, Spy(other))
    merged = merge(source([1]) >> stage, source([2]) >> other) >> consumer(name="end")(coroutine)
    with pytest.raises(DefinitionError, match="its sources give to several stages"):
        spied(merged, source=Feed(1))
