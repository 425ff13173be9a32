"""What a hostile hour found: each test failed before its fault was mended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

import pytest
from support import PATIENCE, error_types
from virtual import run_virtual

from asyncpc import Batch, DefinitionError, Pipeline, PipelineError, StateError, consumer, feed, merge, source
from asyncpc.core.tracked import Tracked
from asyncpc.errors import WorkerCancelled
from asyncpc.remote.broker import Disconnected, Message, Outgoing, PublishError, Settings
from asyncpc.remote.codec import codec_for
from asyncpc.remote.engines.memory import MemoryBroker
from asyncpc.remote.queue import RemoteQueue
from asyncpc.remote.session import Terms

_names = count()


def remote(
    engine: Callable[[str, Settings], Any] = MemoryBroker, prefetch: int | None = None, lease: float = 60.0
) -> RemoteQueue[int]:
    """A queue of numbers on that engine."""
    url = f"memory://attacks-{next(_names)}"
    made = lambda: engine(url, Settings(lease, "dead", {}))  # noqa: E731  # as short as what it is for
    return RemoteQueue("jobs", made, codec_for("jobs", int, "json", 1000), Terms(prefetch, lease, 5), url, "")


async def put(queue: RemoteQueue[int], *numbers: int) -> None:
    async with queue.open() as opened:
        await opened.put_many(numbers)


async def depth(queue: RemoteQueue[int]) -> tuple[int, int, int, int]:
    """Ready, unacknowledged, delayed and dead."""
    return (await queue.depth())[:4]


def test_a_failure_of_what_a_batch_gave_together_buries_its_messages() -> None:
    """Protects a worker: the values of a generating batch, and what a batch feeds, belong to all of its messages."""
    queue = remote()

    @consumer(batch=Batch(2, within=1.0))
    async def split(numbers: list[int]) -> AsyncIterator[int]:
        if numbers[0] < 100:
            feed(1000)
        yield sum(numbers)

    @consumer
    async def handle(number: int) -> None:
        raise ValueError(number)

    async def main() -> None:
        await put(queue, 1, 2)
        async with queue >> split >> handle as running:
            await asyncio.sleep(10)
            report = await running.drain()
        assert report.failed == 2
        assert await depth(queue) == (0, 0, 0, 2)

    run_virtual(main)


def test_what_is_given_back_does_not_come_again_at_once() -> None:
    """Protects the attempts of engines that count each delivery: the last receive gets none of it."""
    received: list[int] = []

    class Slow(MemoryBroker):
        async def receive(self, limit: int, wait: float, suspects: int) -> list[Message]:
            messages = await super().receive(limit, wait, suspects)
            received.extend(int(one.body) for one in messages)
            return messages

        def wake(self) -> None:
            asyncio.get_running_loop().call_later(0.05, super().wake)  # as a call to a server

    queue = remote(Slow, prefetch=10)

    @consumer(maxsize=1)
    async def handle(number: int) -> None:
        await asyncio.sleep(1000)

    async def main() -> None:
        await put(queue, 1, 2, 3, 4)
        with suppress(PipelineError):
            async with queue >> handle as running:
                await asyncio.sleep(1)
                await running.drain(timeout=5)
        assert received == [1, 2, 3, 4]
        assert await depth(queue) == (4, 0, 0, 0)
        await asyncio.sleep(1)

    run_virtual(main)


def test_a_session_that_fails_leaves_no_worker_running() -> None:
    """Protects the end of a run: a worker is waited for, also if there are as many as sessions that have ended."""
    ended: list[str] = []

    class Broken(MemoryBroker):
        async def extend(self, messages: Sequence[Message]) -> list[Message]:
            raise RuntimeError("a bug of the engine")

    queue = remote(Broken, lease=3.0)

    @consumer
    async def handle(number: int) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(0.01)
            ended.append("handler")

    async def main() -> None:
        await put(queue, 1)
        with pytest.raises(PipelineError) as raised:
            async with queue >> handle:
                await asyncio.sleep(0.5)  # then it drains, and its source has ended
        assert error_types(raised.value) == [RuntimeError]
        assert "in remote queue 'jobs' of pipeline" in raised.value.exceptions[0].__notes__[0]
        assert ended == ["handler"]
        assert raised.value.report.abandoned == ()

    run_virtual(main)
