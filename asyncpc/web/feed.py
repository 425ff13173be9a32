"""``Feed``: snapshots that all clients share, made when one of them wants a newer one.

So nobody looks while nobody watches, and five clients cost a run what one costs. A client that is slow is late for some
snapshots, and gets the newest one when it asks again.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final, NamedTuple

import anyio
from anyio import to_thread

__all__ = ["EVERY", "Feed", "Snapshot"]

EVERY: Final = 0.5
"""Seconds between two snapshots, at least."""

LOOK_AGAIN: Final = 0.1
"""Seconds after which a client looks whether another one has got the snapshot that it waits for."""


class Snapshot(NamedTuple):
    """What there is to see at one moment."""

    number: int
    """They are numbered from 1."""
    text: bytes
    """JSON, on one line."""


class Feed:
    """See the module. ``make`` is called in a thread, since it waits for the loops of runs."""

    def __init__(self, make: Callable[[], bytes]) -> None:
        self._make = make
        self._latest = Snapshot(0, b"")
        self._due = 0.0  # seconds of the monotonic clock
        self._is_making = False

    @property
    def upcoming(self) -> int:
        """The number of a snapshot that begins later than now; may be asked in any thread."""
        is_making = self._is_making  # first: one that is ready meanwhile has its number already
        return self._latest.number + (2 if is_making else 1)

    async def after(self, number: int) -> Snapshot:
        """The newest snapshot, as soon as there is one after that of this number."""
        while self._latest.number <= number:
            wait = self._due - monotonic()
            if self._is_making or wait > 0:
                await anyio.sleep(max(wait, LOOK_AGAIN) if not self._is_making else LOOK_AGAIN)
            else:
                await self._make_one()
        return self._latest

    async def now(self) -> Snapshot:
        """The newest snapshot, made now unless it is so new that nobody can have a newer one."""
        return await self.after(self._latest.number if monotonic() >= self._due else 0)

    async def _make_one(self) -> None:
        self._is_making = True
        try:
            text = await to_thread.run_sync(self._make, abandon_on_cancel=True)
            self._latest = Snapshot(self._latest.number + 1, text)
        finally:
            self._due = monotonic() + EVERY
            self._is_making = False
