"""``Line``: coroutines that wait for the same thing, first come, first woken.

A wake-up is only a hint: whoever is woken looks again, and may have to stand in line once more. So nothing is handed
over with a wake-up, and a waiter that is cancelled can lose nothing but the hint, which it passes on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from types import coroutine
from typing import Any

__all__ = ["Line", "pause"]


@coroutine
def pause() -> Generator[None, None, None]:
    """Let every other task that is ready run once; as ``asyncio.sleep(0)``, without its question for the delay."""
    yield


class Line(deque[Any]):
    """The futures of those who wait, and how long they did; a deque, since asyncio's queue keeps its waiters in one.

    A :class:`Reserve` may stand last in it.
    ``pass_on`` is called when someone was woken, but cancelled before it ran: what it was woken for is still there.
    """

    __slots__ = ("_dismissed", "_pass_on", "_reserve", "_seconds", "on_wait", "waiting", "waking")

    def __init__(self, pass_on: Callable[[], None]) -> None:
        self._pass_on = pass_on
        self._reserve: Reserve | None = None
        self.waking: int = 0
        """How many were woken and have not run yet."""
        self.waiting: int = 0
        """How many wait, those who were woken and those in reserve included."""
        self.on_wait: Callable[[], None] | None = None
        """Called when one more waits."""
        self._dismissed = 0  # who never came
        self._seconds = 0.0  # of all waits: their ends (so far) less their beginnings

    def wake(self, most: int = 1) -> int:
        """Wake the first ``most`` who still wait, and return how many those were; a plain function."""
        woken = 0
        while woken < most and self:
            if self._reserve is not None and self[0] is self._reserve:
                self._reserve.call_one()
            else:
                waiter = self.popleft()
                if waiter.done():  # it was cancelled, and has not run since
                    continue
                waiter.set_result(None)
                self.waking += 1
            woken += 1
        return woken

    async def stand(self, loop: asyncio.AbstractEventLoop, deadline: float | None = None, first: bool = False) -> None:
        """Wait until woken, as the last or ``first`` in line; ``TimeoutError`` at ``deadline`` (loop time).

        *Cancel safety*: leaves the line at once (fault A16) and passes on a wake-up it was given (faults A2, A3).
        """
        waiter = loop.create_future()
        if first:
            self.appendleft(waiter)
        elif self._reserve is None:
            self.append(waiter)
        else:
            self.insert(len(self) - 1, waiter)
        timer = None if deadline is None else loop.call_at(deadline, self._expire, waiter)
        self.waiting += 1
        self._seconds -= loop.time()
        if self.on_wait is not None:
            self.on_wait()
        try:
            await waiter
            self.waking -= 1
        except BaseException:
            self._leave(waiter)
            raise
        finally:
            self.waiting -= 1
            self._seconds += loop.time()
            if timer is not None:
                timer.cancel()

    def reserve(self, count: int, call: Callable[[], None], now: float) -> None:
        """Let ``count`` more wait, behind all others, who need not exist before ``call`` calls for one of them.

        They wait from ``now`` (loop time) until then.
        """
        self.waiting += count
        self._seconds -= count * now
        if self._reserve is None:
            self._reserve = Reserve(self, 0, call)
            self.append(self._reserve)
        self._reserve.left += count

    def discharge(self, most: int, now: float) -> int:
        """Take up to ``most`` out of the reserve again, and return how many those were."""
        count = min(most, self._reserve.left) if self._reserve is not None else 0
        if count:
            assert self._reserve is not None
            self._reserve.left -= count
            self.waiting -= count
            self._seconds += count * now
            if self._reserve.left == 0:
                self.remove(self._reserve)
                self._reserve = None
        return count

    def called(self, now: float) -> None:
        """One of the reserve has come into being."""
        self.waiting -= 1
        self._seconds += now

    def dismiss(self) -> int:
        """Call for no more of the reserve, and return how many that were; their seconds go on."""
        if self._reserve is None:
            return 0
        self.remove(self._reserve)
        left, self._reserve = self._reserve.left, None
        self.waiting -= left
        self._dismissed += left
        return left

    def seconds(self, now: float) -> float:
        """Seconds waited so far, summed over all who did; exact also while they wait."""
        return max(0.0, self._seconds + (self.waiting + self._dismissed) * now)  # it rounds, and may round below

    def _leave(self, waiter: asyncio.Future[None]) -> None:
        with suppress(ValueError):  # whoever woke it has taken it out already
            self.remove(waiter)
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self.waking -= 1
            self._pass_on()

    def _expire(self, waiter: asyncio.Future[None]) -> None:
        """Time is up for a waiter that was not woken; one that was keeps its wake-up (faults A5, A6)."""
        if not waiter.done():
            self.remove(waiter)
            waiter.set_exception(TimeoutError("time is up"))


class Reserve:
    """Stands last in a line for all who need not exist yet."""

    __slots__ = ("_call", "_line", "left")

    def __init__(self, line: Line, left: int, call: Callable[[], None]) -> None:
        self._line = line
        self._call = call
        self.left: int = left

    def call_one(self) -> None:
        """Call for one, who counts as woken until it runs; with the last one it leaves the line."""
        self.left -= 1
        self._line.waking += 1
        if self.left == 0:
            self._line.remove(self)
            self._line._reserve = None
        self._call()
