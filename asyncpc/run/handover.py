"""``on_unfinished=``: what a run has left goes to a function of the user, which a deadline bounds too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from inspect import isawaitable
from typing import Any, Final

from ..errors import DrainTimeout, WorkerCancelled
from .deadline import Deadline

__all__ = ["HandOver"]

LONGEST: Final = 30.0
"""Seconds that the function may take; a stop may shorten them."""


class HandOver:
    """A call of ``on_unfinished=`` that is under way, in a task of its own: a cancel of the caller is not one of it."""

    __slots__ = ("_cancels", "_deadline", "_task", "ended", "error")

    def __init__(
        self,
        receive: Callable[[Any], object],
        items: tuple[Any, ...],
        start: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        self.ended: asyncio.Event = asyncio.Event()
        self.error: Exception | None = None
        """What the function raised, or that it was cancelled, once it has ended."""
        self._cancels = 0
        self._deadline = Deadline(asyncio.get_running_loop(), self.cancel)
        self._deadline.limit(LONGEST)
        self._task = start(self._call(receive, items))
        self._task.add_done_callback(lambda _: self._end())

    async def _call(self, receive: Callable[[Any], object], items: tuple[Any, ...]) -> None:
        try:
            answer = receive(items)
            if isawaitable(answer):
                await answer
        except Exception as error:
            self.error = error
        except asyncio.CancelledError as cancel:
            self.error = _cut_short() if self._cancels else WorkerCancelled("on_unfinished= raised CancelledError")
            self.error.__cause__ = cancel

    def limit(self, seconds: float) -> None:
        """Let it go on for ``seconds`` at most; the limit is never postponed."""
        if not self._cancels:
            self._deadline.limit(seconds)

    def cancel(self) -> None:
        """Cancel it, and once more after ``GRACE``; after another ``GRACE`` nobody waits for it any more."""
        self._cancels += 1
        if self._cancels > 2:
            self.error = _cut_short()
            self._end()
        else:
            self._task.cancel()
            self._deadline.renew()

    def _end(self) -> None:
        self._deadline.close()
        self.ended.set()


def _cut_short() -> DrainTimeout:
    return DrainTimeout("on_unfinished= was cancelled before it returned, so the items left may not be kept")
