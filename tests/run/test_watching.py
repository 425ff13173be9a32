"""Whoever watches a run sees it move, and cannot disturb it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

from asyncpc import Pipeline, Report, Running, consumer, source, testing
from asyncpc.graph.pipeline import run_beside
from asyncpc.run.watching import LOOK_EVERY, giving_way, install, looking, screens
from asyncpc.testing import now


@consumer
async def slow(n: int) -> int:
    await asyncio.sleep(1)
    return n


@consumer
async def passes(n: int) -> int:
    return n


def test_a_look_comes_four_times_a_second_and_never_after_the_run() -> None:
    """A terminal is redrawn from it: more often would cost, and later would read a run that is gone."""
    seen: list[tuple[float, int]] = []

    async def main() -> Report:
        def look(running: Running[Any, Any]) -> None:
            seen.append((now(), running.statistics().done))

        return await run_beside(Pipeline(range(6), slow), lambda running: looking(running, look))

    assert testing.run(main()).done == 6
    assert 6 / LOOK_EVERY - 1 <= len(seen) <= 6 / LOOK_EVERY  # at the very end, either may be first
    assert all(later - sooner == LOOK_EVERY for (sooner, _), (later, _) in pairwise(seen))
    assert [done for _, done in seen] == sorted(done for _, done in seen)


def test_a_look_that_raises_is_logged_and_ends_the_looking(caplog: pytest.LogCaptureFixture) -> None:
    """A screen that breaks, such as a terminal that is gone, must not break the run."""
    looks = []

    def look(running: Running[Any, Any]) -> None:
        looks.append(running)
        raise OSError("the terminal of ftp://me:canary@host is gone")

    async def main() -> Report:
        return await run_beside(Pipeline(range(6), slow), lambda running: looking(running, look))

    assert testing.run(main()).done == 6
    assert len(looks) == 1
    assert "the terminal of" in caplog.text
    assert "canary" not in caplog.text


class Noted:
    """Screens that keep what they were asked for."""

    def __init__(self) -> None:
        self.entered: list[str] = []
        self.left: list[str] = []

    def picture(self, plan: Any) -> str:
        return f"picture of {plan.name}"

    def progress(self, plan: Any) -> Any:
        @contextmanager
        def shown(running: Running[Any, Any]) -> Iterator[None]:
            self.entered.append(repr(running))
            yield
            self.left.append(repr(running))

        return shown

    def live(self) -> Any:
        raise AssertionError("nobody asks for it here")


@pytest.fixture
def noted() -> Iterator[Noted]:
    before, those = screens(), Noted()
    install(those)
    yield those
    install(before)


def test_every_way_of_running_is_shown_from_its_start_to_its_end(noted: Noted) -> None:
    """``progress()`` around await, ``async with`` and ``stream()``, several in a row; outside the block nothing."""
    pipeline = source(range(3)) >> slow

    async def main() -> None:
        async with pipeline.progress():
            await pipeline
            async with pipeline as running:
                await running.wait()
            async with pipeline.stream() as values:
                async for _ in values:
                    break
        await pipeline

    testing.run(main())
    assert noted.entered == ["<Running source(range) >> slow new>"] * 3
    assert noted.left == [f"<Running source(range) >> slow {state}>" for state in ("closed", "closed", "failed")]


def test_progress_of_a_run_that_is_under_way(noted: Noted) -> None:
    """``async with pipeline as running, pipeline.progress():`` is what somebody writes who knows on_signals."""
    pipeline = Pipeline(slow)

    async def main() -> None:
        async with pipeline as running, pipeline.progress():
            await running.put(1)

    testing.run(main())
    assert noted.entered == ["<Running slow running>"]
    assert noted.left == ["<Running slow closed>"]


def test_progress_ends_with_its_block(noted: Noted) -> None:
    """Three blocks in one run are not three lines at once, and none goes on when nobody is in the block any more."""
    pipeline = Pipeline(slow)

    async def main() -> None:
        async with pipeline as running:
            for n in range(3):
                async with pipeline.progress():
                    await running.put(n)
                await asyncio.sleep(0)
                assert len(noted.left) == n + 1
            await running.drain()

    testing.run(main())
    assert len(noted.entered) == 3
    assert noted.left == ["<Running slow running>"] * 3


def test_progress_around_a_run_of_another_thread_keeps_away_from_it(noted: Noted) -> None:
    """That run has a loop of its own, and what is beside it belongs there."""
    started, go_on = threading.Event(), threading.Event()

    @consumer
    async def waits(n: int) -> None:
        started.set()
        await asyncio.to_thread(go_on.wait)

    pipeline = source([1]) >> waits

    async def main() -> None:
        async with pipeline.progress():
            ...

    with ThreadPoolExecutor(1) as pool:
        report = pool.submit(asyncio.run, run_beside(pipeline))
        started.wait()
        try:
            asyncio.run(main())
        finally:
            go_on.set()
        assert report.result().done == 1
    assert noted.entered == []


def test_a_watcher_that_cannot_be_entered_leaves_nothing_running() -> None:
    """The run has not begun then, and the pipeline can run again."""
    pipeline = source(range(3)) >> slow

    @contextmanager
    def broken(running: Running[Any, Any]) -> Iterator[None]:
        raise OSError("no screen")
        yield

    async def main() -> Report:
        with pytest.raises(OSError, match="no screen"):
            await run_beside(pipeline, broken)
        return await pipeline

    assert testing.run(main()).done == 3


@pytest.mark.realtime
@pytest.mark.timeout(60)
def test_a_thread_beside_a_busy_run_comes_to_its_turn() -> None:
    """A page is served in such a thread: a loop that is busy would let it wait for as long as the run takes."""
    woken, is_over = [0], threading.Event()

    def wake() -> None:
        while not is_over.wait(0.001):
            woken[0] += 1

    async def main() -> Report:
        pipeline = Pipeline(source(range(600_000)), passes >> passes)
        return await run_beside(pipeline, giving_way, started)

    @contextmanager
    def started(running: Running[Any, Any]) -> Iterator[None]:
        thread.start()
        yield

    thread = threading.Thread(target=wake)
    try:
        asyncio.run(main())
    finally:
        is_over.set()
        thread.join()
    assert woken[0] >= 3
