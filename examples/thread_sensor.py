"""A sensor whose driver calls back from a thread of its own: its readings enter a pipeline from there.

Run it::

    python examples/thread_sensor.py               or        asyncpc run examples.thread_sensor:pipeline

Expect, after half a second::

    10 means of 100 readings each
    lowest mean 20.0 °C, highest mean 20.9 °C
    1000 readings taken, 1000 handled

``put_from_thread`` waits while the pipeline is full, so a driver that is too fast is held up, and no reading is lost.
Under ``asyncpc run`` the same driver is read by a ``@producer`` that blocks.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterator

from asyncpc import Pipeline, Running, consumer, producer

READINGS = 1000


class Driver:
    """Stands for a library that reads a device in its own thread and calls you back from there."""

    def __init__(self, on_reading: Callable[[float], object]) -> None:
        self._on_reading = on_reading
        self._thread = threading.Thread(target=self._read)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def _read(self) -> None:
        for n in range(READINGS):
            self._on_reading(20 + n // 100 / 10)
            if n % 20 == 19:
                time.sleep(0.01)  # the device's pace; this is its own thread, so no loop is held up


@producer
def readings() -> Iterator[float]:
    arrived: queue.Queue[float] = queue.Queue(maxsize=100)
    driver = Driver(arrived.put)
    driver.start()
    for _ in range(READINGS):
        yield arrived.get()  # blocks; this is a thread, and not the loop's
    driver.join()


class Means:
    def __init__(self) -> None:
        self.recent: list[float] = []
        self.means: list[float] = []

    def add(self, reading: float) -> None:
        self.recent.append(reading)
        if len(self.recent) == 100:
            self.means.append(sum(self.recent) / 100)
            self.recent.clear()


means = Means()


@consumer
async def average(reading: float) -> None:
    means.add(reading)


pipeline = readings >> average


async def main() -> None:
    running: Running[float, None]
    async with Pipeline(average) as running:
        driver = Driver(running.put_from_thread)
        driver.start()
        await asyncio.to_thread(driver.join)
    print(f"{len(means.means)} means of 100 readings each")
    print(f"lowest mean {min(means.means):.1f} °C, highest mean {max(means.means):.1f} °C")
    if report := running.report:
        print(f"{report.produced} readings taken, {report.done} handled")


if __name__ == "__main__":
    asyncio.run(main())
