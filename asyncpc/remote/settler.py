"""``Settler``: tells the broker how the deliveries of a session have ended, and keeps the leases of the others.

It settles what has ended while the last flush was under way, or ends within the next turns of the loop, without any
timer: so calls are many or few, as the pace asks for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import groupby
from typing import Final

from ..logs import WARNING, log
from ..wording import summary
from .broker import PublishError
from .connection import Connection
from .delivery import Delivery
from .letters import failure_of

__all__ = ["SessionCounts", "Settler"]

LAST_RECEIVE: Final = 1.0
"""Seconds for which what is given back waits at most for the end of the last receive, which would get it again."""

GATHER: Final = 0.002
"""Seconds for which what has ended waits at most for what ends at once after it, where nothing else is flushed."""

TOGETHER: Final = 500
"""Deliveries that wait for no more."""

BURY_AGAIN: Final = 5.0
"""Seconds after which dead letters are tried again for which there was no room."""


class SessionCounts:
    """What a session has done so far, in messages."""

    __slots__ = ("acknowledged", "buried", "overtaken", "received", "released")

    def __init__(self) -> None:
        self.received: int = 0
        self.acknowledged: int = 0
        self.released: int = 0
        self.buried: int = 0
        self.overtaken: int = 0
        """Deliveries whose lease ran out, so that somebody else may have handled the message too."""


class Settler:
    """See the module."""

    def __init__(
        self,
        connection: Connection,
        label: str,
        lease: float,
        counts: SessionCounts,
        deliveries: set[Delivery],
        flushed: Callable[[], None],
    ) -> None:
        """``deliveries`` is all that the broker takes for unacknowledged; what is settled leaves it.

        ``flushed`` is called after each flush, and may not fail.
        """
        self._connection = connection
        self._broker = connection.broker
        self._label = label
        self._lease = lease
        self._counts = counts
        self._deliveries = deliveries
        self._have_flushed = flushed
        self._ended: list[Delivery] = []  # to be flushed
        self._flushed_count = 0  # deliveries that had ended before those
        self._unburied: dict[int, Delivery] = {}  # there was no room for their dead letters, by their numbers
        self._bury_at: float = 0.0  # loop time at which they are tried again
        self._refusals = 0  # of dead letters, since the last that were taken
        self._is_idle = False  # whether it waits for something to flush
        self._is_urgent = False  # whether that may not wait for others
        self._flush_asked = asyncio.Event()
        self._flushed = asyncio.Event()  # for the last time
        self.is_intake_over: bool = False
        """No other receive begins."""
        self._is_receiving = False
        self._is_finishing = False
        self._last_receive: asyncio.TimerHandle | None = None  # while what is given back waits for it: ends that wait

    def begin_receiving(self) -> None:
        """From now on a receive may be under way, which would get again what is given back at once."""
        self._is_receiving = True

    def end_intake(self) -> None:
        """No other receive begins: give back what is to be given back when this one has ended, or takes too long."""
        if self._is_receiving and not self.is_intake_over:
            loop = asyncio.get_running_loop()
            self._last_receive = loop.call_later(LAST_RECEIVE, self._wait_no_longer)
        self.is_intake_over = True

    def end_receiving(self) -> None:
        """The last receive has ended."""
        self._is_receiving = False
        self._wait_no_longer()

    def finish(self) -> None:
        """Let :meth:`run` return when all is settled."""
        self._is_finishing = True
        self._flush_asked.set()

    def settle(self, delivery: Delivery) -> None:
        """Let the next flush tell the broker how a delivery has ended."""
        self._ended.append(delivery)
        if self._is_idle:
            self._flush_asked.set()

    def settle_at_once(self, delivery: Delivery) -> None:
        """The same, for one that may not wait for others, since it would count as the one that kills the process."""
        self._is_urgent = True
        self.settle(delivery)

    @property
    def ended(self) -> int:
        """Deliveries that have ended so far."""
        return self._flushed_count + len(self._ended)

    async def run(self) -> None:
        """Settle what ends, until :meth:`finish`, when nothing is left."""
        while self._deliveries or self._is_receiving or not self._is_finishing:
            self._flush_asked.clear()
            ended = self._to_flush()
            if not ended:
                await self._until_asked()
                await self._until_others_end()
                continue
            await self._settle(ended)
            self._deliveries.difference_update(ended)
            self._deliveries.update(self._unburied.values())
            self._have_flushed()
        self._flushed.set()

    async def _until_asked(self) -> None:
        """Wait for something to flush, or until dead letters are tried again."""
        self._is_idle = True
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._bury_at if self._unburied else None):
                    await self._flush_asked.wait()
        finally:
            self._is_idle = False

    async def _until_others_end(self) -> None:
        """Wait while more end at every turn of the loop: together they cost the broker hardly more than the first."""
        loop, before = asyncio.get_running_loop(), 0
        ends = loop.time() + GATHER
        while before < len(self._ended) < TOGETHER and not self._is_urgent and loop.time() < ends:
            before = len(self._ended)
            await asyncio.sleep(0)  # the source gives more
            await asyncio.sleep(0)  # which are handled

    def _to_flush(self) -> list[Delivery]:
        """What has ended; once the intake is over, what is given back waits for the last receive, which would get it.

        Before, it does not: what somebody else has by now ends as given back too, and nothing may wait for it.
        """
        ended, self._ended, self._is_urgent = self._ended, [], False
        if self._last_receive is not None:
            self._ended = [one for one in ended if one.is_released and not one.delay]
            if self._ended:
                ended = [one for one in ended if not one.is_released or one.delay]
        self._flushed_count += len(ended)
        if self._unburied and (self._is_finishing or asyncio.get_running_loop().time() >= self._bury_at):
            ended += self._unburied.values()
            self._unburied = {}
        return ended

    def _wait_no_longer(self) -> None:
        """The last receive has ended, or takes too long."""
        if self._last_receive is not None:
            self._last_receive.cancel()
            self._last_receive = None
        self._flush_asked.set()

    async def _settle(self, ended: list[Delivery]) -> None:
        """Tell the broker how these ended: first what must not be lost, in one call for each way."""
        call, broker, counts = self._connection.call, self._broker, self._counts
        done = [one.message for one in ended if one.is_usual]
        others = [one for one in ended if not (one.is_usual or one.is_lost)] if len(done) < len(ended) else []
        released = [one for one in others if one.is_released]
        dead = [one for one in others if one.failure is not None and not one.is_released]
        if dead:
            await self._bury(dead)
        if done:
            generation = self._connection.generation
            acknowledged = await call(lambda: broker.ack(done))
            counts.acknowledged += acknowledged
            if generation == self._connection.generation:  # else some were acknowledged by a call without an answer
                counts.overtaken += len(done) - acknowledged
        for (delay, counted), some in groupby(sorted(released, key=_how), key=lambda one: _how(one)[:2]):
            messages = [one.message for one in some]
            await call(partial(broker.release, messages, delay, counted))
            counts.released += len(messages)

    async def _bury(self, ended: list[Delivery]) -> None:
        """Those for whose dead letters there is no room are kept, and tried again; at the end they come again."""
        dead = [(one.message, _death(one)) for one in ended]
        try:
            await self._connection.call(lambda: self._broker.bury(dead))
        except PublishError as error:
            refused = set(map(id, error.unconfirmed))
            unburied = [one for one in ended if id(one.message) in refused]
            self._tell_of(len(unburied), error)
            if not self._is_finishing:
                self._unburied |= {one.number: one for one in unburied}
                self._bury_at = asyncio.get_running_loop().time() + BURY_AGAIN
            self._counts.buried += len(dead) - len(unburied)
        else:
            self._refusals = 0
            self._counts.buried += len(dead)

    def _tell_of(self, unburied: int, error: PublishError) -> None:
        """At the end always; before, more and more seldom."""
        self._refusals += 1
        if self._is_finishing or self._refusals & (self._refusals - 1) == 0:
            then = "the messages come again" if self._is_finishing else "they are kept, and tried again"
            what = "%s: no room for %d dead letters: %s; %s: make room, or take old dead letters away"
            log(WARNING, what, self._label, unburied, summary(error), then, stage=self._label)

    async def keep_leases(self) -> None:
        """Extend the leases of what has not ended, to the very end (fault E21)."""
        while not self._flushed.is_set():
            try:
                async with asyncio.timeout(self._lease / 3):
                    await self._flushed.wait()
            except TimeoutError:
                await self._extend_all()

    async def _extend_all(self) -> None:
        held = {id(one.message): one for one in sorted(self._deliveries, key=_number) if not one.is_lost}
        messages = [one.message for one in held.values()]
        if not messages:
            return
        for lost in await self._connection.call(lambda: self._broker.extend(messages)):
            delivery = held[id(lost)]
            if not (delivery.is_lost or delivery.has_ended):  # what has ended may be settled by now, and not be lost
                delivery.lose()
                self._counts.overtaken += 1
                log(WARNING, "%s: a lease ran out: a message may be handled twice", self._label, stage=self._label)


def _number(delivery: Delivery) -> int:
    return delivery.number


def _how(delivery: Delivery) -> tuple[float, bool, int]:
    return delivery.delay, delivery.is_counted, delivery.number


def _death(delivery: Delivery) -> bytes:
    assert delivery.failure is not None
    return failure_of(delivery.failure.failure(), delivery.message.attempt)
