"""A sensor whose driver calls you back in its own thread: from there its readings go into a pipeline.

Run it::

    python examples/thread_sensor.py               or        asyncpc run examples.thread_sensor:pipeline

Expect, within half a second::

    mean of 100 readings: 20.0 °C
    mean of 100 readings: 20.1 °C
    ...
    mean of 100 readings: 20.9 °C
    1000 readings taken, 1000 handled

``put_from_thread`` waits while the pipeline is full, so a driver that is too fast has to wait, and no reading is lost.
A device without a driver is simpler: under ``asyncpc run``, a plain generator reads it, also in a thread.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from statistics import fmean
from threading import Thread

from asyncpc import Batch, Pipeline, QueueShutDown, Running, consumer, producer

READINGS = 1000


def read_device(n: int) -> float:
    """Stands for a call that blocks until the device has its next reading."""
    if n % 20 == 0:
        time.sleep(0.005)  # in the driver's own thread, which may block
    return 20 + n // 100 / 10


def drive(on_reading: Callable[[float], object]) -> None:
    """Stands for a driver, which reads the device in its own thread and calls you back there."""
    with suppress(QueueShutDown):  # the pipeline takes no more
        for n in range(READINGS):
            on_reading(read_device(n))


@producer
def readings() -> Iterator[float]:
    for n in range(READINGS):
        yield read_device(n)


@consumer(batch=Batch(100))
async def average(recent: list[float]) -> None:
    print(f"mean of {len(recent)} readings: {fmean(recent):.1f} °C")


pipeline = readings >> average


async def main() -> None:
    running: Running[float, None]
    async with Pipeline(average) as running:
        driver = Thread(target=drive, args=[running.put_from_thread])
        driver.start()
        await asyncio.to_thread(driver.join)
    if report := running.report:
        print(f"{report.produced} readings taken, {report.done} handled")


if __name__ == "__main__":
    asyncio.run(main())
