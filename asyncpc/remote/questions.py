"""What a session asks of its broker for others: how deep the queue is, what its dead letters are.

A session asks itself, one question at a time: so a caller who gives up leaves no reply to anybody else (fault E1).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeVar

from ..core.seams import Depth
from ..logs import WARNING, log
from ..wording import summary
from .broker import Disconnected
from .connection import Connection

__all__ = ["DepthWatch", "Questions"]

R = TypeVar("R")

CLOSED: Final = "the connection is closed"

EVERY: Final = 5.0
"""Seconds between two looks at the depth, at least."""

SHARE: Final = 0.01
"""Of the time, what looking may take at most: a table with millions of rows is not counted all the time."""

WATCHED_FOR: Final = 120.0
"""Seconds after which nobody watches any more who has not looked again."""


class _Question(NamedTuple):
    command: Callable[[], Awaitable[Any]]
    answer: asyncio.Future[Any]


class Questions:
    """See the module."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: deque[_Question] = deque()
        self._came = asyncio.Event()
        self._is_finishing = False
        self._is_over = False

    async def ask(self, command: Callable[[], Awaitable[R]]) -> R:
        """What a call of the broker gives; if the connection was lost, it is made again, once, on the next one.

        Raises what the call raises, ``Disconnected`` for the second time or when the session has ended. *Cancel
        safety*: the call is made to its end, or not at all.
        """
        if self._is_over:
            raise Disconnected(CLOSED)
        question = _Question(command, asyncio.get_running_loop().create_future())
        self._waiting.append(question)
        self._came.set()
        answer: R = await question.answer
        return answer

    def finish(self) -> None:
        """Let :meth:`run` return once all is answered that can be without another connection."""
        self._is_finishing = True
        self._came.set()

    async def run(self) -> None:
        """Answer what is asked, until :meth:`finish`."""
        try:
            while self._waiting or not self._is_finishing:
                if not self._waiting:
                    self._came.clear()
                    await self._came.wait()
                    continue
                await self._answer(self._waiting[0])
                self._waiting.popleft()
        finally:
            self._is_over = True
            for question in self._waiting:
                if not question.answer.done():
                    question.answer.set_exception(Disconnected(CLOSED))

    async def _answer(self, question: _Question) -> None:
        if question.answer.done():  # whoever asked has gone
            return
        calls = 0

        async def command() -> Any:
            nonlocal calls
            calls += 1
            return await question.command()

        try:  # no third time, or a count that takes too long would break one connection after the other
            answer = await self._connection.call(command, lambda: self._is_finishing or calls > 1)
        except Exception as error:
            if not question.answer.done():
                question.answer.set_exception(error)
        else:
            if not question.answer.done():
                question.answer.set_result(answer)


class DepthWatch:
    """Keeps in mind how deep the queue is, for whoever looks now and then; asks nobody while nobody looks.

    It mends no connection, so that a count which takes too long does not disturb the work again and again.
    """

    def __init__(self, ask: Callable[[], Awaitable[Depth]], label: str) -> None:
        """``ask`` is the broker's ``depth``, which nobody else calls."""
        self.depth: Depth | None = None
        self.seen: float | None = None
        """Seconds since 1970."""
        self._ask = ask
        self._label = label
        self._looked_at = asyncio.Event()  # since it asked last
        self._over = asyncio.Event()

    def look(self) -> None:
        """Somebody looks, and may look again."""
        self._looked_at.set()

    def finish(self) -> None:
        """Let :meth:`run` return."""
        self._over.set()
        self._looked_at.set()

    async def run(self) -> None:
        """Ask as long as somebody looks, until :meth:`finish`."""
        unwatched = WATCHED_FOR  # seconds
        while True:
            if unwatched >= WATCHED_FOR or self._looked_at.is_set():
                await self._looked_at.wait()
                self._looked_at.clear()
                unwatched = 0.0
            if self._over.is_set():
                return
            pause = max(EVERY, await self._look_now() / SHARE)
            unwatched += pause
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._over.wait()

    async def _look_now(self) -> float:
        """Ask; return the seconds that it took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            self.depth, self.seen = await self._ask(), time.time()
        except Disconnected:
            pass  # those that do the work connect again
        except Exception as error:  # no reason to end a run that does its work
            log(WARNING, "%s: its depth is unknown: %s", self._label, summary(error), stage=self._label)
        return loop.time() - began
