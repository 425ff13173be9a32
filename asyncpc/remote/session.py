"""``Session``: the only caller of a broker in one run, or in one block of ``queue.open()``.

Its tasks are a receiver, which asks for as many messages as there is room for; those of the :class:`Settler`, which
acknowledge, give back and bury what has ended, and keep the leases of all else; a publisher; and one for what others
ask. No call of a broker is cancelled while it is under way (fault E1); if the whole session is, it drops the
connection.

How it ends
-----------
1. :meth:`Session.end_intake`: nothing more is received, and what has not begun is given back at once.
2. The run ends what it has, and every delivery says so.
3. :meth:`Session.finish`: the last flush, the last confirmations; then the connection is closed.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import count, repeat
from operator import itemgetter
from typing import Final, NamedTuple

import anyio

from ..core.seams import RemoteCounts
from ..core.tracked import Tracked
from ..errors import WorkerCancelled
from ..failure import KeptFailure
from ..logs import WARNING, log
from ..wording import summary
from .broker import SUSPECT_AFTER, Broker, Disconnected, Message
from .codec import Codec
from .connection import PATIENCE, Connection
from .delivery import Delivery
from .publisher import Publisher
from .questions import DepthWatch, Questions
from .settler import SessionCounts, Settler

__all__ = ["Session", "Terms"]

WAIT: Final = 5.0
"""Seconds that one receive waits for a message."""

FIRST_WAIT: Final = 0.05
"""Seconds that the first one waits: when it returns, the queue is known to be of use."""

MOST: Final = 1000
"""The prefetch that is chosen at most."""

TOGETHER: Final = 500
"""Messages that one receive gets at most, unless more are worked on at once; with room for so many the next begins:
while some are received, and some settled, there are some to handle."""

AHEAD: Final = 0.2
"""Seconds of work that are received ahead."""

LOOK_EVERY: Final = 0.1
"""Seconds over which the pace is measured."""

SUSPECTS_APART: Final = 0.05
"""Seconds between two suspects that come again, after they were given back because another was at work."""

ALONE: Final = 1.0
"""Seconds for which nothing more is received after a suspect has begun, where the engine would send others too."""


NO_HEADERS: Final[Mapping[str, str]] = {}

_attempt: Final[Callable[[Message], int]] = itemgetter(Message._fields.index("attempt"))


class Terms(NamedTuple):
    """What the user of a remote queue asks of its sessions."""

    prefetch: int | None
    """The most messages that may be unacknowledged; None: as the pace asks for."""
    lease: float
    """Seconds; every third of it the leases begin anew."""
    attempts: int
    """Deliveries after which a message that never ended is buried."""


class Session:
    """See the module. All methods but :meth:`run` and :meth:`items` are plain functions."""

    def __init__(self, broker: Broker, codec: Codec, terms: Terms, label: str, at_once: int = 0) -> None:
        """``at_once`` is how many messages the stages can work on at once; 0 if nothing is to be received."""
        self.label: str = label
        self.counts: SessionCounts = SessionCounts()
        self.connection: Connection = Connection(broker, label)
        self.publisher: Publisher = Publisher(self.connection)
        self.questions: Questions = Questions(self.connection)
        self.opened: asyncio.Event = asyncio.Event()
        self._depth = DepthWatch(broker.depth, label)
        self.is_closing: bool = False
        """Whether it does no more than close its connection."""
        self._broker = broker
        self._codec = codec
        self._terms = terms
        self._at_once = at_once
        self._has_received = not at_once  # whether a receive has returned
        self._deliveries: set[Delivery] = set()  # all that the broker takes for unacknowledged
        self._settler = Settler(self.connection, label, terms.lease, self.counts, self._deliveries, self._have_flushed)
        if not at_once:
            self._settler.end_intake()
        self._arrived: deque[Delivery] = deque()  # not yet in the pipeline
        self._held_back: deque[Delivery] = deque()  # suspects that the engine could not hold back
        self._suspect: Delivery | None = None
        self._is_suspect_kept = False  # whether it has not begun, since others that came with it are to go back first
        self._flushed_some = asyncio.Event()
        self._suspects_until = 0.0  # loop time at which the last of those that were given back comes again
        self._more = asyncio.Event()
        self._room = asyncio.Event()
        self._prefetch = terms.prefetch or min(MOST, 2 * at_once)
        self._looked = 0.0  # loop time
        self._ended_then = 0

    # -- its life ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, and work until :meth:`finish` and the last flush; then close the connection.

        Raises ``Disconnected`` if there is no first connection, or none by which anything can be received, unless the
        intake ends before: then nothing was to be done. Later ones are waited for without end. *Cancel safety*: the
        connection is dropped, and what was not settled comes again when its lease has run out.
        """
        try:
            if not await self._is_needed():
                return
            self.opened.set()
            async with anyio.create_task_group() as group:
                loops = [self._receive, self._settler.run, self._settler.keep_leases]
                for loop in [*loops, self.publisher.run, self.questions.run, self._depth.run]:
                    group.start_soon(self._whole, loop, group.cancel_scope, name=f"{self.label}: {loop.__qualname__}")
        except* Exception as failed:
            raise _first(failed) from None
        finally:
            self.is_closing = True
            self._settler.end_receiving()
            self._let_go()
            await self.connection.close()

    def _let_go(self) -> None:
        """Forget what was not settled: it comes again when its lease has run out."""
        self._suspect = None
        for delivery in self._deliveries:
            delivery.let_go()

    async def _is_needed(self) -> bool:
        """Connect; whether somebody still wants that."""
        try:
            await self.connection.open(self._has_been_stopped)
        except Disconnected:
            if self._has_been_stopped():
                return False
            raise
        return True

    def _has_been_stopped(self) -> bool:
        """Whether it was to receive, and is not any more."""
        return self._at_once > 0 and self._settler.is_intake_over

    async def _whole(self, loop: Callable[[], Awaitable[None]], scope: anyio.CancelScope) -> None:
        """One of the session's tasks; if anyone else cancels it, all of them end, with an error (fault B1)."""
        try:
            await loop()
        except asyncio.CancelledError:
            if scope.cancel_called:
                raise
            raise WorkerCancelled(f"{self.label}: one of its tasks was cancelled from outside the run") from None

    def end_intake(self) -> None:
        """Receive nothing more, and give back what has not begun, in the order of receipt."""
        self._settler.end_intake()
        self.connection.wake()
        self.connection.hurry()
        self._depth.finish()
        for event in self._room, self._more, self._flushed_some:
            event.set()
        for waiting in self._arrived, self._held_back:
            while waiting:
                waiting.popleft().release()

    def finish(self) -> None:
        """All that the run had has ended: let :meth:`run` return after the last flush."""
        self.end_intake()
        self._settler.finish()
        self.publisher.finish()
        self.questions.finish()

    def look(self) -> RemoteCounts:
        """See ``Attendant``; whoever looks now and then gets to know the depth, too."""
        self._depth.look()
        counts, depth, lost_at = self.counts, self._depth, self.connection.lost_at
        return RemoteCounts(
            received=counts.received,
            acknowledged=counts.acknowledged,
            released=counts.released,
            dead_letters=counts.buried,
            overtaken=counts.overtaken,
            reconnects=max(0, self.connection.generation - 1),
            connections=self.connection.generation if self._has_received else 0,
            disconnected=0.0 if lost_at is None else asyncio.get_running_loop().time() - lost_at,
            depth=depth.depth,
            seen=depth.seen,
        )

    # -- receiving --------------------------------------------------------------------------------

    async def items(self) -> AsyncIterator[Tracked]:
        """The messages' items, each with its delivery as a ticket, until the intake ends."""
        arrived, codec, most = self._arrived, self._codec, self._codec.max_bytes
        decode, headers_before = codec.decoder_for(NO_HEADERS), NO_HEADERS
        while True:
            while arrived:
                delivery = arrived.popleft()
                if delivery.is_lost:  # somebody else has it
                    delivery.release()
                    continue
                _, body, _, _, headers, _ = delivery.message
                try:
                    if headers is not headers_before:  # messages that came together most often share them
                        decode, headers_before = codec.decoder_for(headers), headers
                    item = decode(body if len(body) <= most else codec.too_long(body))
                except Exception as error:
                    self._bury(delivery, codec.refused(error))
                    await asyncio.sleep(0)  # one after the other: others may run (invariant 10)
                except BaseException:  # an interrupt
                    delivery.release()
                    raise
                else:
                    yield Tracked(item, delivery)
            if self._settler.is_intake_over:
                return
            self._more.clear()
            await self._more.wait()

    async def _receive(self) -> None:
        self._settler.begin_receiving()
        try:
            await self._receive_what_comes()
        finally:
            self._settler.end_receiving()

    async def _receive_what_comes(self) -> None:
        while not self._settler.is_intake_over:
            self._choose_prefetch()
            if not self._has_room():
                self._room.clear()
                await self._room.wait()
                continue
            room = min(self._prefetch - len(self._deliveries), max(TOGETHER, self._at_once))
            suspects = int(self._suspect is None or self._broker.guarantees.isolates)
            wait, patience = (WAIT, math.inf) if self._has_received else (FIRST_WAIT, PATIENCE)
            receive = partial(self._broker.receive, room, wait, suspects)
            try:
                messages = await self.connection.call(receive, lambda: self._settler.is_intake_over, patience)
            except Disconnected:
                if self._settler.is_intake_over:
                    return
                raise
            self._has_received = True
            self._arrive(messages)
            if self._arrived:
                self._more.set()
            if self._is_suspect_kept:
                await self._begin_alone()

    async def _begin_alone(self) -> None:
        """Let a suspect begin when the others that came with it are back, and receive nothing more for a while.

        If it kills its process at once, none of them is there to count one more delivery.
        """
        suspect, self._is_suspect_kept = self._suspect, False
        assert suspect is not None
        while len(self._suspects()) > 1 and not self._settler.is_intake_over:
            await self._next_flush()
        if self._settler.is_intake_over:
            suspect.release()
            return
        self._arrived.append(suspect)
        self._more.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(ALONE):
                while self._suspects() and not self._settler.is_intake_over:
                    await self._next_flush()

    def _suspects(self) -> list[Delivery]:
        return [one for one in self._deliveries if one.message.attempt > SUSPECT_AFTER]

    async def _next_flush(self) -> None:
        self._flushed_some.clear()
        await self._flushed_some.wait()

    def _choose_prefetch(self) -> None:
        """As many messages as end in ``AHEAD`` seconds, as far as that is seen; twice what is worked on at least.

        Once all of the prefetch has ended, every handler has been at work meanwhile: then the pace is seen, too.
        """
        now, ended = asyncio.get_running_loop().time(), self._settler.ended - self._ended_then
        if self._terms.prefetch is None and (now - self._looked >= LOOK_EVERY or ended >= self._prefetch):
            pace = ended / max(now - self._looked, 0.001)
            self._looked, self._ended_then = now, self._settler.ended
            self._prefetch = int(min(MOST, max(2 * self._at_once, AHEAD * pace)))

    def _arrive(self, messages: Sequence[Message]) -> None:
        first, usual = self.counts.received, min(SUSPECT_AFTER, self._terms.attempts)
        self.counts.received += len(messages)
        most = max(map(_attempt, messages), default=0)
        are_usual = most <= usual and not self._settler.is_intake_over
        ended = self._settler.settle if are_usual else self._has_ended
        deliveries = [*map(Delivery, messages, count(first), repeat(ended))]
        self._deliveries.update(deliveries)
        if are_usual:
            self._arrived += deliveries
        else:
            for delivery in deliveries:
                self._arrive_alone(delivery)

    def _arrive_alone(self, delivery: Delivery) -> None:
        attempt = delivery.message.attempt
        if self._settler.is_intake_over:
            delivery.release()
        elif attempt > self._terms.attempts:
            self._bury(delivery, Poison(f"delivered {attempt - 1} times without an end: it may kill its process"))
        elif attempt <= SUSPECT_AFTER:
            self._arrived.append(delivery)
        elif self._suspect is None:
            self._suspect = delivery
            if self._gives_back():
                self._is_suspect_kept = True
            else:
                self._arrived.append(delivery)
        elif self._gives_back():
            now = asyncio.get_running_loop().time()
            self._suspects_until = max(now, self._suspects_until) + SUSPECTS_APART  # else all but one come in vain
            delivery.delay = self._suspects_until - now
            delivery.release()
        else:
            self._held_back.append(delivery)

    def _gives_back(self) -> bool:
        """Whether suspects beyond one may come, and can go back for a while."""
        return self._broker.guarantees.delays and not self._broker.guarantees.selects

    def _bury(self, delivery: Delivery, error: Exception) -> None:
        log(WARNING, "%s: a message is given up: %s", self.label, summary(error), stage=self.label)
        delivery.fail(error, KeptFailure.of(None, error, 0, self.label))  # no handler was called

    # -- settling ---------------------------------------------------------------------------------

    def _has_ended(self, delivery: Delivery) -> None:
        """One that may be the suspect."""
        if delivery is self._suspect:
            self._suspect = None
            if self._held_back:
                self._suspect = self._held_back.popleft()
                self._arrived.append(self._suspect)
                self._more.set()
            if not self._broker.guarantees.isolates:
                self.connection.wake()  # it may wait for others only
        self._settler.settle_at_once(delivery)

    def _have_flushed(self) -> None:
        self._flushed_some.set()
        if self._has_room():
            self._room.set()

    def _has_room(self) -> bool:
        """Whether there is room for what makes another receive worth while: half of the prefetch, if not TOGETHER."""
        return len(self._deliveries) <= max(self._prefetch // 2, self._prefetch - TOGETHER)


class Poison(Exception):
    """A message was delivered too often."""


def _first(failed: BaseExceptionGroup[Exception]) -> Exception:
    error: BaseException = failed
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error
