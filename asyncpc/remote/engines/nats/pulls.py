"""What is pulled over one connection to NATS: first what is there, then what comes, as far as there is room for it.

The client's own ``fetch`` loses messages that come when it gives up, and makes a task for each. Here one request stays
open from one ``receive`` to the next, until as much has come as it asked for: asked for anew, each message that comes
alone would cost two requests more.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any, Final

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error
from nats.js.api import Header

from ...broker import Message
from .connection import PATIENCE, Connection

__all__ = ["Pulls"]

HEARTBEAT: Final = 4.0
"""Seconds after which the server says that there is still no message."""


class Pulls:
    """See the module; as long as its connection."""

    def __init__(self, connection: Connection, consumer: str, read: Callable[[Msg], Message]) -> None:
        self.ready: deque[Message] = deque()
        """What came and was not received yet; a request that stays open may add to it at any time."""
        self.is_woken: bool = False
        """Whether :meth:`wait` is to wait no longer."""
        self._connection: Connection = connection
        self._subject: str = f"$JS.API.CONSUMER.MSG.NEXT.{consumer}"
        self._read: Callable[[Msg], Message] = read
        self._numbers = count()
        self._inbox: str = ""
        self._subscription: Subscription | None = None
        self._expected: int = 0  # messages that the server may still send
        self._answered: str = ""  # where it says that there are no more
        self._due: float = 0.0  # when it must have said something about that
        self._is_waiting: bool = False
        self._changed: asyncio.Event = asyncio.Event()
        connection.at_end = self._changed.set

    @property
    def is_open(self) -> bool:
        """Whether something may come, or came and was not received."""
        return bool(self._expected or self.ready)

    async def wait(self, limit: int, wait: float) -> None:
        """Return when ``ready`` has something, after so many seconds, or when it was woken."""
        ends, self._is_waiting = time.monotonic() + wait, True
        try:
            self._connection.check()
            if self._expected and self._expected + len(self.ready) > limit:
                await self.stop()
            if not self.ready and not self._expected:
                await self._ask_for(limit, {"no_wait": True})
                while self._expected:
                    await self._something(self._due)
            while not self.ready and not self.is_woken and (left := ends - time.monotonic()) > 0:
                if not self._expected:
                    await self._ask_for(limit, {"expires": 1_000_000 + int(left * 1e9)})
                await self._something(ends)
        except Error as error:
            raise self._connection.lost(error) from None
        finally:
            self._is_waiting = False

    def take(self, limit: int) -> list[Message]:
        """What is ready, but for what has waited too long and is no longer ours."""
        taken: list[Message] = []
        now = time.monotonic()
        while self.ready and len(taken) < limit:
            one = self.ready.popleft()
            if one.receipt.ends > now:
                taken.append(one)
        return taken

    def wake(self) -> bool:
        """Let :meth:`wait` stop, and return; False if nobody waits."""
        self.is_woken = True
        self._changed.set()
        return self._is_waiting

    async def stop(self) -> None:
        """Ask for no more; what is under way comes first. Returns within some seconds, whatever the server does."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            try:
                await self._connection.unsubscribe(subscription)
            finally:
                self._expected = 0
                self._changed.set()

    async def _ask_for(self, batch: int, how: dict[str, Any]) -> None:
        if self._subscription is None:  # at a place of its own, where nothing comes that was asked for before
            self._inbox = self._connection.new_inbox()
            self._subscription = await self._connection.subscribe(f"{self._inbox}.*", self._on_message)
        wait = how.get("expires", 0) / 1e9
        if wait > 2 * HEARTBEAT:
            how["idle_heartbeat"] = int(HEARTBEAT * 1e9)
        self._expected, self._answered = batch, f"{self._inbox}.{next(self._numbers)}"
        self._due = time.monotonic() + PATIENCE + min(wait, 2 * HEARTBEAT)
        await self._connection.tell(self._subject, json.dumps({"batch": batch, **how}).encode(), self._answered)

    async def _something(self, ends: float) -> None:
        self._connection.check()
        now = time.monotonic()
        if now >= self._due:
            raise self._connection.lost("the server does not answer")
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(min(ends, self._due) - now):
                await self._changed.wait()

    async def _on_message(self, message: Msg) -> None:
        if message.reply:
            self.ready.append(self._read(message))
            self._expected -= 1
        elif message.subject == self._answered:
            headers = message.headers or {}
            status, why = headers.get("Status"), headers.get(Header.DESCRIPTION, "")
            if status == "100":
                self._due = time.monotonic() + PATIENCE
                return
            self._expected = 0
            if status not in ("404", "408") and why != "Batch Completed":
                self._connection.end(Error(f"{status} {why}"))  # no consumer, or another leader
        self._changed.set()
