"""Parts of a file are downloaded four at a time, finish in any order, and are written in their proper order.

The downloads are simulated. How long each takes comes from a seed, so every run is the same.

Run it::

    python examples/ordered_download.py            or        asyncpc run examples.ordered_download:pipeline

Expect the order in which the parts arrived, and the order in which they were written::

    finished: 1 3 5 2 0 4 6 7 10 8 11 9
    written:  0 1 2 3 4 5 6 7 8 9 10 11
    12 parts in 0.6 s, one by one 2.0 s

With ``ordered=True`` the values of a stage leave in the order in which its items came. A part that is early waits for
its turn, but its worker does not: it downloads the next part.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from asyncpc import consumer, run, source


@dataclass(frozen=True)
class Part:
    number: int
    seconds: float
    finished: float = 0.0  # by the clock of the loop


def parts(count: int = 12, seed: int = 15) -> list[Part]:
    """Downloads of 40 to 260 ms."""
    chance = random.Random(seed)
    return [Part(number, chance.uniform(0.04, 0.26)) for number in range(count)]


@consumer(concurrency=4, ordered=True)
async def download(part: Part) -> Part:
    await asyncio.sleep(part.seconds)  # stands for a request for a range of bytes
    return Part(part.number, part.seconds, asyncio.get_running_loop().time())


@asynccontextmanager
async def file() -> AsyncIterator[list[Part]]:
    """Stands for a file; when it is closed, it prints what was written into it."""
    written: list[Part] = []
    yield written
    print("finished:", *(part.number for part in sorted(written, key=lambda part: part.finished)))
    print("written: ", *(part.number for part in written))


@consumer(context=file)
async def write(part: Part, file: list[Part]) -> None:
    file.append(part)


pipeline = source(parts()) >> download >> write

if __name__ == "__main__":
    report = run(pipeline)
    alone = sum(part.seconds for part in parts())
    print(f"{report.done} parts in {report.elapsed:.1f} s, one by one {alone:.1f} s")
