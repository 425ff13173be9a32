"""Laws that are held nowhere else: each test is small, and named for its law."""

from __future__ import annotations

import ast
import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import pytest
from house import parsed
from support import EAGER

import asyncpc
from asyncpc import ConservationError, Pipeline, PipelineError, Retry, consumer, feed, producer, source, testing
from asyncpc.testing import now


def conditions_in(source: str) -> list[int]:
    """The lines of a module that name a ``Condition``."""
    if "Condition" not in source:
        return []
    return [
        node.lineno
        for node in ast.walk(parsed(source))
        if (isinstance(node, ast.Name) and node.id == "Condition")
        or (isinstance(node, ast.Attribute) and node.attr == "Condition")
        or (isinstance(node, ast.ImportFrom) and "Condition" in [alias.name for alias in node.names])
    ]


def test_a4_nothing_waits_on_a_condition() -> None:
    """Fault A4: on Python 3.11 and 3.12 a cancelled waiter loses the ``notify`` that it was given."""
    assert conditions_in("import asyncio\nfrom asyncio import Condition\nasyncio.Condition()\nCondition()") == [2, 3, 4]
    modules = list(Path(asyncpc.__file__).parent.rglob("*.py"))
    assert len(modules) > 30
    assert [str(path) for path in modules if conditions_in(path.read_text())] == []


@pytest.mark.parametrize("eager", EAGER)
def test_invariant_3_end_waits_for_a_retry(eager: bool) -> None:
    """Invariant 3: while an item waits for its next attempt nobody is told END, for the attempt may feed more items."""
    saved: list[tuple[float, int]] = []
    calls = 0

    @consumer(concurrency=2, retry=Retry(2, wait=lambda attempt: 10.0))
    async def fetch(n: int) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ValueError(n)
        if n == 1:
            feed(2)
        return n

    @consumer
    async def save(n: int) -> None:
        saved.append((now(), n))

    report = testing.run(source([1]) >> fetch >> save, eager=eager)
    assert sorted(saved) == [(10.0, 1), (10.0, 2)]
    assert (report.fed, report.done, report.unfinished) == (1, 2, ())


def lose(items: deque[int]) -> None:
    """Let an item vanish."""
    items.pop()


def double(items: deque[int]) -> None:
    """Let an item be there twice."""
    items.append(items[-1])


@pytest.mark.parametrize("eager", EAGER)
@pytest.mark.parametrize(("spoil", "accounted"), [(lose, 5), (double, 7)])
def test_invariant_4_counts_that_disagree_fail_the_run(
    spoil: Callable[[deque[int]], None], accounted: int, eager: bool
) -> None:
    """Invariant 4: if asyncpc lost an item, or handled one twice, the run would say so and name the stage."""

    @consumer
    async def first(n: int) -> int:
        return n

    @consumer
    async def second(n: int) -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        async with Pipeline(range(6), first >> second) as running:
            await asyncio.sleep(0.5)  # one item is in flight, five are queued
            spoil(running._run.stages[1].inbox._queue)

    with pytest.raises(ConservationError, match=f"'second': 6 received, {accounted} accounted for"):
        testing.run(main(), eager=eager)


@pytest.mark.parametrize("eager", EAGER)
@pytest.mark.parametrize(("concurrency", "maxsize"), [(1, 1), (3, 2)])
def test_c7_items_that_wait_for_a_retry_count_against_the_bounds(concurrency: int, maxsize: int, eager: bool) -> None:
    """Fault C7: while a service is down, no more is taken than the queue holds and may be in flight."""
    given: list[int] = []

    @producer
    async def numbers() -> AsyncIterator[int]:
        for n in range(100):
            given.append(n)
            yield n

    @consumer(concurrency=concurrency, maxsize=maxsize, retry=Retry(9, wait=lambda attempt: 1000.0))
    async def down(n: int) -> None:
        raise ValueError(n)

    async def main() -> None:
        async with numbers >> down as running:
            await asyncio.sleep(500)  # all the first attempts have failed
            stage = running.statistics().stages[0]
            assert (stage.in_flight, stage.queued, len(given)) == (concurrency, maxsize, concurrency + maxsize)
            await running.drain(timeout=0)

    testing.run(main(), eager=eager)


@pytest.mark.parametrize("eager", EAGER)
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_f8_the_log_shows_the_beginning_of_an_item_that_failed_and_none_that_was_left(
    on_error: Literal["stop", "skip"], eager: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Fault F8: the log names the item that failed in at most 80 characters; of those left it says how many."""
    caplog.set_level(logging.DEBUG)

    @consumer(on_error=on_error)
    async def fails(text: str) -> None:
        if text.startswith("canary 1"):
            raise ValueError("no such patient")
        await asyncio.Event().wait()

    async def main() -> None:
        with suppress(PipelineError):
            async with Pipeline([f"canary {n} " + 100 * "x" for n in range(1, 9)], fails) as running:
                await asyncio.sleep(1)
                await running.drain(timeout=1)

    testing.run(main(), eager=eager)
    assert "no such patient" in caplog.text
    assert "stage 'fails' left 7 of 8 items unfinished" in caplog.text
    lines = [record.getMessage() for record in caplog.records]
    assert [line.count("canary") for line in lines if "no such patient" in line] == [1]
    assert any("'canary 1 " + 69 * "x" + "…" in line for line in lines)
    assert "canary 2" not in caplog.text
