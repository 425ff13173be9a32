"""A sensor that is faster than its display: the display is always up to date, and skipped readings are counted.

The sensor measures every 2 ms and cannot wait; the display needs 25 ms. One reading waits between them, always the
newest.

Run it::

    python examples/sensor_overflow.py             or        asyncpc run examples.sensor_overflow:pipeline

Expect about twenty lines like these, with the last reading at the end, then the totals::

    reading   1: 20.1 °C  (0 skipped before it)
    reading  13: 20.8 °C  (11 skipped before it)
    ...
    reading 200: 20.7 °C  (9 skipped before it)
    200 readings, 18 shown, 182 dropped
"""

import asyncio
import math
from collections.abc import AsyncIterator
from typing import NamedTuple

from asyncpc import consumer, producer, run


class Reading(NamedTuple):
    number: int
    celsius: float


skipped: list[Reading] = []


@producer
async def sensor() -> AsyncIterator[Reading]:
    for number in range(1, 201):
        yield Reading(number, 20 + 2 * math.sin(number / 30))
        await asyncio.sleep(0.002)


@consumer(maxsize=1, overflow="drop_oldest", on_drop=skipped.append)
async def display(reading: Reading) -> None:
    print(f"reading {reading.number:3}: {reading.celsius:.1f} °C  ({len(skipped)} skipped before it)")
    skipped.clear()
    await asyncio.sleep(0.025)


pipeline = sensor >> display

if __name__ == "__main__":
    report = run(pipeline)
    print(f"{report.produced} readings, {report.done} shown, {report.dropped} dropped")
