"""The programs that the tests of crashes kill: ``asyncpc run remote.programs:working --set url=…`` and ``:publishing``.

What they do is in a log that outlives them: each line is written at once, at the end of one file. ``judge`` reads it.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from asyncpc import Pipeline, consumer, producer
from asyncpc.remote import OpenQueue
from asyncpc.remote.queue import remote_queue

CONCURRENCY = 8
"""Messages that a worker's last stage handles at once."""


@dataclass
class Job:
    id: str
    is_poison: bool = False


class Log:
    """A file of lines: when (monotonic seconds, which all processes share), who, what, which message."""

    def __init__(self, path: str, who: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._who = who
        self.write("up", "-")

    def write(self, what: str, *messages: str) -> None:
        """A line for each message."""
        now = time.monotonic()
        os.write(self._file, "".join(f"{now:.6f} {self._who} {what} {one}\n" for one in messages).encode())


def working(url: str, log: str, who: str, lease: str, prefetch: str = "64") -> Pipeline[Job, None]:
    """Handle what comes, in two stages."""
    queue = remote_queue(url, Job, lease=float(lease), prefetch=int(prefetch))
    lines = Log(log, who)

    @consumer(concurrency=CONCURRENCY // 2)
    async def begin(job: Job) -> Job:
        lines.write("began", job.id)
        if job.is_poison:
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(0.002)
        return job

    @consumer(concurrency=CONCURRENCY)
    async def handle(job: Job) -> None:
        await asyncio.sleep(0.02)
        lines.write("handled", job.id)

    return queue >> begin >> handle


def publishing(url: str, log: str, who: str) -> Pipeline[Any, None]:
    """Put some hundred messages a second, one by one and several at once, until it is told to stop."""
    queue = remote_queue(url, Job)
    lines = Log(log, who)
    draw = random.Random(who)

    @producer
    async def batches() -> AsyncIterator[list[str]]:
        for number in count():
            yield [f"{who}-{number}-{place}" for place in range(draw.choice([1, 1, 10, 20]))]
            await asyncio.sleep(0.04)

    @consumer(concurrency=2, context=queue.open)
    async def publish(ids: list[str], opened: OpenQueue[Job]) -> None:
        lines.write("attempted", *ids)
        if len(ids) == 1:
            await opened.put(Job(ids[0]))
        else:
            await opened.put_many([Job(one) for one in ids])
        lines.write("confirmed", *ids)

    return batches >> publish
