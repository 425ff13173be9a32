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
from ...broker import Disconnected, Message, PublishError, no_queue
from .channel import Channel, Refused
from .connection import Connection, Options
from .intake import Delivery, Intake
from .message import message_of, properties_of
from .outlet import Outlet, Parcel, TooLong, Unsendable
from .reading import Delays, Reader
from .suspects import Suspects

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
    """What is received, and settled, but for suspects."""
    tools: Channel
    _outlet: Outlet  # by a connection of its own: the server may stop reading from that

    def __init__(self, where: str, queue: str) -> None:
        self.where: str = where
        self.queue: str = queue
        self.reader: Reader = Reader(lambda: self._first.channel(Intake))
        self.delays: Delays = Delays(queue, self.reader, self.make, self.put)
        self.suspects: Suspects = Suspects(queue, self._set_apart)
        self._first = Connection(where)
        self._second = Connection(where)
        self._taking = asyncio.Lock()
        self._is_receiving = False
        self._is_woken = False  # the receive that waits
        self._resting: asyncio.Task[None] | None = None  # since no receive waited that could be woken
        self._putting = asyncio.Lock()

    async def open(self, options: Options, dead: str, must_exist: bool) -> tuple[int, ...]:
        """Connect, and make the queues; the server's version. Once; what fails is closed by :meth:`close`."""
        await self._first.open(options)
        await self._second.open(options)
        if must_exist:
            await self._find()
        for queue in (self.queue, dead, self.delays.names, self.suspects.queue):
            await self.make(queue, {})
        self.intake = await self._first.channel(Intake)
        self.suspects.open(self.intake, await self._first.channel(Intake))
        self.tools = await self._first.channel(Channel)
        self._outlet = await self._second.channel(Outlet)
        return self._first.version

    async def _find(self) -> None:
        channel = await self._first.channel(Channel)
        try:
            await channel.call(Queue.Declare(queue=self.queue, passive=True))
        except Refused as error:
            if error.code != 404:
                raise
            raise no_queue(f"at {self.where}") from None
        finally:
            await channel.close()

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

    @property
    def intakes(self) -> tuple[Intake, Intake]:
        """The channels by which messages come, and are settled."""
        return self.intake, self.suspects.channel

    async def receive(self, limit: int, wait: float, suspects: int) -> list[Message]:
        """See ``Broker``."""
        self._is_receiving, self._is_woken = True, False
        try:
            async with self._taking:
                if not self._is_woken:
                    if suspects:
                        await self.suspects.ask()
                    is_one_there = suspects and self.suspects.is_one_there
                    await self.intake.take(self.queue, limit, 0.0 if is_one_there else wait)
                if self._is_woken:
                    await self._stop()
                taken = _taken(self.suspects.channel, 1) if suspects and self.suspects.is_one_there else []
                taken += _taken(self.intake, limit - len(taken))
                if self._is_woken:
                    await self._rest()
                return taken
        finally:
            self._is_receiving = False

    async def _set_apart(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Move suspects to where they wait; returns those that cannot be put there."""
        pairs = [(one, message_of(one, Receipt(self.intake, one.tag))) for one in deliveries]
        parcels = [Parcel(self.suspects.queue, properties_of(one, one.attempt - 1), one.body) for _, one in pairs]
        those = [place for place, parcel in enumerate(parcels) if self.fits(parcel)]
        moved = [pairs[place] for place in those]
        try:
            await self.put([parcels[place] for place in those], moved)
        except PublishError as error:
            refused = set(map(id, error.unconfirmed))
            moved = [pair for pair in moved if id(pair) not in refused]
        await self.settle([message for _, message in moved], Intake.ack)
        are_moved = {one.tag for one, _ in moved}
        return [one for one in deliveries if one.tag not in are_moved]

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

    async def _stop(self) -> None:
        await self.intake.stop()
        await self.suspects.stop()

    async def _rest(self) -> None:
        await self._stop()
        for intake, queue in zip(self.intakes, (self.queue, self.suspects.queue), strict=True):
            rest = _taken(intake, len(intake.ready))
            try:
                await self.put_again(queue, rest, counted=False)
            except PublishError:
                await self.settle(rest, Intake.reject)

    async def forget_ready(self) -> int:
        """Settle what came and was not received; how many that was."""
        number = 0
        for intake in self.intakes:
            await intake.sync()  # what was under way has come
            forgotten = _taken(intake, len(intake.ready))
            await self.settle(forgotten, Intake.ack)
            number += len(forgotten)
        return number

    async def settle(self, messages: Sequence[Message], how: Callable[[Intake, Sequence[int]], None]) -> None:
        """Tell the server, and wait until it has heard it."""
        for intake in self.intakes:
            its = [one for one in messages if one.receipt.channel is intake]
            if its:
                how(intake, [one.receipt.tag for one in its])
                for one in its:
                    one.receipt.channel = None
                await intake.sync()

    async def put_again(self, queue: str, messages: Sequence[Message], counted: bool) -> None:
        """Settle these, and put a copy of each; one whose headers leave no room for one more goes back counted."""
        pairs = [(one, Parcel(queue, properties_of(one, one.attempt - (not counted)), one.body)) for one in messages]
        again = [pair for pair in pairs if self.fits(pair[1])]
        await self.put([parcel for _, parcel in again], [one for one, _ in again])
        await self.settle([one for one, _ in again], Intake.ack)
        await self.settle([one for one, parcel in pairs if not self.fits(parcel)], Intake.reject)

    def fits(self, parcel: Parcel) -> bool:
        """Whether it can be put: its headers lie in one frame."""
        return self._outlet.fits(parcel)

    async def put(self, parcels: Sequence[Parcel], messages: Sequence[Any]) -> None:
        """Send these, which are made of those messages; one call after the other."""
        async with self._putting:
            try:
                refused = await self._outlet.publish(parcels)
            except TooLong as error:  # the channel is closed, the connection is not
                self._outlet = await self._second.channel(Outlet)
                raise PublishError(str(error), [messages[place] for place in error.places]) from None
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
            await self.suspects.close()
            await asyncio.gather(self._first.close(), self._second.close())
        finally:  # also if that was cancelled before it began
            self._first.abort()
            self._second.abort()


def _taken(intake: Intake, limit: int) -> list[Message]:
    """What came, the first of it."""
    ready = intake.ready
    taken = [ready.popleft() for _ in range(min(limit, len(ready)))]
    return [message_of(one, Receipt(intake, one.tag)) for one in taken]
