"""What was delivered twice without an end: it waits in a queue of its own, of which each process has one at a time.

The server cannot choose what it sends a consumer. So what comes by the other channel and is suspected goes into that
queue at once, uncounted; nothing of it is handed out before all of it is there, and settled here. Its consumer has a
prefetch of one, and stays: a cancel would count a delivery of what the server was about to send.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from ...broker import SUSPECT_AFTER, Disconnected
from .intake import Delivery, Intake
from .message import attempt_of

__all__ = ["Suspects"]


class Suspects:
    """See the module; for one connection."""

    channel: Intake
    """By which they come, one at a time."""
    _intake: Intake  # by which all others come

    def __init__(self, queue: str, move: Callable[[Sequence[Delivery]], Awaitable[list[Delivery]]]) -> None:
        """``move`` puts some into their queue, settles them, and returns those that the server did not take."""
        self.queue: str = f"{queue}.suspects"
        self._move = move
        self._to_move: list[Delivery] = []
        self._moving: asyncio.Task[None] | None = None  # while there are some to move

    def open(self, intake: Intake, channel: Intake) -> None:
        """Begin to look at what comes by the first channel; once."""
        self._intake = intake
        self.channel = channel
        intake.on_delivery = self._sort
        channel.on_delivery = self._has_come

    def _sort(self, one: Delivery) -> None:
        if attempt_of(one) <= SUSPECT_AFTER:
            self._intake.ready.append(one)
            return
        self._to_move.append(one)
        if self._moving is None:
            self._moving = asyncio.create_task(self._move_all())

    async def _move_all(self) -> None:
        """What is not taken, since its queue is full, is received as it is: the session holds it back."""
        try:
            with suppress(Disconnected):  # then they come again
                while self._to_move:
                    some, self._to_move = self._to_move, []
                    self._intake.ready.extend(await self._move(some))
        finally:
            self._moving = None
            self._intake.wake()

    def _has_come(self, one: Delivery) -> None:
        self.channel.ready.append(one)
        self._intake.wake()

    async def ask(self) -> None:
        """Let one come, and after each that is settled the next."""
        if not self.channel.has_consumers:
            await self.channel.take(self.queue, 1, 0.0)

    @property
    def is_one_there(self) -> bool:
        """Whether one can be handed out."""
        return bool(self.channel.ready) and self._moving is None

    async def stop(self) -> None:
        """Let nothing more come, and wait until all are moved that were to be."""
        await self.channel.stop()
        if self._moving is not None:
            await asyncio.wait([self._moving])

    async def close(self) -> None:
        """Move no more."""
        if self._moving is not None:
            self._moving.cancel()
            await asyncio.wait([self._moving])
