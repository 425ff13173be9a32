"""SIGTERM while the source is idle: the source is closed, accepted items are handled, the exit status is 143.

Run it, and send the signal from another terminal, or press Ctrl-C::

    python examples/graceful_shutdown.py           or        asyncpc run examples.graceful_shutdown:pipeline

Expect::

    ready: kill -TERM 12345
    handled event 1
    ...
    handled event 5
    (nothing more happens until the signal)
    source closed
    5 of 5 events handled, exit status 143
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator

from asyncpc import consumer, producer, run


@producer
async def events() -> AsyncIterator[int]:
    try:
        print(f"ready: kill -TERM {os.getpid()}", flush=True)
        for number in range(1, 6):
            yield number
        await asyncio.Event().wait()  # stands for a socket on which nothing comes any more
    finally:
        print("source closed", flush=True)


@consumer(concurrency=2)
async def handle(number: int) -> None:
    await asyncio.sleep(0.1)
    print(f"handled event {number}", flush=True)


pipeline = events >> handle

if __name__ == "__main__":
    report = run(pipeline, drain_timeout=10)
    print(f"{report.done} of {report.produced} events handled, exit status {report.exit_status}")
    sys.exit(report.exit_status)
