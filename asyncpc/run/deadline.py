"""``Deadline``: the time at which a run loses its patience. It may come earlier than was said, never later."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

from ..core.waiting import nobody

__all__ = ["GRACE", "Deadline"]

GRACE: Final = 0.04
"""Seconds from the first cancel to the second, and from that to giving up: below the 100 ms promised."""


class Deadline:
    """Calls ``passed`` in the loop when its time has come; before the first :meth:`limit` it has none."""

    __slots__ = ("_at", "_loop", "_passed", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, passed: Callable[[], None]) -> None:
        self._loop = loop
        self._passed = passed
        self._timer: asyncio.TimerHandle | None = None
        self._at = math.inf  # kept here, since a handle of uvloop that has fired cannot say it

    def limit(self, seconds: float) -> None:
        """Bring it forward to ``seconds`` from now; it is never postponed."""
        when = self._loop.time() + max(0.0, seconds)
        if when < self._at:
            self._set(when)

    def renew(self, seconds: float = GRACE) -> None:
        """Let it pass once more, ``seconds`` from now: what was cancelled has that long to obey."""
        self._set(self._loop.time() + max(0.0, seconds))

    def close(self) -> None:
        """Let it pass no more, whatever limit is set later."""
        if self._timer is not None:
            self._timer.cancel()
        self._at = -math.inf
        self._passed = nobody

    def _set(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at = when
        self._timer = self._loop.call_at(when, self._passed)
