"""``Job``: one call, on its way to a thread and back; and ``ThreadCaller``: what makes the calls of a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from time import perf_counter
from typing import Any

__all__ = ["Job", "ThreadCaller"]


class Job:
    """One call, on its way to a thread and back."""

    __slots__ = (
        "args",
        "began",
        "caller",
        "context",
        "ended",
        "error",
        "function",
        "future",
        "over",
        "overdue",
        "timer",
        "tries",
        "value",
    )

    def __init__(
        self, future: asyncio.Future[None], context: Context, function: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        self.future: asyncio.Future[None] = future
        self.context: Context = context
        self.function: Callable[..., Any] = function
        self.args: tuple[Any, ...] = args
        self.caller: ThreadCaller | None = None
        self.began: float | None = None  # seconds of perf_counter
        self.ended: bool = False  # set and read under the lock, since its thread may be at another call from then on
        self.overdue: bool = False  # its timeout came first
        self.over: bool = False  # for the loop: it has ended, or is overdue
        self.timer: asyncio.TimerHandle | None = None
        self.tries: int = 0
        self.value: Any = None
        self.error: BaseException | None = None

    def wake(self) -> None:
        """Wake who awaits it."""
        if not self.future.done():
            self.future.set_result(None)

    def leave(self) -> None:
        """Nobody awaits it any more."""
        self.future.cancel()
        if self.timer is not None:
            self.timer.cancel()


class ThreadCaller:
    """Makes the calls of one thread; ``processes`` has one that makes them in a process."""

    def most(self) -> int:
        """How many calls it would take at once."""
        return 1

    def make(self, jobs: list[Job]) -> None:
        """Make the calls and keep the result or error in each job; raises nothing."""
        for job in jobs:
            job.began = perf_counter()
            try:
                job.value = job.context.run(job.function, *job.args)
            except BaseException as error:
                job.error = error

    def interrupt(self) -> bool:
        """End the current call, from another thread; return whether that is possible.

        The call has not ended by then, and nobody waits for it any more.
        """
        return False

    def close(self) -> None:
        """Release its resources; called in its thread, after its last call."""
