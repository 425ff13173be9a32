"""The workers of sources: what becomes of an error when a stop, or another error, comes while a source is closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from virtual import EAGER, run_virtual

from asyncpc import Pipeline, PipelineError, Restart, consumer, producer

both = pytest.mark.parametrize("eager", EAGER)


class Odd(Exception):
    """What a function of an item raises here for odd items."""


def refuse_odd(item: int) -> int:
    if item % 2:
        raise Odd(item)
    return 0


@consumer(key=refuse_odd)
async def refusing(item: int) -> None:
    pass


@both
@pytest.mark.parametrize("stop", ["stop", "drain", "leave"])
def test_an_item_that_was_refused_is_told_though_a_stop_comes(stop: str, eager: bool) -> None:
    """Protects invariant 7: the source takes its time to close, and is cancelled by the stop meanwhile."""

    @producer
    async def numbers() -> AsyncIterator[int]:
        try:
            for item in range(10):
                yield item
        finally:
            await asyncio.sleep(1)

    async def main() -> None:
        async with Pipeline(numbers, refusing) as running:
            await asyncio.sleep(0.5)
            if stop == "stop":
                running.stop()
                await running.wait()
            elif stop == "drain":
                await running.drain()

    async def fails() -> None:
        with pytest.raises(PipelineError) as failed:
            await main()
        assert [type(error) for error in failed.value.exceptions] == [Odd]
        assert failed.value.report.done == 1

    run_virtual(fails, eager=eager)


@both
def test_two_errors_at_the_end_of_a_source_both_come_out(eager: bool) -> None:
    """Protects the reason: the item was refused, and closing the source because of that fails too."""

    @producer
    async def numbers() -> AsyncIterator[int]:
        try:
            for item in range(10):
                yield item
        finally:
            raise OSError("while it was closed")

    async def main() -> None:
        with pytest.raises(PipelineError) as failed:
            await Pipeline(numbers, refusing)
        assert {type(error) for error in failed.value.exceptions} == {Odd, OSError}

    run_virtual(main, eager=eager)


@both
def test_a_source_that_may_start_again_is_forgiven_what_was_refused(eager: bool) -> None:
    """Protects ``restart=``: it holds for a refused item as well, whatever closing the source raises."""
    given: list[int] = []

    @producer(restart=Restart(3, within=100, backoff=lambda attempt: 0))
    async def numbers() -> AsyncIterator[int]:
        item = 0
        try:
            for item in range(2 * len(given), 8):
                given.append(item)
                yield item
        finally:
            await asyncio.sleep(0)
            if item % 2:
                raise OSError("while it was closed")

    async def main() -> Any:
        return await Pipeline(numbers, refusing)

    report = run_virtual(main, eager=eager)
    assert (given, report.sources[0].restarts) == ([0, 1, 4, 5], 2)


@both
def test_an_item_refused_when_it_is_left_ends_the_source(eager: bool) -> None:
    """Protects a worker that somebody cancels while its item waits for room: a restart must not swallow that."""

    @producer(restart=Restart(3, within=100, backoff=lambda attempt: 0))
    async def numbers() -> AsyncIterator[int]:
        for item in (0, 1, 2):
            yield item
            await asyncio.sleep(0.2)

    @consumer(key=refuse_odd, maxsize=1)
    async def stuck(item: int) -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        async with Pipeline(numbers, stuck) as running:
            await asyncio.sleep(0.1)
            await running.put(4)  # it takes the room for which the source was asked
            await asyncio.sleep(0.4)
            {task.get_name(): task for task in asyncio.all_tasks()}["asyncpc:numbers"].cancel()
            await running.wait()

    async def fails() -> None:
        with pytest.raises(PipelineError) as failed:
            await main()
        assert [type(error) for error in failed.value.exceptions] == [Odd]
        assert failed.value.report.done == 2

    run_virtual(fails, eager=eager)
