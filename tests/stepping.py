"""A run that is disturbed at one step of its loop: it is played undisturbed first, to count the callbacks.

Then it is played again for each of them, and something is done just before that one: the caller is cancelled, a task
of the run is cancelled from outside, the run is told to stop, or it has no time left to drain.
"""

from __future__ import annotations

import asyncio
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

from asyncpc import Pipeline, Running
from asyncpc.testing import VirtualLoop
from asyncpc.testing.clock import measuring_with

__all__ = ["Play", "problems", "steps"]


async def steps(count: int) -> None:
    """Wait for so many turns of the loop."""
    for _ in range(count):
        await asyncio.sleep(0)


class SteppingLoop(VirtualLoop):
    """Calls ``deed`` just before the callback of that number; counts the callbacks."""

    def __init__(self, at: int, deed: Callable[[], None]) -> None:
        super().__init__()
        self.count = 0
        self._at = at
        self._deed = deed

    def _run_once(self) -> None:
        ready: Any = self._ready  # type: ignore[attr-defined]  # asyncio's own deque of what it calls in this turn
        if self.count <= self._at < self.count + len(ready):
            ready.insert(self._at - self.count, asyncio.Handle(self._deed, (), self))
        self.count += len(ready)
        super()._run_once()  # type: ignore[misc]  # one turn


class Play(ABC):
    """One run, with a ``deed`` that is done to it just before the callback ``at``; all in virtual time."""

    pipeline: Pipeline[Any, Any]

    def __init__(self, deed: str, at: int, eager: bool) -> None:
        self.deed = deed
        self.at = at
        self.hit = False  # whether the deed cancelled something
        self.done_at: float | None = None
        self.running: Running[Any, Any] | None = None
        self.caller: asyncio.Task[None] | None = None
        self.error: BaseException | None = None
        """What the caller got."""
        self.loop = SteppingLoop(at, self.disturb)
        if eager and sys.version_info >= (3, 12):
            self.loop.set_task_factory(asyncio.eager_task_factory)

    @abstractmethod
    async def use(self, running: Running[Any, Any]) -> None:
        """What the caller does inside ``async with pipeline``."""

    @abstractmethod
    def victims(self) -> list[asyncio.Task[Any]]:
        """The tasks of which the deed ``kill`` cancels one."""

    @abstractmethod
    def wrong(self) -> list[str]:
        """What is wrong when all is over."""

    async def main(self) -> None:
        """Call the pipeline in a task of its own, and wait for it."""
        self.caller = asyncio.get_running_loop().create_task(self._call())
        await asyncio.wait([self.caller])

    async def _call(self) -> None:
        try:
            async with self.pipeline as running:
                self.running = running
                await self.use(running)
        except BaseException as error:
            self.error = error

    def disturb(self) -> None:
        """Do the deed."""
        if self.caller is None:
            return
        self.done_at = self.loop.time()
        if self.deed.startswith("cancel"):
            self.hit = self.caller.cancel()
            if self.deed == "cancel twice":
                self.loop.call_later(0, self.caller.cancel)
        elif self.deed == "kill":
            tasks = sorted(self.victims(), key=lambda task: task.get_name())
            self.hit = bool(tasks) and tasks[self.at % len(tasks)].cancel()
        elif self.deed == "abort" and self.running is not None:
            self.running._run.abort()
        elif self.deed in ("stop", "drain") and self.running is not None:
            self.running.stop(0 if self.deed == "drain" else None)

    def play(self) -> list[str]:
        """Run it to its end; what is wrong."""
        told: list[str] = []
        self.loop.set_exception_handler(lambda _, context: told.append(f"the loop was told: {context}"))
        looks = count()
        try:
            with measuring_with(lambda: self.loop.time() + 0.0003 * next(looks)):  # a time slice is two looks
                self.loop.run_until_complete(self.main())
            told += self.loop.timers(of="asyncpc")
        finally:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
        return [*told, *self.wrong()]


def problems(
    make: Callable[[str, int], Play], deeds: Sequence[str], every: int, beginnings: Iterator[int]
) -> dict[str, list[str]]:
    """What is wrong with the run that ``make`` makes, with each deed at one callback of so many."""
    undisturbed = make("nothing", -1)
    found = {"undisturbed": undisturbed.play()}
    for deed in deeds:
        for at in range(next(beginnings) % every, undisturbed.loop.count, every):
            found[f"{deed} at {at}"] = make(deed, at).play()
    return {what: wrong for what, wrong in found.items() if wrong}
