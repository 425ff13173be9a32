"""A run with a remote source, disturbed at each single step of its loop: no message is lost, and it ends in time.

What is not marked ``thorough`` tries one callback of a few.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from itertools import count
from typing import Any, Final

import pytest
from stepping import Play, problems, steps
from support import EAGER

from asyncpc import Batch, Pipeline, Running, broadcast, consumer, feed
from asyncpc.remote.broker import Message, Outgoing, Settings
from asyncpc.remote.codec import codec_for
from asyncpc.remote.engines.memory.broker import MemoryBroker
from asyncpc.remote.queue import RemoteQueue
from asyncpc.remote.session import Terms

MESSAGES: Final = 6

DRAIN: Final = 1.0

_names = count()


class Slow(MemoryBroker):
    """Answers a few turns of the loop later, as a server does; tells what is acknowledged too early."""

    finished: set[int]
    early: list[int]

    async def receive(self, limit: int, wait: float, suspects: int) -> list[Message]:
        messages = await super().receive(limit, wait, suspects)
        await steps(2)
        return messages

    async def ack(self, messages: Sequence[Message]) -> int:
        self.early.extend(number for one in messages if (number := int(one.body)) not in self.finished)
        await steps(1)
        acknowledged = await super().ack(messages)
        await steps(1)
        return acknowledged

    async def release(self, messages: Sequence[Message], delay: float, counted: bool) -> None:
        await steps(1)
        await super().release(messages, delay, counted)
        await steps(1)

    async def open(self) -> None:
        await steps(2)
        await super().open()


def plain(finish: Callable[[int], None]) -> list[Any]:
    @consumer(concurrency=2)
    async def handle(number: int) -> int:
        await steps(number % 3)
        return number

    @consumer(maxsize=1)
    async def last(number: int) -> None:
        await steps(2)
        finish(number)

    return [handle, last]


def fed(finish: Callable[[int], None]) -> list[Any]:
    @consumer(concurrency=2)
    async def handle(number: int) -> None:
        await steps(number % 3)
        if number < 100:
            feed(100 + number)
        else:
            finish(number - 100)

    return [handle]


def parts(finish: Callable[[int], None]) -> list[Any]:
    left = dict.fromkeys(range(MESSAGES), 4)

    @consumer(concurrency=2)
    async def split(number: int) -> AsyncIterator[int]:
        for _ in range(2):
            await steps(1)
            yield number

    @consumer
    async def one(number: int) -> int:
        await steps(1)
        return number

    @consumer(maxsize=1)
    async def two(number: int) -> int:
        return number

    @consumer(batch=Batch(3, within=0), maxsize=6)
    async def last(numbers: list[int]) -> None:
        await steps(2)
        for number in numbers:
            left[number] -= 1
            if not left[number]:
                finish(number)

    return [split, broadcast(one, two), last]


KINDS: Final = {"plain": plain, "fed": fed, "parts": parts}

DEEDS: Final = "cancel", "cancel twice", "kill", "stop", "drain", "abort"


class Tried(Play):
    """A run of one kind."""

    def __init__(self, kind: str, deed: str, at: int, eager: bool) -> None:
        super().__init__(deed, at, eager)
        self.finished: set[int] = set()
        self.early: list[int] = []
        self.found: list[str] = []
        self.url = f"memory://each-step-{next(_names)}"
        terms = Terms(4, 60.0, 5)
        queue = RemoteQueue[int]("jobs", self.broker, codec_for("jobs", int, "json", 99), terms, self.url)
        self.pipeline = Pipeline(queue, *KINDS[kind](self.finished.add), drain_timeout=DRAIN)

    def broker(self) -> Slow:
        broker = Slow(self.url, Settings(60.0, "dead", {}))
        broker.finished, broker.early = self.finished, self.early
        return broker

    async def use(self, running: Running[Any, Any]) -> None:
        await asyncio.sleep(0.5)

    def victims(self) -> list[asyncio.Task[Any]]:
        ours = ("asyncpc:", "remote queue 'jobs'")
        return [one for one in asyncio.all_tasks(self.loop) if one.get_name().startswith(ours) and _is_at_work(one)]

    async def main(self) -> None:
        other = self.broker()
        await other.publish([Outgoing(str(n), b"%d" % n) for n in range(MESSAGES)])
        await super().main()
        took = 0.0 if self.done_at is None else self.loop.time() - self.done_at
        depth = await other.depth()
        found = self.found = [f"acknowledged too early: {self.early}"] if self.early else []
        acknowledged = MESSAGES - depth.ready - depth.delayed - depth.unacknowledged - depth.dead
        if acknowledged > len(self.finished) or depth.dead:
            found.append(f"{depth}, {acknowledged} acknowledged, {len(self.finished)} finished")
        if self.deed in ("stop", "drain", "abort", "cancel", "nothing") and depth.unacknowledged:
            found.append(f"at rest, and {depth.unacknowledged} unacknowledged")
        if self.deed == "nothing" and len(self.finished) != MESSAGES:
            found.append(f"only {self.finished} were handled")
        if took > 0.5 + DRAIN + 0.1 or (self.deed == "cancel twice" and took > 0.1):
            found.append(f"it took {took:g} s")
        left = asyncio.all_tasks() - {asyncio.current_task()}
        found += [f"left behind: {one!r}" for one in left]

    def wrong(self) -> list[str]:
        return self.found


def _is_at_work(task: asyncio.Task[Any]) -> bool:
    """Whether it has begun: of one that is cancelled before, the group that it is in hears nothing."""
    coroutine: Any = task.get_coro()
    return not task.done() and inspect.getcoroutinestate(coroutine) != inspect.CORO_CREATED


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Hundreds of runs fail on purpose; a log line for each would hide what is wrong."""
    caplog.set_level(logging.CRITICAL, logger="asyncpc")


@pytest.mark.parametrize("kind", KINDS)
def test_disturbed_at_some_steps(kind: str) -> None:
    """Protects each message at every await (promise 2)."""
    assert problems(partial(Tried, kind, eager=False), DEEDS, 13, count()) == {}


@pytest.mark.thorough
@pytest.mark.parametrize("eager", EAGER)
@pytest.mark.parametrize("kind", KINDS)
def test_disturbed_at_each_step(kind: str, eager: bool) -> None:
    """Protects the same, at each callback and with eager tasks."""
    assert problems(partial(Tried, kind, eager=eager), DEEDS, 1, count()) == {}
