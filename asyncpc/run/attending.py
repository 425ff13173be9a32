"""What attends the sources of a run: it starts before them, and ends when all of their items have been settled.

A session with a broker is one: it acknowledges what the run has handled, and gives back what it has left.
"""

from __future__ import annotations

import asyncio
from typing import Final

from ..core.seams import Attendant
from ..core.stage import Worker
from .deadline import GRACE

__all__ = ["LAST_GRACE", "AttendantWorker", "most_time", "reserve"]

SHARE: Final = 0.1

LAST_GRACE: Final = GRACE + 0.01
"""Seconds after that time until it is left behind: below the 100 ms promised."""

LONGEST: Final = 2.0
"""Of a drain's time, what is kept at most for the end of what attends the sources: this share, and these seconds."""


def most_time(timeout: float) -> float:
    """Seconds of a drain's ``timeout`` after which it is cut short: all, or ``GRACE`` after the handlers' cancel."""
    return max(0.0, timeout) + max(0.0, GRACE - reserve(timeout))


def reserve(timeout: float) -> float:
    """Seconds of a drain's ``timeout`` that are kept for what attends the sources, after the last handler has ended."""
    return min(LONGEST, SHARE * max(0.0, timeout))


class AttendantWorker(Worker):
    """The task of one attendant."""

    __slots__ = ("attendant",)

    task: asyncio.Task[None] | None  # as in Worker, but what is assigned below would be inferred otherwise

    def __init__(self, attendant: Attendant) -> None:
        super().__init__(attendant.label)
        self.attendant: Attendant = attendant

    async def run(self) -> None:
        """Let it work until it has finished; a failure is kept, never raised into the loop (fault B9)."""
        self.task = asyncio.current_task()  # an eager task runs before its creator knows it
        try:
            await self.attendant.run()
            self.completed = True
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.failed_with(error)
