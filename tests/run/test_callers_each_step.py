"""Many callers of ``put`` and ``call`` at a small queue, disturbed at each step: each knows what its item became.

A caller may be cancelled in the very moment in which it has been woken for a free place; if that place were lost, the
others would wait for ever, and the loop of these runs would say so (faults A2 to A6).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from functools import partial
from itertools import count
from typing import Any

import pytest
from stepping import Play, problems, steps
from support import EAGER

from asyncpc import Batch, Pipeline, QueueShutDown, Running, consumer

DEEDS = ("kill", "kill many", "kill most", "stop", "drain", "cancel", "abort")


class Callers(Play):
    """As many callers as were asked for, each with items of its own, and a stage of two workers."""

    def __init__(
        self, deed: str, at: int, eager: bool, way: str, callers: int, maxsize: int, batch: Batch | None
    ) -> None:
        super().__init__(deed, at, eager)
        self.way, self.callers = way, callers
        self.tasks: list[asyncio.Task[None]] = []
        self.seen: list[int] = []
        self.accepted: set[int] = set()  # what became of each item, as its caller knows it
        self.refused: set[int] = set()
        self.unknown: set[int] = set()
        self.troubles: list[str] = []
        options: dict[str, Any] = {} if batch is None else {"batch": batch}
        handle = consumer(concurrency=2, maxsize=maxsize, **options)(
            self._handle if batch is None else self._handle_all
        )
        self.pipeline = Pipeline(handle, drain_timeout=1.0)

    async def _handle(self, item: int) -> int:
        if item % 4 == 1:  # the others are handled without a wait
            await steps(item % 3 + 1)
        self.seen.append(item)
        return -item

    async def _handle_all(self, items: list[int]) -> list[int]:
        if len(items) > 3:
            self.troubles.append(f"a batch of {items}")
        if items[0] % 4 == 1:
            await steps(2)
        self.seen.extend(items)
        return [-item for item in items]

    async def use(self, running: Running[Any, Any]) -> None:
        make = asyncio.get_running_loop().create_task
        self.tasks = [make(self._call_with(running, first)) for first in range(self.callers)]
        for outcome in await asyncio.gather(*self.tasks, return_exceptions=True):
            if isinstance(outcome, Exception):  # a cancel is no Exception
                self.troubles.append(f"a caller got {outcome!r}")

    async def _call_with(self, running: Running[Any, Any], first: int) -> None:
        for item in first, first + 1000:
            try:
                if self.puts(item):
                    await running.put(item, 5.0 if item % 5 == 0 else None)
                elif (result := await running.call(item, 5.0 if item % 5 == 0 else None)) != -item:
                    self.troubles.append(f"the call of {item} had {result}")
            except QueueShutDown:
                self.refused.add(item)
            except asyncio.CancelledError:
                (self.refused if self.puts(item) else self.unknown).add(item)
                raise
            else:
                self.accepted.add(item)

    def puts(self, item: int) -> bool:
        return self.way == "put" or (self.way == "both" and item % 2 == 1)

    def victims(self) -> list[asyncio.Task[Any]]:
        return [task for task in self.tasks if not task.done()]

    def disturb(self) -> None:
        if self.deed == "kill many":
            for task in self.victims()[self.at % 2 :: 2]:
                task.cancel()
        elif self.deed == "kill most":
            for task in self.victims()[:-4]:
                task.cancel()
        else:
            super().disturb()

    def wrong(self) -> list[str]:
        if self.running is None:
            return []
        run = self.running._run
        report = run.outcome.report
        if report is None:
            return ["there is no report"]
        left = [one.item for one in report.unfinished]
        ended, known = Counter([*self.seen, *left]), self.accepted | self.refused | self.unknown
        found = [*self.troubles, *([repr(run.outcome.breach)] if run.outcome.breach is not None else [])]
        found += [f"{item} ended {times} times" for item, times in ended.items() if times > 1]
        found += [f"{item} was accepted, and vanished" for item in self.accepted - set(ended)]
        found += [f"{item} was handled for nobody" for item in set(ended) - known]
        taken = set(filter(self.puts, ended))
        found += [f"{item} was refused, and taken" for item in self.refused & taken]
        found += [f"the call of {item} was refused, and it was handled" for item in self.refused & set(self.seen)]
        found += [f"the call of {item} returned, and it was left" for item in self.accepted & set(left) - taken]
        if report.produced != len(ended):
            found.append(f"{report.produced} accepted, {len(ended)} handled or left")
        if self.deed in ("kill", "kill many", "kill most", "stop") and left:
            found.append(f"left: {left}")
        return found


SHAPES = {
    "one place": (40, 1, None),
    "room for all at once": (60, 40, None),
    "batches": (40, 6, Batch(3, within=0.01)),
    "what is there": (40, 6, Batch(3, within=0)),
    "full batches": (40, 8, Batch(3)),
}


def found_wrong(way: str, shape: str, every: int, eager: bool = False) -> dict[str, list[str]]:
    callers, maxsize, batch = SHAPES[shape]
    make = partial(Callers, eager=eager, way=way, callers=callers, maxsize=maxsize, batch=batch)
    return problems(make, DEEDS, every, count())


WAYS = [
    (way, shape)
    for shape in SHAPES
    for way in ("put", "call", "both")
    if (way, shape[:4]) not in [("call", "full"), ("both", "full")]
]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of runs fail on purpose."""
    caplog.set_level(logging.CRITICAL, logger="asyncpc")


@pytest.mark.parametrize(("way", "shape"), WAYS)
def test_callers_disturbed_at_some_steps(way: str, shape: str) -> None:
    """Protects whoever puts or calls: all or nothing, each item once, and no place that nobody is woken for."""
    assert found_wrong(way, shape, 53) == {}


@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.parametrize("eager", EAGER)
@pytest.mark.parametrize(("way", "shape"), WAYS)
def test_callers_disturbed_at_many_steps(way: str, shape: str, eager: bool) -> None:
    """Protects the same, at each third callback and with eager tasks."""
    assert found_wrong(way, shape, 3, eager) == {}
