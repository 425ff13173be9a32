"""How long the machine let a process wait for a processor: what must happen in time is late by that, too."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Final

__all__ = ["Stalls"]

LOOK: Final = 0.005
LATE: Final = 0.001
"""Seconds between two looks at the clock, and by how much the second may be late."""


class Stalls(threading.Thread):
    """Looks at the clock while the block runs, or else until the process ends."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: list[tuple[float, float]] = []
        """From when to when (monotonic) it had to wait; many short waits are as bad as a long one."""
        self._is_over = False

    def run(self) -> None:
        """Look, and look again."""
        while not self._is_over:
            began = time.monotonic()
            time.sleep(LOOK)
            ended = time.monotonic()
            if ended - began > LOOK + LATE:
                self.seen.append((began + LOOK, ended))

    def within(self, begin: float, end: float) -> float:
        """Seconds of that time that it had to wait."""
        return sum(max(0.0, min(end, ended) - max(begin, began)) for began, ended in self.seen)

    def __enter__(self) -> Stalls:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_over = True
        self.join()
