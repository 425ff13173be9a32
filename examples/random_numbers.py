"""An endless source of random numbers, and consumers that are slower: it gives as many as they handle, until a signal.

Run it, and press Ctrl-C when you have seen enough::

    python examples/random_numbers.py              or        asyncpc run examples.random_numbers:pipeline

Expect::

    handled 57
    handled 12
    ...
    handled 98
    (nothing but a signal ends it)
    42 numbers made, 42 handled, exit status 130

The source could give a hundred numbers a second, the consumers handle thirty. So ten numbers wait between them, and the
source waits for room. At the signal it is asked for no more, and the numbers that wait are still handled.
"""

import asyncio
import random
import sys
from collections.abc import AsyncIterator

from asyncpc import consumer, producer, run


@producer
async def numbers() -> AsyncIterator[int]:
    while True:
        yield random.randint(1, 100)
        await asyncio.sleep(0.01)


@consumer(concurrency=3, maxsize=10)
async def handle(number: int) -> None:
    await asyncio.sleep(0.1)
    print(f"handled {number}", flush=True)


pipeline = numbers >> handle

if __name__ == "__main__":
    report = run(pipeline)
    print(f"{report.produced} numbers made, {report.done} handled, exit status {report.exit_status}")
    sys.exit(report.exit_status)
