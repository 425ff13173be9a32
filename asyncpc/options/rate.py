"""What holds a handler's calls back or cuts them short: a timeout, a rate, a circuit breaker.

Each wraps an async function of an item in another one. They are made fresh for every run; a stage without limits has
none of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from math import inf
from typing import Any

from .retry import Breaker, Rate

__all__ = ["Circuit", "Handle", "Throttle", "Timeout"]

Handle = Callable[[Any], Awaitable[Any]]


class Timeout:
    """One worker's: cancels a call that takes longer than ``seconds``, with one timer for all of its calls.

    The timer is set when it is needed first, and when it fires too early because of a later call, set again: a call in
    time costs two reads of the loop's clock and no timer.
    """

    __slots__ = ("_expired", "_handle", "_left", "_loop", "_message", "_seconds", "_task", "_timer", "_until")

    def __init__(self, handle: Handle, seconds: float, stage: str) -> None:
        self._handle = handle
        self._seconds = seconds
        self._message = f"stage {stage!r}: the call took longer than timeout={seconds:g} seconds"
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None
        self._until = inf
        self._left = 0.0
        self._expired = False

    async def __call__(self, item: Any) -> Any:
        """The handler's value; raises ``TimeoutError``. A cancel from elsewhere stays a cancel."""
        self._until = self._loop.time() + self._seconds
        if self._timer is None:
            self._timer = self._loop.call_at(self._until, self._fire)
        try:
            return await self._handle(item)
        except asyncio.CancelledError:
            if self._expired and self._forget() == 0:
                raise TimeoutError(self._message) from None
            raise
        finally:
            self._until = inf
            if self._expired:  # the handler made something else of its cancellation
                self._forget()

    def hold(self) -> None:
        """Stop the clock: a value of the handler waits for room, which is no fault of its."""
        self._left = self._until - self._loop.time()
        self._until = inf

    def go_on(self) -> None:
        """Let the clock run again, if a call is under way."""
        self._until = self._loop.time() + self._left
        if self._timer is None and self._left < inf:
            self._timer = self._loop.call_at(self._until, self._fire)

    def close(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _fire(self) -> None:
        if self._until <= self._loop.time():
            self._timer = None
            self._expired = True
            assert self._task is not None
            self._task.cancel()
        else:
            self._timer = None if self._until == inf else self._loop.call_at(self._until, self._fire)

    def _forget(self) -> int:
        """Take back the cancellation asked for; how many are left that others asked for."""
        self._expired = False
        assert self._task is not None
        return self._task.uncancel()


class Throttle:
    """One stage's: lets calls begin no faster than its :class:`~asyncpc.Rate`, which may be changed at any time."""

    __slots__ = ("_due", "_sweep_at", "rate")

    def __init__(self, rate: Rate) -> None:
        self.rate: Rate = rate
        self._due: dict[Hashable, float] = {}  # by key, when the next call is due if none comes early (loop time)
        self._sweep_at = 1000

    def set(self, rate: Rate) -> None:
        """Another rate from now on; calls that wait already keep their turn."""
        self.rate = rate

    def limit(self, handle: Handle) -> Handle:
        """``handle``, begun in turn."""

        async def limited(item: Any) -> Any:
            seconds = self._reserve(item)
            if seconds > 0:
                await asyncio.sleep(seconds)
            return await handle(item)

        return limited

    def _reserve(self, item: Any) -> float:
        """Take the next free moment, and return the seconds until then; a cancelled call leaves it unused."""
        rate, now = self.rate, asyncio.get_running_loop().time()
        key = None if rate.key is None else rate.key(item)
        interval = rate.per / rate.n
        due = self._due.get(key, now)
        begin = max(now, due - (rate.burst - 1) * interval)
        self._due[key] = max(due, begin) + interval
        if len(self._due) > self._sweep_at:
            self._due = {key: due for key, due in self._due.items() if due > now}  # the others are as good as new
            self._sweep_at = 1000 + 2 * len(self._due)
        return begin - now


class Circuit:
    """One stage's: closed while calls succeed, open after too many failures in a row, tried with one call at a time."""

    __slots__ = ("_breaker", "_failures", "_open_until", "_tried")

    def __init__(self, breaker: Breaker) -> None:
        self._breaker = breaker
        self._failures = 0
        self._open_until = -inf
        self._tried: asyncio.Event | None = None  # set when the call that tries has ended

    def guard(self, handle: Handle) -> Handle:
        """``handle``, which waits while the circuit is open."""

        async def guarded(item: Any) -> Any:
            tries = self._failures >= self._breaker.failures and await self._let_through()
            try:
                value = await handle(item)
            except Exception:
                self._failures += 1
                if self._failures >= self._breaker.failures:
                    self._open_until = asyncio.get_running_loop().time() + self._breaker.reset_after
                raise
            else:
                self._failures = 0
                return value
            finally:
                if tries:
                    assert self._tried is not None
                    self._tried.set()
                    self._tried = None

        return guarded

    async def _let_through(self) -> bool:
        """Wait until the circuit is closed (False), or until it is the caller's turn to try (True)."""
        loop = asyncio.get_running_loop()
        while self._failures >= self._breaker.failures:
            if self._tried is not None:
                await self._tried.wait()
            elif (rest := self._open_until - loop.time()) > 0:
                await asyncio.sleep(rest)
            else:
                self._tried = asyncio.Event()
                return True
        return False
