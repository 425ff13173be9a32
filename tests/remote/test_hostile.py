"""Messages that nobody should have sent."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest
from remote.hostile import TYPES, made_at_random

from asyncpc import consumer, testing
from asyncpc.remote.broker import DeadLetter, Outgoing, Settings
from asyncpc.remote.codec import codec_for
from asyncpc.remote.engines.memory.broker import MemoryBroker
from asyncpc.remote.engines.messages import headers_in
from asyncpc.remote.queue import RemoteQueue
from asyncpc.remote.session import Terms

_names = count()


@dataclass
class Job:
    number: int
    text: str = ""


def remote(declared: Any, engine: Callable[[str, Settings], Any] = MemoryBroker, **options: Any) -> RemoteQueue[Any]:
    """A queue of such items, of a kilobyte each."""
    url, settings = f"memory://hostile-{next(_names)}", Settings(60.0, "dead", {})
    codec = codec_for("jobs", declared, options.get("codec", "json"), options.get("max_bytes", 1000))
    return RemoteQueue("jobs", lambda: engine(url, settings), codec, Terms(None, 60.0, 5), "memory://host/jobs")


async def handled(queue: RemoteQueue[Any], messages: Sequence[Outgoing]) -> tuple[list[Any], list[DeadLetter]]:
    """What a consumer got of these messages and a good one after them, and what became dead letters."""
    seen: list[Any] = []

    @consumer
    async def handle(item: Any) -> None:
        seen.append(item)

    async with queue.open() as opened:
        await opened.broker.publish(messages)
        async with queue >> handle as running:
            await asyncio.sleep(20)
            report = await running.drain()
        assert report.complete
        depth = await opened.depth()
        assert (depth.ready, depth.unacknowledged, depth.delayed) == (0, 0, 0)
        return seen, await opened.broker.dead(100_000, "")


@pytest.mark.parametrize("declared", [Job, int, list[int], dict[str, Any], Any])
@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize("count", [150, pytest.param(600, marks=pytest.mark.thorough)])
def test_what_cannot_be_read_is_buried_and_the_consumer_lives(declared: Any, codec: Any, count: int) -> None:
    """Protects a worker from random bytes, deep nesting, huge numbers and wrong types (faults F3 to F5)."""

    async def main() -> None:
        queue = remote(declared, codec=codec)
        messages = [Outgoing(f"m{at}", made_at_random(at), {"content-type": TYPES[at % 7 % 5]}) for at in range(count)]
        seen, dead = await handled(queue, messages)
        assert len(seen) + len(dead) == count
        assert len(dead) > count / 3
        assert all(len(one.failure) < 5000 for one in dead)
        for one in dead:
            assert json.loads(one.failure)["reason"]

    testing.run(main())


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('{"x-a": "b", "x-n": 1, "x-d": {"x": "y"}}', {"x-a": "b"}),
        (b'{"x-a": "\xff"}', {}),
        ("", {}),
        ("[", {}),
        ("[1]", {}),
        ("null", {}),
        ("[" * 5000, {}),
        ('{"x-a": "' + "b" * 20_000 + '"}', {}),
    ],
)
def test_headers_that_cannot_be_read_are_left_out(written: str | bytes, read: dict[str, str]) -> None:
    """Protects a worker from whoever may write to the tables of its queue: this ended its run (fault F10)."""
    assert headers_in(written) == read


def test_large_messages_take_no_memory() -> None:
    """Protects the worker: 100 MB are neither decoded nor copied (fault F3)."""

    async def main() -> None:
        queue = remote(Any)
        body = b'["' + b"x" * 100_000_000 + b'"]'
        tracemalloc.start()
        try:
            _, dead = await handled(queue, [Outgoing(f"m{at}", body) for at in range(5)])
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(dead) == 5
        assert peak < 5_000_000

    testing.run(main())


def test_an_endless_error_makes_a_short_dead_letter() -> None:
    """Protects the engine: what a handler raises may quote the whole message."""

    @consumer
    async def handle(job: Job) -> None:
        raise ValueError("x" * 10_000_000 + "\ud800")

    async def main() -> None:
        queue = remote(Job)
        async with queue.open() as opened:
            await opened.put(Job(1))
            async with queue >> handle:
                await asyncio.sleep(5)
            (dead,) = await opened.broker.dead(10, "")
        assert len(dead.failure) < 100_000
        assert b"ValueError: xxx" in dead.failure

    testing.run(main())
