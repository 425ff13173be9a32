"""Waiting for messages that nobody had, on a connection of its own, for the engine ``redis``."""

from __future__ import annotations

import asyncio
import math

from ...broker import Message
from .entries import Receipt, message
from .line import PATIENCE, Line
from .script import GROUP

__all__ = ["Reader"]


class Reader:
    """Receives for one consumer, from the opening of both lines to their end; ``calls`` ends a wait."""

    def __init__(self, reads: Line, calls: Line, queue: str) -> None:
        self.is_woken: bool = False
        """Whether it is to wait no more."""
        self._reads = reads
        self._calls = calls
        self._queue = queue
        self._unblock: tuple[str, str, int] = ("CLIENT", "UNBLOCK", 0)

    @property
    def is_open(self) -> bool:
        """Whether its line can be used."""
        return self._reads.is_open

    async def connect(self) -> None:
        """Open its line."""
        await self._reads.connect()
        (number,) = await self._reads.call(("CLIENT", "ID"))
        self._unblock = ("CLIENT", "UNBLOCK", number)

    def wake(self) -> None:
        """Let :meth:`read` return now."""
        self.is_woken = True
        self._reads.wake()

    async def read(self, me: str, limit: int, seconds: float) -> list[Message]:
        """At most so many messages; waits for the first."""
        block = ("BLOCK", math.ceil(1000 * seconds)) if seconds > 0 and not self.is_woken else ()
        command = ("XREADGROUP", "GROUP", GROUP, me, "COUNT", limit, *block, "STREAMS", self._queue, ">")
        patience = PATIENCE + max(0.0, seconds)
        try:
            await self._reads.send(command)
            while (answer := await self._reads.answer(patience)) is False:  # woken
                if await self._calls.call(self._unblock) == [0]:
                    await asyncio.sleep(0.01)  # it answers now, or the command is still on its way
                    await self._calls.call(self._unblock)
        except BaseException:
            await self.close()  # its answer may still come
            raise
        return [message(entry, fields, Receipt(me, 1, entry, 1)) for _, rows in answer or () for entry, fields in rows]

    async def close(self) -> None:
        """Close its line now."""
        await self._reads.close()
