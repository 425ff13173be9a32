"""``Place``: one of the processes, with those that replace it."""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import Final

from .spawned import Child

__all__ = ["CRASHES", "LONGEST", "Place"]

WINDOW: Final = 60.0
"""Seconds within which crashes are counted; a process that has lived so long has recovered."""

CRASHES: Final = 5
"""Crashes of one place within ``WINDOW`` that end all of it."""

LONGEST: Final = 30.0
"""Seconds before a process is replaced, at most."""


class Place:
    """See the module."""

    def __init__(self, number: int) -> None:
        self.number: int = number
        self.child: Child | None = None
        self.successor: Child | None = None
        """It runs already, and the child drains."""
        self.has_run: bool = False
        """Whether a process of it has begun, and was connected."""
        self._crashes: deque[float] = deque(maxlen=CRASHES)
        self._streak = 0

    def crashed(self, began: float, first_wait: float) -> float | None:
        """Seconds to wait before the next one; None if there were too many crashes."""
        now = monotonic()
        self._streak = 1 if now - began >= WINDOW else self._streak + 1
        self._crashes.append(now)
        if len(self._crashes) == CRASHES and now - self._crashes[0] < WINDOW:
            return None
        return min(LONGEST, first_wait * 2.0 ** (self._streak - 1))
