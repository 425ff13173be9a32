"""Who works for a loop outside of it: threads, and processes through the threads that wait for them.

A loop with a clock of its own asks, before it lets time pass: what comes from outside comes at no time that the clock
knows. Nothing is counted for it on an item's way. Whoever starts threads knows already whether one of them has a call
to make, and says so when asked; a thread that waits for the loop is not at work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock, Thread
from typing import Final, Protocol, runtime_checkable
from weakref import WeakSet

__all__ = ["Call", "Employer", "OwnClock", "announce", "at_work", "begin_wait", "end_wait", "listed", "working"]

Worker = tuple[str, int | None]
"""Name and identity of a thread; no identity if it has not begun."""


class Employer(Protocol):
    """What has threads that work for a loop."""

    def at_work(self, loop: asyncio.AbstractEventLoop, /) -> Iterable[Worker]:
        """The threads from which the loop will hear, unless they wait for it.

        One that is listed leaves the list in the loop, or in the thread after it has called the loop.
        """
        ...


@runtime_checkable
class OwnClock(Protocol):
    """A loop whose clock is not the real one."""

    async def until_ended(self, threads: Sequence[Thread], /) -> None:
        """Wait for the end of threads, without time passing."""
        ...


_lock: Final = Lock()
_employers: Final[WeakSet[Employer]] = WeakSet()
_waiting: Final[set[int]] = set()
"""The threads that wait for a loop, by identity."""


def announce(employer: Employer) -> None:
    """Ask ``employer`` from now on, as long as it is there."""
    with _lock:
        _employers.add(employer)


def begin_wait(thread: int) -> None:
    """The thread of that identity waits for a loop from now on; the loop has been called, if it has to do something."""
    _waiting.add(thread)


def end_wait(thread: int) -> None:
    """It does not wait any more; said by whoever ends its wait, and before the thread goes on."""
    _waiting.discard(thread)


def at_work(loop: asyncio.AbstractEventLoop, ending: Iterable[Thread] = ()) -> list[str]:
    """The names of the threads that work for ``loop``, or are about to end, and do not wait for it."""
    with _lock:
        employers = list(_employers)
    workers = [worker for one in employers for worker in one.at_work(loop)] + listed(ending)
    return [name for name, thread in workers if thread not in _waiting]


def listed(threads: Iterable[Thread]) -> list[Worker]:
    """Threads as :meth:`Employer.at_work` gives them."""
    return [(thread.name, thread.ident) for thread in threads]


class Call:
    """A call that somebody else's thread, once it has begun, makes for ``loop``."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self.thread: int | None = None
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = loop
        announce(self)

    def at_work(self, loop: asyncio.AbstractEventLoop) -> Iterable[Worker]:
        """See ``Employer``."""
        return [(self._name, self.thread)] if self._loop is loop else ()

    def end(self) -> None:
        """The loop knows the result."""
        self._loop = None


@contextmanager
def working(name: str) -> Iterator[None]:
    """While the block waits for it, a thread of somebody else works for the running loop."""
    call = Call(name, asyncio.get_running_loop())
    try:
        yield
    finally:
        call.end()
