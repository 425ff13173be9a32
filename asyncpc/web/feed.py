"""``Feed``: snapshots that all clients share, made when one of them wants a newer one.

So nobody looks while nobody watches, and five clients cost a run what one costs. A client that is slow is late for some
snapshots, and gets the newest one when it asks again.

A run in another loop tells when there is something new, and makes room for it (``run.turns``); only where no run
tells anything, such as in a loop that is blocked, a client asks by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Final, NamedTuple

import anyio
from anyio import to_thread

from ..run.turns import give_turn

__all__ = ["EVERY", "Feed", "Snapshot"]

EVERY: Final = 0.5
"""Seconds between two snapshots, at least."""

PATIENCE: Final = 0.75
"""Seconds after news of a run, until clients no longer wait for the next."""

EARLY: Final = 0.1
"""Seconds by which news may come sooner than they should: two timers are never quite alike."""


class Snapshot(NamedTuple):
    """What there is to see at one moment."""

    number: int
    """They are numbered from 1."""
    text: bytes
    """JSON, on one line."""


class Feed:
    """See the module. ``make`` is called in a thread, since it waits for the loops of runs.

    ``make(True)`` does not wait: what they have told last will do.
    """

    def __init__(self, make: Callable[[bool], bytes]) -> None:
        self._make = make
        self._latest = Snapshot(0, b"")
        self._made = self._due = 0.0  # seconds of the monotonic clock
        self._is_making = False
        self._has_ended = False
        self._changed = anyio.Event()
        self._waiting = 0  # clients
        self._loop: asyncio.AbstractEventLoop | None = None  # theirs

    @property
    def upcoming(self) -> int:
        """The number of a snapshot that begins later than now; may be asked in any thread."""
        is_making = self._is_making  # first: one that is ready meanwhile has its number already
        return self._latest.number + (2 if is_making else 1)

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for a snapshot; may be asked in any thread."""
        return self._waiting > 0

    async def after(self, number: int) -> Snapshot:
        """The newest snapshot, as soon as there is one after that of this number."""
        while self._latest.number <= number:
            wait = self._due - monotonic()
            if self._is_making or wait > 0:
                await self._change(None if self._is_making else wait)
            else:
                await self._make_one()
        return self._latest

    async def now(self) -> Snapshot:
        """The newest snapshot, made now unless it is so new that nobody can have a newer one."""
        return await self.after(self._latest.number if monotonic() >= self._made + EVERY else 0)

    def tell(self) -> None:
        """Let clients see what a run has told just now; it is called in the loop of the run, which waits for that."""
        loop = self._loop
        if loop is not None and self._waiting and loop is not asyncio._get_running_loop():
            give_turn(loop, self._take_news)

    def end(self) -> int:
        """Make one more snapshot at once, of what there is to see from now on; may be called in any thread."""
        self._has_ended = True  # first, since news may be under way
        number = self.upcoming
        if self._loop is not None:
            with suppress(RuntimeError):  # it is closed
                self._loop.call_soon_threadsafe(self._hurry)
        return number

    async def _change(self, seconds: float | None) -> None:
        self._loop = asyncio._get_running_loop()
        self._waiting += 1
        try:
            with anyio.move_on_after(seconds):
                await self._changed.wait()
        finally:
            self._waiting -= 1

    def _take_news(self) -> None:
        if self._is_making:
            return
        if monotonic() < self._made + EVERY - EARLY:
            self._due = monotonic() + PATIENCE  # the next ones come in time
            return
        self._is_making = True
        try:
            if not self._has_ended:
                self._latest = Snapshot(self._latest.number + 1, self._make(True))
        finally:
            self._is_made(PATIENCE)

    async def _make_one(self) -> None:
        self._is_making = True
        try:
            text = await to_thread.run_sync(self._make, False, abandon_on_cancel=True)
            self._latest = Snapshot(self._latest.number + 1, text)
        finally:
            self._is_made(EVERY)

    def _is_made(self, seconds: float) -> None:
        self._made = monotonic()
        self._due = self._made + (0.0 if self._has_ended else seconds)
        self._is_making = False
        self._wake()

    def _hurry(self) -> None:
        self._due = 0.0
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
