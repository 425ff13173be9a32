"""Several consumers share the work: five of them do twenty jobs, each of which takes 0.1 s, in 0.4 s.

Run it::

    python examples/multiple_consumers.py          or        asyncpc run examples.multiple_consumers:pipeline

Expect the results, one line for each consumer, and the time it took::

    0 1 4 9 16 25 36 49 64 81 100 121 144 169 196 225 256 289 324 361
    squares-1 did 4
    squares-2 did 4
    squares-3 did 4
    squares-4 did 4
    squares-5 did 4
    20 jobs of 0.1 s in 0.4 s
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from asyncpc import consumer, run, source


class Square(NamedTuple):
    root: int
    value: int
    worker: str


@consumer(concurrency=5)
async def squares(n: int) -> Square:
    await asyncio.sleep(0.1)  # a request, a query, …
    task = asyncio.current_task()
    return Square(n, n * n, task.get_name().removeprefix("asyncpc:") if task else "")


@asynccontextmanager
async def summary() -> AsyncIterator[list[Square]]:
    """What a worker opens before its first item and closes after its last."""
    found: list[Square] = []
    yield found
    print(*sorted(square.value for square in found))
    for worker, jobs in sorted(Counter(square.worker for square in found).items()):
        print(f"{worker} did {jobs}")


@consumer(context=summary)
async def collect(square: Square, found: list[Square]) -> None:
    found.append(square)


pipeline = source(range(20)) >> squares >> collect

if __name__ == "__main__":
    report = run(pipeline)
    print(f"{report.done} jobs of 0.1 s in {report.elapsed:.1f} s")
