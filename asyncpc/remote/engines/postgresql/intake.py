"""``Intake``: how the PostgreSQL engine receives: on a connection of its own, which also hears of new messages."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Final

from ...broker import Message, Settings
from ..rows import message_in
from . import tables
from .connection import Address, Connection

__all__ = ["Intake"]

POLL: Final = 2.0
"""Seconds after which a receive looks again where the server tells of new messages; shows that the server answers."""

POLL_UNTOLD: Final = 0.1
"""Seconds after which a receive looks again behind a pooler that lets no notification through."""

PROBE: Final = 0.3
"""Seconds within which a notification arrives, if any does."""

SOONEST: Final = 0.01
"""Seconds at least between two looks for a message that is due and that another process is just taking."""

BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)

SLACK: Final = timedelta(seconds=1)
"""How long a put may take to be found as soon as it is there."""

LOOK_EVERY: Final = 0.5
"""Seconds between two looks at everything that is due."""

LOOK_PAUSE: Final = 20.0
"""A pause after such a look is at least so many times as long as it took."""

_PLACE: Final = itemgetter(5, 6)
"""Orders what ``TAKE`` gives."""


class Intake:
    """See the module."""

    def __init__(
        self, address: Address, settings: Settings, channel: str, tell: Callable[[str], Awaitable[None]]
    ) -> None:
        """``tell`` notifies all who listen to the channel, on another connection."""
        self._address = address
        self._settings = settings
        self._channel = channel
        self._tell = tell
        self._probe = secrets.token_hex(8)
        self._connection = Connection(address, settings.client)  # opened by the first receive
        self._changed = asyncio.Event()  # since receive looked last
        self._is_told = False  # notifications arrive
        self._is_asked_back = False
        self._floor = BEGINNING  # of the due messages, but for some late ones
        self._look_at = 0.0  # when to look at all of them

    async def close(self) -> None:
        """End a receive that waits, and close the connection."""
        self.wake()
        await self._connection.close()

    def wake(self) -> None:
        """See ``Broker``."""
        self._is_asked_back = True
        self._changed.set()

    def look_at_all(self) -> None:
        """The next receive is to look at everything that is due: some of it may have been due for long."""
        self._look_at = 0.0

    async def receive(self, limit: int, wait: float, suspects: int) -> list[Message]:
        """See ``Broker``."""
        loop = asyncio.get_running_loop()
        deadline, self._is_asked_back = loop.time() + wait, False
        if not self._connection.is_open:
            await self._listen()
        while True:
            self._changed.clear()
            taken = await self._take(min(limit, tables.MOST), suspects)
            if taken or loop.time() >= deadline or self._is_asked_back:
                return taken
            due = await self._next()
            poll = POLL if self._is_told else POLL_UNTOLD
            pause = min(poll, deadline - loop.time(), poll if due is None else max(SOONEST, due))
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()

    async def _take(self, limit: int, suspects: int) -> list[Message]:
        """What is ready. Mostly without what was due before the last one that it took, a second earlier to be sure.

        There the index has an entry of each message that is leased, or has gone since the table was vacuumed last. The
        few that were released there, whose lease has run out, or whose put took long, are found by a look from the
        beginning.
        """
        loop = asyncio.get_running_loop()
        began, delivery = loop.time(), secrets.randbits(63)
        is_whole, floor = began >= self._look_at, self._floor
        if is_whole:
            floor, self._look_at = BEGINNING, began + LOOK_EVERY
        args = (self._address.queue, limit, suspects, self._settings.lease, delivery, floor)
        rows = await self._connection.run("fetch", tables.TAKE, *args)
        if is_whole and self._look_at:  # nobody asked for another one meanwhile
            self._look_at += LOOK_PAUSE * (loop.time() - began)
        if not rows:
            return []
        rows.sort(key=_PLACE)
        self._floor = rows[-1][5] - SLACK
        return [message_in(row, (row[6], delivery)) for row in rows]

    async def _next(self) -> float | None:
        """Seconds until the next delay ends; no message is ready now."""
        row = await self._connection.run("fetchrow", tables.NEXT, self._address.queue)
        seconds: float | None = row[0]
        self._floor = row[1] - SLACK
        return seconds

    async def _listen(self) -> None:
        """Hear of new messages, if notifications arrive: a pooler may drop them and say nothing."""
        self._is_told, self._changed = False, asyncio.Event()  # of this loop
        await self._connection.open()
        try:
            await self._connection.run("add_listener", self._channel, self._hear)
            await self._tell(self._probe)
        except BaseException:
            await self._connection.close()
            raise
        with suppress(TimeoutError):
            async with asyncio.timeout(PROBE):
                while not (self._is_told or self._is_asked_back):
                    await self._changed.wait()
                    self._changed.clear()

    def _hear(self, _connection: object, _pid: int, _channel: str, payload: str) -> None:
        if payload == tables.EARLIER:
            self.look_at_all()
        elif payload == self._probe:
            self._is_told = True
        elif payload != tables.LATER:
            return  # the probe of another process
        self._changed.set()
