"""What every implementation does in a round, in a process of its own; needs nothing but Python.

A :class:`Round` gives the messages and takes them back. Its :class:`Meter` runs while the last nine tenths of them are
handled (where messages are only put, over all of them), so that connecting, warming up and stopping count for nobody.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Protocol

Message = dict[str, Any]
"""``n``, its number, and ``pad``, which makes it as long as it should be."""

TICK = 1 / os.sysconf("SC_CLK_TCK")
"""Seconds that a unit of ``/proc/PID/stat`` stands for."""


class WrongResult(Exception):
    """Messages were lost or doubled, so the time is worth nothing."""


class Client(Protocol):
    """An implementation, at one queue."""

    async def publish(self, work: Round) -> None:
        """Put what ``work.messages()`` gives; return when the last is confirmed."""
        ...

    async def consume(self, work: Round) -> None:
        """Give messages to ``work.handle``, ``work.at_once`` at a time; return soon after ``work.done`` is set."""
        ...


@dataclass(frozen=True)
class Peer:
    """One implementation on one engine."""

    name: str
    client: Callable[[str, str], Client]
    """Makes one for the URL of the server and the name of a queue."""
    packages: tuple[str, ...]
    """Whose versions are told."""
    batch: int = 1
    """Messages that it takes together at most; rounds are of many batches."""
    project: str | None = None
    """The project beside this file whose environment it needs; None: this one."""

    def versions(self) -> dict[str, str]:
        """Of its packages."""
        return {name: metadata.version(name) for name in self.packages}


@dataclass
class ProcessorTime:
    """Seconds of processor time that a process and all that it has started have used until now."""

    running: dict[int, float] = field(default_factory=dict)
    """By thread; in nanoseconds where the kernel counts them so, else by process, in ticks of 10 ms."""
    ended: float = 0.0
    """Of processes that have ended, in ticks."""

    @classmethod
    def of(cls, process: int) -> ProcessorTime:
        """Look; all of a process that has ended is 0."""
        found = cls()
        found._add(process)
        return found

    def _add(self, process: int) -> None:
        folder = Path(f"/proc/{process}")
        try:
            children = [int(child) for file in folder.glob("task/*/children") for child in file.read_text().split()]
            user, system, *ended = map(int, (folder / "stat").read_text().rpartition(")")[2].split()[11:15])
            threads = {int(thread.name): _first(thread / "schedstat") / 1e9 for thread in (folder / "task").iterdir()}
        except (FileNotFoundError, ProcessLookupError):  # it has ended
            return
        self.running |= threads if any(threads.values()) else {process: (user + system) * TICK}
        self.ended += sum(ended) * TICK
        for child in children:
            self._add(child)

    def since(self, before: ProcessorTime) -> float:
        """What was used meanwhile.

        Of a process that has ended since, only ticks are known; so little of it as their rounding might be is nothing.
        """
        running = sum([seconds - before.running.get(one, 0.0) for one, seconds in self.running.items()])
        gone = sum([seconds for one, seconds in before.running.items() if one not in self.running])
        ended = self.ended - before.ended - gone
        return running + (ended if ended > 2 * TICK else 0.0)


def _first(file: Path) -> int:
    try:
        return int(file.read_text().split()[0])
    except (FileNotFoundError, ProcessLookupError):  # a thread has ended, or the kernel does not count
        return 0


class Meter:
    """Wall time, this process's processor time and the server's, from start to stop."""

    def __init__(self, server: int | None) -> None:
        self._server = server
        self._began: tuple[float, float] | None = None
        self._server_before = ProcessorTime()
        self.figures: dict[str, float] = {}
        """Seconds: ``wall``, ``client`` and, where there is a server, ``server``."""

    def start(self) -> None:
        """A second call does nothing. To look at the server takes time itself, which counts for nobody."""
        if self._began is None:
            if self._server:
                self._server_before = ProcessorTime.of(self._server)
            self._began = perf_counter(), process_time()

    def stop(self) -> None:
        """Take the figures."""
        now = perf_counter(), process_time()
        assert self._began is not None
        self.figures = {"wall": now[0] - self._began[0], "client": now[1] - self._began[1]}
        if self._server:
            server = ProcessorTime.of(self._server).since(self._server_before)
            self.figures["server"] = max(server, 1e-9)  # ratios need more than nothing


@dataclass
class Round:
    """The work of one round."""

    count: int
    size: int
    """Bytes of a message, as JSON."""
    meter: Meter
    wait: float = 0.0
    """Seconds the handler sleeps; 0: it does nothing."""
    burn: int = 0
    """Arithmetic that the handler does (see ``compute``)."""
    at_once: int = 10
    """Handlers at work at once, where the implementation has such a thing."""
    gap: float = 0.0
    """Seconds from one message to the next; 0: as fast as they are taken."""
    of: int = 0
    """How many messages there are, if other processes handle some of them too."""
    seen: list[int] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    """With a gap: seconds from the moment a message is due to its handler, of those for which the meter runs."""
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def messages(self) -> AsyncIterator[Message]:
        """All of them; those of an open load when they are due, whether or not the consumer keeps up."""
        pad = "x" * max(0, self.size - len('{"n":12345,"pad":""}'))
        self._started = started = perf_counter()
        for n in range(self.count):
            if self.gap and (pause := started + n * self.gap - perf_counter()) > 0:
                await asyncio.sleep(pause)
            yield {"n": n, "pad": pad}

    async def handle(self, n: int) -> None:
        """What a handler does with message ``n``."""
        if self.of and self.done.is_set():
            await asyncio.sleep(60)  # it belongs to another process, which gets it when this one stops
        if self.wait:
            await asyncio.sleep(self.wait)
        if self.burn:
            compute(self.burn)
        self._note(n)

    async def handle_all(self, numbers: Iterable[int]) -> None:
        """What a handler of batches does: the same, waiting for all at once."""
        if self.wait:
            room = asyncio.Semaphore(self.at_once)

            async def handle(n: int) -> None:
                async with room:
                    await self.handle(n)

            await asyncio.gather(*map(handle, numbers))
            return
        for n in numbers:
            await self.handle(n)

    def is_next_due(self, n: int) -> bool:
        """Whether a client that puts several together has another one after message ``n``, without waiting for it."""
        return not self.gap or perf_counter() >= self._started + (n + 1) * self.gap

    def _note(self, n: int) -> None:
        if self.gap and len(self.seen) >= self.warm:
            self.late.append(perf_counter() - self._started - n * self.gap)
        self.seen.append(n)
        if len(self.seen) == self.warm:
            self.meter.start()
        elif len(self.seen) == self.count:
            self.meter.stop()
            self.done.set()

    @property
    def warm(self) -> int:
        """Messages that are handled before the meter runs; of handlers that wait, those that begin together."""
        together = min(self.at_once, self.count // 2) if self.wait else 1
        return max(1, together, self.count // 10)

    @property
    def metered(self) -> int:
        """Messages that are handled while it runs."""
        return self.count - self.warm

    def check(self) -> None:
        """Raise :class:`WrongResult` unless each message was handled once."""
        among = range(self.of or self.count)
        if len(self.seen) < self.count or len(set(self.seen)) < len(self.seen) or not set(among).issuperset(self.seen):
            raise WrongResult(f"{len(self.seen)} messages handled of {self.count}, {len(set(self.seen))} of them once")


def compute(size: int) -> int:
    """Work for the processor."""
    total = 0
    for n in range(size):
        total += n & 7
    return total


def loops_of(seconds: float) -> int:
    """How much arithmetic takes so many seconds of processor time here."""
    started, loops = process_time(), 0
    while process_time() - started < 0.2:
        compute(10_000)
        loops += 10_000
    return int(seconds * loops / (process_time() - started))


async def ended(task: asyncio.Task[Any], work: Round, stop: Callable[[], object] | None = None) -> None:
    """Wait until all is handled, then stop a consumer that would never end, by a cancel if there is no other way.

    Raises what the consumer raised.
    """
    waiting = asyncio.create_task(work.done.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if task.done():
        task.result()
    (stop or task.cancel)()
    await asyncio.wait({task}, timeout=1.0)


async def in_batches(work: Round, size: int) -> AsyncIterator[list[Message]]:
    """The messages ``size`` together; of an open load, no more than are due."""
    batch: list[Message] = []
    async for one in work.messages():
        batch.append(one)
        if len(batch) == size or not work.is_next_due(one["n"]):
            yield batch
            batch = []
    if batch:
        yield batch
