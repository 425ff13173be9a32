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

__all__ = ["Line", "pause"]


@coroutine
def pause() -> Generator[None, None, None]:
    """Let every other task that is ready run once; as ``asyncio.sleep(0)``, without its question for the delay."""
    yield


class Line(deque[asyncio.Future[None]]):
    """The futures of those who wait, and how long they did; a deque, since asyncio's queue keeps its waiters in one.

    ``pass_on`` is called when someone was woken, but cancelled before it ran: what it was woken for is still there.
    """

    __slots__ = ("_pass_on", "_seconds", "_waiting", "waking")

    def __init__(self, pass_on: Callable[[], None]) -> None:
        super().__init__()
        self._pass_on = pass_on
        self.waking: int = 0
        """How many were woken and have not run yet."""
        self._waiting = 0  # how many wait, those woken included
        self._seconds = 0.0  # of all waits: their ends (so far) less their beginnings

    def wake(self, most: int = 1) -> int:
        """Wake the first ``most`` who still wait, and return how many those were; a plain function."""
        woken = 0
        while woken < most and self:
            waiter = self.popleft()
            if not waiter.done():  # or it was cancelled, and has not run since
                waiter.set_result(None)
                woken += 1
        self.waking += woken
        return woken

    async def stand(self, loop: asyncio.AbstractEventLoop, deadline: float | None = None) -> None:
        """Wait until woken; ``TimeoutError`` at ``deadline`` (loop time).

        *Cancel safety*: leaves the line at once (fault A16) and passes on a wake-up it was given (faults A2, A3).
        """
        waiter = loop.create_future()
        self.append(waiter)
        timer = None if deadline is None else loop.call_at(deadline, self._expire, waiter)
        self._waiting += 1
        self._seconds -= loop.time()
        try:
            await waiter
            self.waking -= 1
        except BaseException:
            self._leave(waiter)
            raise
        finally:
            self._waiting -= 1
            self._seconds += loop.time()
            if timer is not None:
                timer.cancel()

    def seconds(self, now: float) -> float:
        """Seconds waited so far, summed over all who did; exact also while they wait."""
        return self._seconds + self._waiting * now

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
