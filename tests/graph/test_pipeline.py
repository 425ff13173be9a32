"""What a pipeline gives back, and what it says to those who use it as something else."""

from __future__ import annotations

import asyncio
import pickle
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from children import UNMEASURED, run_child
from support import both, cancelled_with, endless, workers

from asyncpc import (
    Batch,
    DefinitionError,
    Failure,
    Pipeline,
    PipelineError,
    StateError,
    broadcast,
    consumer,
    producer,
    route,
    source,
    testing,
)
from asyncpc.testing import now


@consumer(concurrency=3)
async def double(n: int) -> int:
    await asyncio.sleep(n % 3)
    return 2 * n


@consumer
async def twice(n: int) -> AsyncIterator[int]:
    yield n
    yield -n


@consumer(batch=Batch(4))
async def in_batches(numbers: list[int]) -> list[int]:
    return [10 * n for n in numbers]


@consumer
async def nothing(n: int) -> None:
    await asyncio.sleep(0)


@both
def test_collect_returns_all_results(eager: bool) -> None:
    """Protects the shortest way to results: all of them, of every kind of last stage."""

    async def main() -> None:
        assert sorted(await (source(range(500)) >> double).collect()) == list(range(0, 1000, 2))
        assert await (source(range(3)) >> twice).collect() == [0, 0, 1, -1, 2, -2]
        assert await (source(range(6)) >> in_batches).collect() == [0, 10, 20, 30, 40, 50]
        assert sorted(await (source(range(3)) >> broadcast(twice, in_batches)).collect()) == [
            -2,
            -1,
            0,
            0,
            0,
            1,
            2,
            10,
            20,
        ]
        assert await (source([]) >> double).collect() == []

    testing.run(main(), eager=eager)


@both
def test_collect_keeps_the_order_that_was_asked_for(eager: bool) -> None:
    """Protects ``ordered=True``: results come in the order of the items, whichever is ready first."""

    @consumer(concurrency=3, ordered=True)
    async def slow_first(n: int) -> int:
        await asyncio.sleep(3 - n % 3)
        return n

    async def main() -> None:
        assert await (source(range(9)) >> slow_first).collect() == list(range(9))

    testing.run(main(), eager=eager)


@both
def test_what_was_collected_before_a_failure_is_kept(eager: bool) -> None:
    """Protects work that is done: ``error.results`` holds what came before, also in a part of the group and pickled."""

    @consumer
    async def fragile(n: int) -> int:
        if n == 5:
            raise ValueError(n)
        return n

    async def main() -> None:
        with pytest.raises(PipelineError) as collected:
            await (source(range(10)) >> fragile).collect()
        error = collected.value
        part = error.subgroup(ValueError)
        assert isinstance(part, PipelineError)
        assert error.results == part.results == pickle.loads(pickle.dumps(error)).results == list(range(5))
        assert (error.report.failed, len(error.report.unfinished)) == (1, 4)
        with pytest.raises(PipelineError) as awaited:
            await (source(range(10)) >> fragile)
        assert awaited.value.results == []

    testing.run(main(), eager=eager)


@both
@pytest.mark.parametrize("kind", ["async", "thread", "list"])
def test_pairs_have_each_item_with_its_result_or_its_error(kind: str, eager: bool) -> None:
    """Protects whoever needs both: nothing is matched by hand, and a failure stands where the result would."""

    async def later() -> AsyncIterator[int]:
        for n in range(6):
            yield n

    def plainly() -> Iterator[int]:
        yield from range(6)

    sources: dict[str, Any] = {"async": producer(later), "thread": producer(plainly), "list": source(range(6))}

    @consumer(on_error="skip", concurrency=2)
    async def odd_fails(n: int) -> int:
        if n % 2:
            raise ValueError(n)
        return 10 * n

    @consumer(batch=Batch(4))
    async def plus_one(batch: list[int]) -> list[int]:
        return [n + 1 for n in batch]

    async def main() -> None:
        pipeline = sources[kind] >> odd_fails >> plus_one
        pairs = await pipeline.collect(pairs=True)
        assert sorted((item, repr(result)) for item, result in pairs) == [
            *[(0, "1"), (1, "ValueError(1)"), (2, "21"), (3, "ValueError(3)"), (4, "41"), (5, "ValueError(5)")]
        ]

    if kind == "thread":
        asyncio.run(main())
    else:
        testing.run(main(), eager=eager)


@both
def test_pairs_leave_out_what_has_no_result(eager: bool) -> None:
    """A run that fails or is cancelled keeps the pairs it has; the report lists the others, as the user's items."""

    @consumer
    async def fragile(n: int) -> int:
        await asyncio.sleep(1)
        if n == 3:
            raise ValueError(n)
        return -n

    @consumer(maxsize=1, overflow="drop_newest")
    async def drops(n: int) -> None:
        await asyncio.sleep(10)

    async def main() -> None:
        with pytest.raises(PipelineError) as failed:
            await (source(range(6)) >> fragile).collect(pairs=True)
        assert failed.value.results[:3] == [(0, 0), (1, -1), (2, -2)]
        assert repr(failed.value.results[3:]) == "[(3, ValueError(3))]"  # which ended the run
        assert [one.item for one in failed.value.report.unfinished] == [4, 5]
        cancelled = await cancelled_with(lambda: (source(range(6)) >> fragile).collect(pairs=True))
        assert cancelled.results == [(0, 0)]  # type: ignore[attr-defined]
        pairs = await (source(range(3)) >> drops).collect(pairs=True)
        assert {type(result) for _, result in pairs} == {type(None), asyncio.QueueFull}
        assert sorted(item for item, _ in pairs) == [0, 1, 2]

    testing.run(main(), eager=eager)


def test_pairs_are_refused_where_an_item_may_have_several_results() -> None:
    """Protects from pairs that lie: the error names the stage and what to do instead."""

    @consumer
    async def told(failure: Failure) -> None: ...

    @consumer(on_error=told, name="tells")
    async def tells(n: int) -> int:
        return n

    async def main() -> None:
        for pipeline, why in (
            (source([1]) >> twice, "stage 'twice' may give more than one: use collect"),
            (source([1]) >> broadcast(double, double), "may give more than one: use collect"),
            (source([1]) >> tells, "stage 'tells' go to consumer 'told': write on_error='skip'"),
        ):
            with pytest.raises(DefinitionError, match=re.escape(why)):
                await pipeline.collect(pairs=True)
        assert await (source([1]) >> route(lambda n: n, {1: double})).collect(pairs=True) == [(1, 2)]

    testing.run(main())


@both
def test_a_cancelled_collect_leaves_nothing_running(eager: bool) -> None:
    """Protects the caller's time-out: the workers are cancelled, and the pipeline can run again."""

    async def main() -> None:
        pipeline = endless >> double
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await pipeline.collect()
        assert not workers()
        assert now() == 5
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await pipeline.collect()

    testing.run(main(), eager=eager)


def test_collect_needs_a_source_and_a_pipeline_at_rest() -> None:
    """Protects from waiting for ever: the error says what to do."""

    async def main() -> None:
        with pytest.raises(DefinitionError, match="has no source, so collecting from it would never end"):
            await Pipeline(double).collect()
        pipeline = source(range(3)) >> double
        async with pipeline:
            with pytest.raises(StateError, match="running already"):
                await pipeline.collect()

    testing.run(main())


UNREAD = " results, not read: use .collect() or .stream()"


@both
@pytest.mark.parametrize("last", [double, twice, in_batches])
def test_results_that_nobody_read_are_told(last: Any, eager: bool) -> None:
    """Protects who forgot to read: the report says so, and how many: as many as ``collect`` would have given."""
    pipeline = source(range(8)) >> consumer(name="first")(double.__wrapped__) >> last
    report = testing.run(pipeline, eager=eager)
    assert [stage.unread for stage in report.stages] == [False, True]
    collected = testing.run(pipeline.collect(), eager=eager)
    assert f"{len(collected)}{UNREAD}" in str(report).split(": ", 1)[1].splitlines()[0]


@both
def test_a_last_stage_that_gives_nothing_has_no_results_to_read(eager: bool) -> None:
    """Protects from a false alarm: a handler that returns nothing is done with its items."""
    report = testing.run(source(range(8)) >> consumer(name="first")(double.__wrapped__) >> nothing, eager=eager)
    assert [stage.unread for stage in report.stages] == [False, False]
    assert UNREAD not in str(report)


@both
def test_results_that_were_read_are_not_told(eager: bool) -> None:
    """Protects from a false alarm: streamed values are read, and so is the result of a call."""

    async def main() -> None:
        async with (source(range(8)) >> double).stream() as values:
            assert len([value async for value in values]) == 8
        assert values.report is not None
        assert UNREAD not in str(values.report)
        async with Pipeline(double) as running:
            assert await running.call(4) == 8
        assert UNREAD not in str(running.report)

    testing.run(main(), eager=eager)


# -- first mistakes -------------------------------------------------------------------------------


SHOWN: Pipeline[int, int] = source([1, 2]) >> double
ITSELF = "<Pipeline source(list) >> double; await it, or asyncpc.run(it)>"


async def as_task(pipeline: Any) -> None:
    asyncio.create_task(pipeline)  # noqa: RUF006  # there will be none


async def in_a_group(pipeline: Any) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(pipeline)


async def as_iterator(pipeline: Any) -> None:
    async for _ in pipeline:
        pass


async def as_plain_iterator(pipeline: Any) -> None:
    for _ in pipeline:
        pass


async def as_plain_manager(pipeline: Any) -> None:
    with pipeline:
        pass


async def with_a_bar(pipeline: Any) -> None:
    pipeline | double


async def behind_a_bar(pipeline: Any) -> None:
    [1, 2] | pipeline


async def in_a_source(pipeline: Any) -> None:
    source(pipeline)


@pytest.mark.parametrize(
    ("use", "cure"),
    [
        (as_task, ITSELF),
        (in_a_group, ITSELF),
        (as_iterator, "async with pipeline.stream() as values: async for value in values"),
        (as_plain_iterator, "await pipeline.collect()"),
        (as_plain_manager, "write 'async with' instead of 'with'"),
        (with_a_bar, "joined with >>"),
        (behind_a_bar, "joined with >>"),
        (in_a_source, "merge(pipeline)"),
    ],
)
def test_a_pipeline_that_is_used_as_something_else_says_what_to_write(use: Any, cure: str) -> None:
    """Protects who knows asyncio and not yet asyncpc; asyncio refuses a task by itself, and shows what it was given."""
    with pytest.raises((TypeError, ExceptionGroup)) as caught:
        testing.run(use(SHOWN))
    errors = getattr(caught.value, "exceptions", [caught.value])
    assert isinstance(errors[0], TypeError)
    assert cure in str(errors[0])


def test_asyncio_run_of_a_pipeline_shows_the_cure() -> None:
    """It takes nothing but a coroutine, and shows what it was given."""
    with pytest.raises((TypeError, ValueError), match=r"await it, or asyncpc\.run\(it\)"):
        asyncio.run(SHOWN)  # type: ignore[arg-type]  # the mistake under test


def test_a_pipeline_without_a_source_is_to_be_entered() -> None:
    """To await it would wait for ever."""
    assert repr(Pipeline(double)) == "<Pipeline double; enter it: async with it as running>"


DROPPED = """
import asyncio, gc
from asyncpc import Pipeline, consumer, run, source

@consumer
async def first(n): return n

@consumer
async def second(n): ...

def make(name):
    return Pipeline(source([1]), first >> second, name=name)  # the inner one is a part

async def main():
    make("dropped")
    entered, shown, joined, awaited = map(make, ["entered", "shown", "joined", "awaited"])
    async with entered:
        pass
    shown._repr_html_()
    await (source([1]) >> Pipeline(first >> second, name="joined"))
    await awaited
    del entered, shown, joined, awaited
    try:
        Pipeline(source([1]), first, zyx=1)
    except TypeError:
        pass

try:
    make("outside")
    kept = make("kept")
    asyncio.run(main())
finally:
    gc.collect()
"""


def test_a_pipeline_that_was_forgotten_is_told_in_development_mode(tmp_path: Path) -> None:
    """Protects from ``numbers >> show`` without ``await``, which does nothing; and from being told of any other."""
    told = [run_child(tmp_path, *mode, "-c", DROPPED, **UNMEASURED) for mode in ([], ["-X", "dev"])]
    assert [ended.status for ended in told] == [0, 0]
    assert told[0].err == ""
    lines = [line for line in told[1].err.splitlines() if "Warning" in line]
    assert [line.partition("Warning: ")[2] for line in lines] == [
        "<Pipeline dropped> was never run: await it, or enter it with 'async with'",
        "<Pipeline joined> was never run: await it, or enter it with 'async with'",
    ]
