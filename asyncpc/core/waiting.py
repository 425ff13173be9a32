"""``WaitQueue``: coroutines that wait for the same thing, first come, first woken.

A wake-up is only a hint: a waiter that is woken looks again, and may have to wait once more. No item travels with a
wake-up, so a waiter that is cancelled can lose nothing but the hint, and that it passes on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from time import perf_counter
from types import coroutine
from typing import Any, Final, NoReturn

__all__ = ["BUDGET", "TIME_SLICE", "Budget", "WaitQueue", "Waits", "checkpoint", "nobody", "obey_cancel"]

BUDGET: Final = 128
"""Items that a loop moves without letting others run (invariant 10)."""

TIME_SLICE: Final = 0.0005
"""Seconds after which a loop lets others run, at its next look at the clock."""


def nobody(*_: object) -> None:
    """Stands for what was to be called, once a run has ended and nobody needs to hear of it: it leads nowhere."""


@coroutine
def checkpoint() -> Generator[None, None, None]:
    """Let every other task that is ready run once, like ``asyncio.sleep(0)`` without its check of the delay."""
    yield


async def obey_cancel() -> NoReturn:
    """Raise the cancel of the calling task: one that was swallowed, or one that Python has not delivered yet.

    Python delivers at the next ``await`` what the task's own code asked for: that must not be one of the clean-up.
    """
    await checkpoint()
    raise asyncio.CancelledError


class WaitQueue(deque[Any]):
    """The futures of waiters, and how long they waited; a deque, since asyncio's queue keeps its waiters in one.

    Spare workers may wait in it too, behind all others: they need not exist before they are woken. ``pass_on`` is
    called when a waiter was woken, but cancelled before it ran: what it was woken for is still there.
    """

    __slots__ = ("_dropped", "_pass_on", "_seconds", "_spares", "on_wait", "waiting", "waking")

    def __init__(self, pass_on: Callable[[], None]) -> None:
        self._pass_on = pass_on
        self._spares: _Spares | None = None
        self.waking: int = 0
        """How many were woken and have not run yet."""
        self.waiting: int = 0
        """How many wait, including spare workers and waiters that were woken."""
        self.on_wait: Callable[[], None] | None = None
        """Called when one more waits."""
        self._dropped = 0  # spare workers that never started
        self._seconds = 0.0  # of all waits: their ends (so far) less their beginnings

    def wake(self, most: int = 1) -> int:
        """Wake the first ``most`` waiters that still wait; return how many were woken. A plain function."""
        woken = 0
        while woken < most and self:
            if self._spares is not None and self[0] is self._spares:
                self._start_spare(self._spares)
            else:
                waiter = self.popleft()
                if waiter.done():  # it was cancelled, and has not run since
                    continue
                waiter.set_result(None)
                self.waking += 1
            woken += 1
        return woken

    async def wait(self, loop: asyncio.AbstractEventLoop, deadline: float | None = None, first: bool = False) -> None:
        """Wait until woken, as the last or ``first`` in the queue; ``TimeoutError`` at ``deadline`` (loop time).

        *Cancel safety*: leaves the queue at once (fault A16) and passes on a wake-up it was given (faults A2, A3).
        """
        waiter = loop.create_future()
        if first:
            self.appendleft(waiter)
        elif self._spares is None:
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

    def call(self, function: Callable[[], None]) -> None:
        """Let ``function`` wait, as the last in the queue: it is called where a coroutine would be woken.

        A coroutine would run only in the loop's next iteration; this is for a caller that must know at once. It does
        not count as waiting.
        """
        self.append(_Callback(self, function))

    def add_spares(self, count: int, start: Callable[[], None], now: float) -> None:
        """Let ``count`` spare workers wait from ``now`` (loop time) on; ``start`` is called for each that is woken."""
        self.waiting += count
        self._seconds -= count * now
        if self._spares is None:
            self._spares = _Spares(start)
            self.append(self._spares)
        self._spares.left += count

    def start_spares(self, most: int) -> None:
        """Wake up to ``most`` spare workers, whoever waits before them."""
        while most and self._spares is not None:
            self._start_spare(self._spares)
            most -= 1

    def remove_spares(self, most: int, now: float) -> int:
        """Take out up to ``most`` spare workers again, and return how many those were."""
        spares = self._spares
        count = min(most, spares.left) if spares is not None else 0
        if count and spares is not None:
            spares.left -= count
            self.waiting -= count
            self._seconds += count * now
            if spares.left == 0:
                self._forget_spares(spares)
        return count

    def spare_started(self, now: float) -> None:
        """One of the spare workers that were woken exists now."""
        self.waiting -= 1
        self._seconds += now

    def drop_spares(self) -> int:
        """Start no more spare workers, and return how many were left; their seconds go on."""
        spares = self._spares
        if spares is None:
            return 0
        self._forget_spares(spares)
        self.waiting -= spares.left
        self._dropped += spares.left
        return spares.left

    def forget_owner(self) -> None:
        """Nobody will wait here any more, so whoever owns it need not hear of anything."""
        self._pass_on, self.on_wait = nobody, None

    def seconds(self, now: float) -> float:
        """Seconds waited so far, summed over all waiters; exact also while they wait."""
        return max(0.0, self._seconds + (self.waiting + self._dropped) * now)  # it rounds, and may round below

    def _start_spare(self, spares: _Spares) -> None:
        """Call for one, which counts as woken until it runs."""
        spares.left -= 1
        self.waking += 1
        if spares.left == 0:
            self._forget_spares(spares)
        spares.start()

    def _forget_spares(self, spares: _Spares) -> None:
        self.remove(spares)
        self._spares = None

    def _leave(self, waiter: asyncio.Future[None]) -> None:
        with suppress(ValueError):  # the one who woke it has removed it already
            self.remove(waiter)
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self.waking -= 1
            self._pass_on()

    def _expire(self, waiter: asyncio.Future[None]) -> None:
        """Time is up for a waiter that was not woken; one that was keeps its wake-up (faults A5, A6)."""
        if not waiter.done():
            self.remove(waiter)
            waiter.set_exception(TimeoutError("time is up"))


class _Callback:
    """Stands in the queue as the future of a waiter does."""

    __slots__ = ("_function", "_queue")

    def __init__(self, queue: WaitQueue, function: Callable[[], None]) -> None:
        self._queue = queue
        self._function = function

    def done(self) -> bool:
        return False

    def set_result(self, result: None) -> None:
        self._queue.waking -= 1  # it has run when it is counted
        self._function()


class _Spares:
    """Stands last in the queue for all workers that need not exist yet."""

    __slots__ = ("left", "start")

    def __init__(self, start: Callable[[], None]) -> None:
        self.start: Callable[[], None] = start
        self.left: int = 0


class Waits:
    """Seconds that several waiters have waited for something, exact also while they wait."""

    __slots__ = ("_seconds", "_waiting")

    def __init__(self) -> None:
        self._waiting = 0
        self._seconds = 0.0  # of all waits: their ends (so far) less their beginnings

    def begin(self, now: float) -> None:
        """One more waits, from ``now`` (loop time) on."""
        self._waiting += 1
        self._seconds -= now

    def end(self, now: float) -> None:
        """One of them waits no more."""
        self._waiting -= 1
        self._seconds += now

    def seconds(self, now: float) -> float:
        """Seconds waited so far, summed over all waiters."""
        return max(0.0, self._seconds + self._waiting * now)


class Budget:
    """What a loop may do before it lets others run: 128 items, or half a millisecond (invariant 10)."""

    __slots__ = ("_left", "_until")

    def __init__(self) -> None:
        self._left = BUDGET
        self._until = perf_counter() + TIME_SLICE

    def is_spent(self) -> bool:
        """Whether it is, with one item more; the clock is read once for eight of them."""
        self._left -= 1
        return self._left <= 0 or (self._left % 8 == 0 and perf_counter() > self._until)

    async def renew(self) -> None:
        """Let others run."""
        await checkpoint()
        self._left, self._until = BUDGET, perf_counter() + TIME_SLICE
