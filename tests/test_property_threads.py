"""Threads that put beside callers in the loop, in real time: each item is handled once, and in its producer's order.

In virtual time threads take turns with the loop (:mod:`scenarios`); here nothing says who comes when.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest
from support import switching_often

from asyncpc import Pipeline, QueueShutDown, Running, consumer

pytestmark = pytest.mark.realtime

EACH = 60
"""Items that each producer tries to put."""

Item = tuple[str, int]


@pytest.mark.parametrize("seed", range(8))
async def test_threads_and_the_loop_put_beside_each_other(seed: int) -> None:
    """Protects promises 1 and 4: what a ``put`` accepted is handled once and in order, also if a stop comes meanwhile.

    And the bound (fault H6): what is on its way from a thread counts for everybody.
    """
    rng = Random(seed)
    maxsize, stops_after = rng.choice([1, 2, 5, 32]), rng.choice([None, None, 1, 40])
    accepted: dict[str, list[int]] = {}
    handled: list[Item] = []
    enough = asyncio.Event()

    @consumer(concurrency=rng.randint(1, 3))
    async def handle(item: Item) -> None:
        handled.append(item)
        if len(handled) == stops_after:
            enough.set()
        await asyncio.sleep(0)

    with switching_often():
        async with Pipeline(handle, maxsize=maxsize) as running:
            threads, callers = _names(rng, "thread"), _names(rng, "caller")
            putting = asyncio.gather(
                *(asyncio.to_thread(_put_from_thread, running, name, accepted) for name in threads),
                *(_put(running, name, accepted) for name in callers),
            )
            if stops_after is not None:
                await enough.wait()
                running.stop()
            await putting
    report = running.report
    assert report is not None
    assert report.complete
    given = {name: [number for origin, number in handled if origin == name] for name in accepted}
    assert given == accepted
    assert report.produced == report.done == sum(map(len, accepted.values()))
    assert report.stages[0].peak_queued <= maxsize


def _names(rng: Random, kind: str) -> list[str]:
    return [f"{kind} {number}" for number in range(rng.randint(1, 3))]


def _put_from_thread(running: Running[Any, Any], name: str, accepted: dict[str, list[int]]) -> None:
    rng, taken = Random(name), accepted.setdefault(name, [])
    for number in range(EACH):
        try:
            running.put_from_thread((name, number), timeout=rng.choice([None, None, 0, 0.001]))
        except TimeoutError:
            continue
        except QueueShutDown:
            return
        taken.append(number)


async def _put(running: Running[Any, Any], name: str, accepted: dict[str, list[int]]) -> None:
    rng, taken = Random(name), accepted.setdefault(name, [])
    for number in range(EACH):
        try:
            if rng.random() < 0.4:
                running.put_nowait((name, number))
            else:
                await running.put((name, number), timeout=rng.choice([None, None, 0, 0.001]))
        except (TimeoutError, asyncio.QueueFull):
            await asyncio.sleep(0)
            continue
        except QueueShutDown:
            return
        taken.append(number)
