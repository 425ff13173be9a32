"""Whoever asks a session something gets an answer or an error, and never takes that of somebody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from asyncpc import testing
from asyncpc.remote.broker import Depth, Disconnected, Settings
from asyncpc.remote.connection import Connection
from asyncpc.remote.engines.memory.broker import MemoryBroker
from asyncpc.remote.questions import EVERY, WATCHED_FOR, DepthWatch, Questions
from asyncpc.testing import now

NOTHING = Depth(0, 0, 0, 0, None)


@asynccontextmanager
async def asked() -> AsyncIterator[Questions]:
    """Questions that are answered."""
    connection = Connection(MemoryBroker("memory://questions", Settings(60.0, "dead", {})), "queue")
    await connection.open()
    questions = Questions(connection)
    task = asyncio.create_task(questions.run())
    yield questions
    questions.finish()
    await task
    await connection.close()


def test_who_gives_up_leaves_the_call_to_its_end() -> None:
    """Protects fault E1: a cancelled command would leave its reply to the next caller."""
    ended: list[str] = []

    async def slowly(name: str) -> str:
        await asyncio.sleep(1)
        ended.append(name)
        return name

    async def main() -> None:
        async with asked() as questions:
            first, second, third = (
                asyncio.create_task(questions.ask(lambda name=name: slowly(name)))  # type: ignore[misc]  # mypy cannot tell
                for name in ("first", "second", "third")
            )
            await asyncio.sleep(0.5)
            first.cancel()  # under way
            second.cancel()  # not begun
            assert await third == "third"
            assert ended == ["first", "third"]
            assert now() == 2.0

    testing.run(main())


def test_an_error_is_the_askers() -> None:
    """Protects the session: what the engine refuses one caller ends no run, and others are answered."""

    async def refuses() -> None:
        raise ValueError("no")

    async def answers() -> int:
        return 1

    async def main() -> None:
        async with asked() as questions:
            with pytest.raises(ValueError, match="no"):
                await questions.ask(refuses)
            assert await questions.ask(answers) == 1
        with pytest.raises(Disconnected):
            await questions.ask(answers)

    testing.run(main())


def test_whoever_waits_at_the_end_is_told() -> None:
    """Protects against waiting for ever: a session that is cancelled answers nobody."""

    async def hangs() -> None:
        await asyncio.sleep(1000)

    async def main() -> None:
        connection = Connection(MemoryBroker("memory://ends", Settings(60.0, "dead", {})), "queue")
        await connection.open()
        questions = Questions(connection)
        task = asyncio.create_task(questions.run())
        waiting = [asyncio.create_task(questions.ask(hangs)) for _ in range(2)]
        await asyncio.sleep(1)
        task.cancel()
        for one in waiting:
            with pytest.raises(Disconnected, match="the connection is closed"):
                await one
        await connection.close()

    testing.run(main())


def test_a_question_is_asked_twice_at_most(caplog: pytest.LogCaptureFixture) -> None:
    """Protects the connection: a lost one is noticed by whoever asks; a count that is too slow breaks no third one."""
    calls = 0

    async def lost() -> int:
        nonlocal calls
        calls += 1
        if calls in (1, 3, 4):
            raise Disconnected("lost")
        return calls

    async def main() -> None:
        async with asked() as questions:
            assert await questions.ask(lost) == 2
            with pytest.raises(Disconnected, match="lost"):
                await questions.ask(lost)

    testing.run(main())


@asynccontextmanager
async def watched(ask: Callable[[], Any]) -> AsyncIterator[DepthWatch]:
    watch = DepthWatch(ask, "queue")
    task = asyncio.create_task(watch.run())
    yield watch
    watch.finish()
    await task


def test_the_depth_is_asked_for_while_somebody_looks() -> None:
    """Protects the server: a thousand processes that nobody looks at ask it nothing, others every five seconds."""
    times: list[float] = []

    async def depth() -> Depth:
        times.append(now())
        return Depth(len(times), 0, 0, 0, None)

    async def main() -> None:
        async with watched(depth) as watch:
            await asyncio.sleep(1000)
            assert watch.depth is None
            watch.look()
            await asyncio.sleep(1000)
            assert times == [1000 + EVERY * n for n in range(int(WATCHED_FOR / EVERY))]
            assert watch.depth is not None
            assert watch.depth.ready == len(times)
            times.clear()
            for _ in range(10):  # as a scrape every minute does
                watch.look()
                await asyncio.sleep(60)
            assert len(times) == 600 / EVERY

    testing.run(main())


def test_a_slow_count_is_made_seldom() -> None:
    """Protects a table of millions of rows: looking takes a hundredth of the time at most."""
    times: list[float] = []

    async def depth() -> Depth:
        times.append(now())
        await asyncio.sleep(0.2)
        return NOTHING

    async def main() -> None:
        async with watched(depth) as watch:
            for _ in range(100):
                watch.look()
                await asyncio.sleep(1)
        assert times == pytest.approx([0, 20.2, 40.4, 60.6, 80.8])

    testing.run(main())


def test_a_depth_that_cannot_be_had_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Protects the work: a missing permission costs a figure."""

    async def depth() -> Depth:
        if now() < 6:
            raise PermissionError("not allowed to count")
        return NOTHING

    async def main() -> None:
        async with watched(depth) as watch:
            watch.look()
            await asyncio.sleep(7)
            assert watch.depth is None
            await asyncio.sleep(7)
            assert watch.depth == NOTHING

    testing.run(main())
    assert "its depth is unknown: PermissionError: not allowed to count" in caplog.text
