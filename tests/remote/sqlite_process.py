"""A SQLite file as one process sees it, in the thread of a test and on a clock of the test's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any

from asyncpc.offload.calls import Job
from asyncpc.remote.broker import Message, Outgoing, Settings
from asyncpc.remote.engines.sqlite.queue import QueueFile

LEASE = 30.0


@dataclass
class Clock:
    """The system's clock, as the files see it."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Process:
    """A file as one process sees it, which makes each call in a transaction of its own."""

    def __init__(self, path: Path, queue: str = "jobs", clock: Callable[[], float] = time) -> None:
        self._clock = clock
        self.file = QueueFile(str(path), queue, Settings(LEASE, "dead", {}), "NORMAL")
        self._loop = asyncio.new_event_loop()
        try:
            self.call(QueueFile.open)
        except BaseException:
            self.close()
            raise

    def call(self, function: Any, *args: Any) -> Any:
        """What it gives."""
        job = Job(self._loop.create_future(), copy_context(), function, (self.file, *args))
        self.file.make([job])
        if job.error is not None:
            raise job.error
        return job.value

    def put(self, *bodies: str, delay: float = 0.0) -> None:
        """One publish; a body is the id, too."""
        now = self._clock()
        self.call(QueueFile.put, [Outgoing(one, one.encode(), delay=delay, time=now) for one in bodies])

    def take(self, limit: int = 100, suspects: int = 1) -> list[Message]:
        """What a receive gives."""
        messages: list[Message] = self.call(QueueFile.take, limit, suspects)
        return messages

    def ack(self, messages: list[Message]) -> int:
        """How many were this delivery's."""
        count: int = self.call(QueueFile.ack, messages)
        return count

    def lost(self, messages: list[Message]) -> list[str]:
        """What an extension says is gone."""
        return bodies(self.call(QueueFile.extend, messages))

    def leases(self) -> int:
        """How many rows there are."""
        (count,) = self.file.reading().execute("SELECT count(*) FROM lease").fetchone()
        return int(count)

    def close(self) -> None:
        """Let go of the file."""
        self.file.close()
        self._loop.close()


def bodies(messages: list[Message]) -> list[str]:
    return [one.body.decode() for one in messages]


def attempts(messages: list[Message]) -> list[tuple[str, int]]:
    return [(one.body.decode(), one.attempt) for one in messages]
