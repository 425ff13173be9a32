"""All that a broker has on NATS from one connection to the next, and how deliveries are settled by it.

It is whole before anybody uses it, and each call keeps to the one that it began with.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from ...broker import Message
from .connection import Connection, Request
from .message import Delivery
from .pulls import Pulls
from .streams import Streams

__all__ = ["Link"]


class Link(NamedTuple):
    """See the module."""

    connection: Connection
    streams: Streams
    pulls: Pulls

    def ours(self, messages: Sequence[Message]) -> list[Message]:
        """Those that nobody else has by now, and whose deliveries the server knows."""
        now = time.monotonic()
        return [one for one in messages if one.receipt.ends > now and not self._is_forgotten(one.receipt)]

    def _is_forgotten(self, delivery: Delivery) -> bool:
        return delivery.connection is not self.connection and delivery.sequence > self.streams.last

    async def settle(self, messages: Sequence[Message], how: bytes = b"") -> None:
        """Ack these deliveries, or end them in another way; from then on they are nobody's."""
        await self.answer(messages, how)
        for one in messages:
            one.receipt.ends = 0.0

    async def answer(self, messages: Sequence[Message], how: bytes) -> None:
        """Send the same about each of these deliveries."""
        if messages:  # the server takes them in turn, so the answer to the last is that to all
            requests = [Request(one.receipt.reply, how) for one in messages]
            await self.connection.call(requests[-1:], quiet=requests[:-1])
