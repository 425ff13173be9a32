"""All that a broker has on RabbitMQ from one connection to the next: two connections, and what goes by them.

It is whole before anybody uses it, and each call keeps to the one that it began with: nothing of it is ever taken for
a part of the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from pamqp.commands import Queue
from pamqp.common import FieldTable

from ....errors import DefinitionError
from ....wording import shown
from ...broker import SUSPECT_AFTER, Disconnected, Message, PublishError
from .channel import Channel, Refused
from .connection import Connection, Options
from .intake import Intake
from .message import message_of, properties_of
from .outlet import Outlet, Parcel, Unsendable
from .reading import Delays, Reader

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
        self._first = Connection(where)
        self._second = Connection(where)
        self._taking = asyncio.Lock()
        self._is_receiving = False
        self._is_woken = False  # the receive that waits
        self._resting: asyncio.Task[None] | None = None  # since no receive waited that could be woken
        self._putting = asyncio.Lock()

    async def open(self, options: Options, dead: str) -> tuple[int, ...]:
        """Connect, and make the queues; the server's version. Once; what fails is closed by :meth:`close`."""
        await self._first.open(options)
        await self._second.open(options)
        for queue in (self.queue, dead, self.delays.names):
            await self.make(queue, {})
        self.intake = await self._first.channel(Intake)
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
        """See ``Broker``; where a suspect is among them, nothing else is in this process that was not received."""
        self._is_receiving, self._is_woken = True, False
        try:
            async with self._taking:
                if not self._is_woken:
                    await self.intake.take(self.queue, limit, wait)
                if self._is_woken:
                    await self.intake.stop()
                taken = self._taken(limit)
                if self._is_woken or any(one.attempt > SUSPECT_AFTER for one in taken):
                    await self._rest()
                return taken
        finally:
            self._is_receiving = False

    def _taken(self, limit: int) -> list[Message]:
        ready = self.intake.ready
        taken = [ready.popleft() for _ in range(min(limit, len(ready)))]
        return [message_of(one, Receipt(self.intake, one.tag)) for one in taken]

    def wake(self) -> None:
        """Let the receive that waits return; if there is none, what comes without it goes back."""
        if self._is_receiving:
            self._is_woken = True
            self.intake.wake()
        elif self._resting is None or self._resting.done():
            self._resting = asyncio.create_task(self.rest())

    async def rest(self) -> None:
        """Let nothing more come, and give back what was not received, uncounted, as long as there is a connection."""
        if self._is_receiving:
            self.wake()
        with suppress(Disconnected):
            async with self._taking:
                await self._rest()

    async def _rest(self) -> None:
        await self.intake.stop()
        rest = self._taken(len(self.intake.ready))
        try:
            await self.put_again(self.queue, rest, counted=False)
        except PublishError:
            await self.settle(rest, self.intake.reject)

    async def forget_ready(self) -> int:
        """Settle what came and was not received; how many that was."""
        await self.intake.sync()  # what was under way has come
        forgotten = self._taken(len(self.intake.ready))
        await self.settle(forgotten, self.intake.ack)
        return len(forgotten)

    async def settle(self, messages: Sequence[Message], how: Callable[[Sequence[int]], None]) -> None:
        """Tell the server, and wait until it has heard it."""
        if messages:
            how([one.receipt.tag for one in messages])
            for one in messages:
                one.receipt.channel = None
            await self.intake.sync()

    async def put_again(self, queue: str, messages: Sequence[Message], counted: bool) -> None:
        """Settle these, and put a copy of each; one whose headers leave no room for one more goes back counted."""
        pairs = [(one, Parcel(queue, properties_of(one, one.attempt - (not counted)), one.body)) for one in messages]
        again = [pair for pair in pairs if self.fits(pair[1])]
        await self.put([parcel for _, parcel in again], [one for one, _ in again])
        await self.settle([one for one, _ in again], self.intake.ack)
        await self.settle([one for one, parcel in pairs if not self.fits(parcel)], self.intake.reject)

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
            if self._resting is not None:
                self._resting.cancel()
                await asyncio.wait([self._resting])
            await asyncio.gather(self._first.close(), self._second.close())
        finally:  # also if that was cancelled before it began
            self._first.abort()
            self._second.abort()
