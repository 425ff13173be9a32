"""All that a broker has on RabbitMQ from one connection to the next: two connections, and what goes by them.

It is whole before anybody uses it, and each call keeps to the one that it began with: nothing of it is ever taken for
a part of the next.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from pamqp.commands import Queue
from pamqp.common import FieldTable

from ...errors import DefinitionError
from ...wording import shown
from ..broker import Message, PublishError
from .rabbitmq_channel import Channel, Refused
from .rabbitmq_connection import Connection, Options
from .rabbitmq_intake import Delivery, Intake
from .rabbitmq_message import message_of
from .rabbitmq_outlet import Outlet, Parcel, Unsendable
from .rabbitmq_reading import Delays, Reader

__all__ = ["Link", "Receipt"]

KEPT: Final[FieldTable] = {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000_000}
"""No limit: the session counts the attempts, and the server would drop what has reached it (20 from 4.0 on)."""


class Receipt:
    """A delivery tag, which means something on its own channel only (fault E9)."""

    __slots__ = ("channel", "tag")

    def __init__(self, channel: Channel, tag: int) -> None:
        self.channel: Channel | None = channel  # None once it is settled
        self.tag: int = tag


class Link:
    """See the module; each call raises ``Disconnected`` when it is over."""

    intake: Intake
    """What is received, and settled."""
    tools: Channel
    _outlet: Outlet  # by a connection of its own: the server may stop reading from that

    def __init__(self, where: str, queue: str) -> None:
        self.where: str = where
        self.queue: str = queue
        self.reader: Reader = Reader(lambda: self._first.channel(Intake))
        self.delays: Delays = Delays(queue, self.reader, self.make, self.put)
        self.ready: deque[Delivery] = deque()
        """What came after its receive had ended."""
        self._first = Connection(where)
        self._second = Connection(where)
        self._taking = asyncio.Lock()
        self._putting = asyncio.Lock()

    async def open(self, options: Options, dead: str) -> tuple[int, ...]:
        """Connect, and make the queues; the server's version. Once; what fails is closed by :meth:`close`."""
        await self._first.open(options)
        await self._second.open(options)
        for queue in (self.queue, dead, self.delays.names):
            await self.make(queue, {})
        self.intake = await self._first.channel(Intake)
        self.intake.on_delivery = self.ready.append
        self.tools = await self._first.channel(Channel)
        self._outlet = await self._second.channel(Outlet)
        return self._first.version

    async def make(self, queue: str, arguments: FieldTable) -> None:
        """A queue, if it is not there; raises ``DefinitionError`` if it is something else."""
        channel = await self._first.channel(Channel)
        try:
            await channel.call(Queue.Declare(queue=queue, durable=True, arguments=KEPT | arguments))
        except Refused as error:
            if error.code != 406:
                raise
            if "'x-queue-type'" in str(error) or "'durable'" in str(error):
                what = f"the queue {shown(queue)} at {self.where} to be a quorum queue"
                raise DefinitionError(f"remote_queue: expected {what}") from None
            # else somebody made it with other limits
        finally:
            await channel.close()

    # -- messages ---------------------------------------------------------------------------------

    async def receive(self, limit: int, wait: float) -> list[Message]:
        """See ``Broker``."""
        async with self._taking:
            if not self.ready:
                await self.intake.take(self.queue, limit, wait)
            return self._taken(limit)

    def _taken(self, limit: int) -> list[Message]:
        taken = [self.ready.popleft() for _ in range(min(limit, len(self.ready)))]
        return [message_of(one, Receipt(self.intake, one.tag)) for one in taken]

    def fits(self, parcel: Parcel) -> bool:
        """Whether it can be put: its headers lie in one frame."""
        return self._outlet.fits(parcel)

    async def put(self, parcels: Sequence[Parcel], messages: Sequence[Any]) -> None:
        """Send these, which are made of those messages; one call after the other."""
        async with self._putting:
            try:
                refused = await self._outlet.publish(parcels)
            except Refused as error:
                if error.code != 406:  # 406: one is too long; the channel is closed, the connection is not
                    raise
                self._outlet = await self._second.channel(Outlet)
                raise PublishError(str(error), messages) from None
            except Unsendable:
                raise PublishError(f"{self.where}: the headers of a message are too long", messages) from None
        if refused:
            why = f"{self.where}: the server refuses them; is the queue full?"
            raise PublishError(why, [messages[place] for place in refused])

    # -- its end ----------------------------------------------------------------------------------

    async def close(self) -> None:
        """Let go of the sockets, within some seconds, whatever the server does."""
        try:
            await asyncio.gather(self._first.close(), self._second.close())
        finally:  # also if that was cancelled before it began
            self._first.abort()
            self._second.abort()

    async def unreceived(self) -> list[Message]:
        """What came and was not received, once no receive is under way."""
        self.intake.wake()
        async with self._taking:
            self.intake.check()
            return self._taken(len(self.ready))
