"""Messages that nobody should have sent, and engines whose errors tell secrets."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import traceback
import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import msgspec
import pytest

from asyncpc import PipelineError, consumer, source, testing
from asyncpc.remote.broker import DeadLetter, Disconnected, Message, Outgoing, Settings
from asyncpc.remote.codec import codec_for
from asyncpc.remote.engines.memory import MemoryBroker
from asyncpc.remote.queue import RemoteQueue
from asyncpc.remote.session import Terms

_names = count()

CANARY = "canary-8d1f"

URL = f"memory://user:{CANARY}@host/jobs"


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


def made_at_random(seed: int) -> bytes:
    """Bytes that may look like a message."""
    rng = random.Random(seed)
    kind = seed % 6
    if kind == 0:
        return rng.randbytes(rng.randrange(900))
    if kind == 1:
        return b"[" * rng.randrange(1, 900)
    if kind == 2:
        return b'{"number": ' + b"9" * rng.randrange(1, 900) + rng.choice([b"}", b"e999}", b".5}", b""])
    if kind == 3:
        return msgspec.msgpack.encode({"number": rng.choice([None, "1", [1], {}, 1.5, 2**63, True]), "text": 1})
    if kind == 4:
        body = bytearray(b'{"number": 1, "text": "abc"}')
        for _ in range(rng.randrange(1, 4)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        return bytes(body)
    return rng.choice([b'"\\ud800"', b"NaN", b"\x00", b'{"number":1,"number":"x"}', b"\xef\xbb\xbf{}", b"\x81" * 700])


@pytest.mark.parametrize("declared", [Job, int, list[int], dict[str, Any], Any])
@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_what_cannot_be_read_is_buried_and_the_consumer_lives(declared: Any, codec: Any) -> None:
    """Protects a worker from random bytes, deep nesting, huge numbers and wrong types (faults F3 to F5)."""

    async def main() -> None:
        queue = remote(declared, codec=codec)
        types = ["application/json", "application/msgpack", "text/html", "x" * 3000, ""]
        messages = [Outgoing(f"m{at}", made_at_random(at), {"content-type": types[at % 7 % 5]}) for at in range(600)]
        seen, dead = await handled(queue, messages)
        assert len(seen) + len(dead) == 600
        assert len(dead) > 200
        assert all(len(one.failure) < 5000 for one in dead)
        for one in dead:
            assert json.loads(one.failure)["reason"]

    testing.run(main())


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


class Telling(MemoryBroker):
    """Fails in the call of that name, and tells its URL."""

    fails = ""
    error: type[Exception] = RuntimeError

    def _reveal(self, name: str) -> None:
        if name == self.fails:
            raise self.error(f"cannot reach {URL}") from OSError(f"no route to {URL}")

    async def open(self) -> None:
        self._reveal("open")
        await super().open()

    async def receive(self, limit: int, wait: float, suspects: int) -> list[Message]:
        self._reveal("receive")
        return await super().receive(limit, wait, suspects)

    async def ack(self, messages: Sequence[Message]) -> int:
        self._reveal("ack")
        return await super().ack(messages)

    async def release(self, messages: Sequence[Message], delay: float, counted: bool) -> None:
        self._reveal("release")
        await super().release(messages, delay, counted)

    async def bury(self, dead: Sequence[tuple[Message, bytes]]) -> None:
        self._reveal("bury")
        await super().bury(dead)

    async def extend(self, messages: Sequence[Message]) -> list[Message]:
        self._reveal("extend")
        return await super().extend(messages)

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        self._reveal("publish")
        await super().publish(messages)

    async def depth(self) -> Any:
        self._reveal("depth")
        return await super().depth()

    async def close(self) -> None:
        self._reveal("close")
        await super().close()

    def wake(self) -> None:
        self._reveal("wake")
        super().wake()


CALLS = "open", "receive", "ack", "release", "bury", "extend", "publish", "depth", "close", "wake"


@pytest.mark.parametrize("error", [RuntimeError, Disconnected, OSError])
@pytest.mark.parametrize("fails", CALLS)
def test_no_password_comes_out(fails: str, error: type[Exception], caplog: pytest.LogCaptureFixture) -> None:
    """Protects logs and whoever posts a traceback, whatever an engine says (fault F7)."""
    engine: Any = type("Failing", (Telling,), {"fails": fails, "error": error})
    told: list[str] = []

    @consumer(concurrency=3)
    async def handle(job: Job) -> None:
        if job.number == 1:
            raise ValueError(f"for {URL}")
        await asyncio.sleep(job.number)

    async def attempt(work: Callable[[], Any]) -> None:
        try:
            await work()
        except Exception as raised:
            told.extend(traceback.format_exception(raised))
            told.append(repr(raised))
            if isinstance(raised, PipelineError):
                told.append(f"{raised.report} {raised.report!r} {raised.report.failures}")

    async def main() -> None:
        url, settings = f"memory://hostile-{next(_names)}", Settings(3.0, "dead", {})
        queue = RemoteQueue[Job](
            "jobs", lambda: engine(url, settings), codec_for("jobs", Job, "json", 999), Terms(None, 3.0, 5), url
        )
        good = MemoryBroker(url, settings)
        await good.open()
        await good.publish([Outgoing(str(n), b'{"number": %d}' % n) for n in (0, 1, 1000)])

        async def consume() -> None:
            async with queue >> handle as running:
                await asyncio.sleep(5)
                told.append(f"{running!r} {running.statistics()} {running.health()}")
                await running.drain(1)

        async def put() -> None:
            async with queue.open() as opened:
                told.append(repr(opened))
                await opened.put(Job(1), timeout=3)

        async def publish() -> None:
            async with asyncio.timeout(30):
                await (source([Job(1)]) >> queue)

        async def look() -> None:
            async with asyncio.timeout(30):
                await queue.depth()

        for work in consume, put, publish, look:
            await attempt(work)
        told.extend(one.failure.decode() for one in await good.dead(10, ""))
        await good.close()

    with caplog.at_level(logging.DEBUG), suppress(TimeoutError):
        testing.run(main())
    assert CANARY not in caplog.text
    assert CANARY not in "\n".join(told)
    assert told
