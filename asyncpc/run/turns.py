"""A loop and a thread beside it work one after the other, not side by side.

In CPython, two threads that have work cost far more than the work. A busy loop releases the GIL at each select, for a
few microseconds, and so wakes whoever waits for it, who comes too late and waits again: thousands of times, until it
has got it once. Meanwhile a run loses 15 % of its throughput, and the thread cannot help it, since without the GIL it
does nothing. So a thread beside a run sleeps until the loop wakes it, and the loop then waits without the GIL until the
thread has done its work.

Who wakes by itself, such as a server that gets a request, has no turn: ``watching.giving_way`` lets it in now and then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from threading import Event
from typing import Final

__all__ = ["Turns", "give_turn", "let_in"]

MOST: Final = 0.005
"""Seconds that a loop waits: far more than the work takes, unless it waits for something else, such as a terminal."""

FOLLOWS: Final = 3
"""Iterations of the other loop that belong to a turn: a callback, the tasks that it wakes, and those that they wake."""


def let_in(until: Event) -> None:
    """In a loop: let other threads have the GIL until then, or for five milliseconds."""
    until.wait(MOST)


class Turns:
    """Those of a loop and one thread, which draws or writes."""

    def __init__(self) -> None:
        self._is_turn = Event()
        self._rests = Event()
        self._has_ended = False

    def give(self) -> None:
        """In the loop: let the thread work, and wait for it.

        A thread that is still at work gets no further turn before it has rested.
        """
        if self._has_ended:
            return
        if self._rests.is_set():
            self._rests.clear()
            self._is_turn.set()
        let_in(self._rests)

    def wake(self) -> None:
        """Let the thread work, and do not wait."""
        self._is_turn.set()

    def rest(self, seconds: float) -> bool:
        """In the thread: wait for its turn, and return True, or False after so many seconds without one."""
        self._rests.set()
        is_turn = self._is_turn.wait(seconds)
        self._is_turn.clear()
        self._rests.clear()
        return is_turn

    def end(self) -> None:
        """In the thread: rest for ever."""
        self._has_ended = True
        self._rests.set()


def give_turn(loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
    """In one loop: let another one, in a thread of its own, do ``work`` and what follows from it, and wait for it."""
    done = Event()

    def follow(left: int) -> None:
        if left:
            loop.call_soon(follow, left - 1)
        else:
            done.set()

    def turn() -> None:
        try:
            work()
        finally:
            follow(FOLLOWS)

    with suppress(RuntimeError):  # it is closed
        loop.call_soon_threadsafe(turn)
        let_in(done)
