"""Programs that share a SQLite file, for ``test_sqlite``; what they say on stdout is judged there.

``python -m remote.sqlite_workers put|take|turns URL LOG NAME SECONDS``, in the folder of the tests
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable
from itertools import count
from typing import TypeVar

from remote.stalls import Stalls

from asyncpc.remote.broker import Outgoing, Settings
from asyncpc.remote.engines.sqlite.broker import SqliteBroker

LEASE = 1.0

R = TypeVar("R")


class Log:
    """Lines in a file that outlive a kill: each is written at once, by one call."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, lines: list[str]) -> None:
        """Each on a line of its own."""
        os.write(self._file, "".join(f"{line}\n" for line in lines).encode())


async def put(broker: SqliteBroker, log: Log, name: str) -> None:
    """Publish without end; log what was confirmed."""
    for number in count():
        ids = [f"{name}-{number}-{place}" for place in range(20)]
        await broker.publish([Outgoing(one, one.encode(), time=time.time()) for one in ids])
        log.write([f"confirmed {one}" for one in ids])


async def take(broker: SqliteBroker, log: Log) -> None:
    """Receive and ack without end; log what was handled, before its ack."""
    while True:
        messages = await broker.receive(20, 1.0, 1)
        log.write([f"handled {one.id}" for one in messages])
        await broker.ack(messages)


async def turns(broker: SqliteBroker, name: str, seconds: float) -> None:
    """Do all of it for some seconds; say how much was acked and lost, when each call was made, and when it stalled."""
    took: list[tuple[float, float]] = []
    acked = lost = 0

    async def timed(call: Awaitable[R]) -> R:
        began = time.monotonic()
        result = await call
        took.append((began, time.monotonic()))
        return result

    print("ready", flush=True)
    sys.stdin.readline()  # blocks the loop, in which nothing else runs yet
    stalls = Stalls()
    stalls.start()
    ends = time.monotonic() + seconds
    for number in count():
        batch = [Outgoing(f"{name}-{number}-{place}", b"x" * 64, time=time.time()) for place in range(20)]
        await timed(broker.publish(batch))
        messages = await timed(broker.receive(20, 0.0, 1))
        lost += len(await timed(broker.extend(messages)))
        acked += await timed(broker.ack(messages))
        if time.monotonic() > ends:
            break
    print(json.dumps({"acked": acked, "lost": lost, "took": took, "stalls": stalls.seen}))


async def main(what: str, url: str, log: str, name: str, seconds: str) -> None:
    """See the module."""
    broker = SqliteBroker(url, Settings(LEASE, "dead", {}))
    await broker.open()
    try:
        if what == "put":
            await put(broker, Log(log), name)
        elif what == "take":
            await take(broker, Log(log))
        else:
            await turns(broker, name, float(seconds))
    finally:
        await broker.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
