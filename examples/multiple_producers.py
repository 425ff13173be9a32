"""Several producers feed one pipeline: two sensors and a list are merged, and each gives its items as they come.

Run it::

    python examples/multiple_producers.py          or        asyncpc run examples.multiple_producers:pipeline

Expect twelve readings, those of the list first, then how many came from each source::

    cellar:  11 °C
    cellar:  12 °C
    kitchen: 20 °C
    ...
    sensor gave 5, sensor#2 gave 5, cellar gave 2
"""

import asyncio
from collections.abc import AsyncIterator

from asyncpc import consumer, merge, producer, run, source

Reading = tuple[str, int]


@producer
async def sensor(room: str, degrees: int, every: float) -> AsyncIterator[Reading]:
    for rise in range(5):
        await asyncio.sleep(every)
        yield room, degrees + rise


@consumer
async def show(reading: Reading) -> None:
    room, degrees = reading
    print(f"{room + ':':8} {degrees} °C")


pipeline = (
    merge(
        sensor("kitchen", 20, every=0.02),
        sensor("attic", 30, every=0.05),
        source([("cellar", 11), ("cellar", 12)], name="cellar"),
    )
    >> show
)

if __name__ == "__main__":
    report = run(pipeline)
    print(", ".join(f"{one.name} gave {one.produced}" for one in report.sources))
