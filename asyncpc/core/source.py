"""The loop of a producer's worker: it asks a source for its next item while there is room for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from time import perf_counter
from typing import Any

from ..failure import KeptFailure
from .channel import Channel, Ended
from .latency import LoopProbe
from .plan import Origin
from .seams import Attendant, Following
from .stage import RunLinks, Worker
from .tracked import Tracked
from .waiting import TIME_SLICE, checkpoint, obey_cancel
from .worker import RUNS

__all__ = ["ProducerWorker"]

LONGEST = sum(map(len, RUNS))


class Sampled:
    """Which items of a source are followed, for its loop, which only counts in between."""

    __slots__ = ("_gap", "_items", "_make", "_track", "at")

    def __init__(self, following: Following, items: Any, track: Callable[[], None], are_tracked: bool) -> None:
        """``are_tracked`` says whether all items have tickets already, which may say whether to follow them."""
        self._items = items
        self._track = track
        each = following.looks_at_each or are_tracked
        self._gap: Callable[[], float] = (lambda: 1) if each else following.gap
        self._make: Callable[[Any], Any] = following.judge if each else following.begin
        self.at: float = -1.0
        """The next item is to be looked at once so many have been produced."""

    def look(self, produced: int, next_look: int) -> tuple[float, Callable[[Any], None]]:
        """When to look again, after ``next_look`` items at the latest, and what appends items until then."""
        if produced > self.at:
            self.at = produced + self._gap() - 1
        if produced == self.at:
            return produced + 1, self._append
        return min(next_look, self.at), self._items.append

    def begin(self, item: Any, produced: int) -> Any:
        """The item that comes after so many, with a ticket if it is followed."""
        return self._looked_at(item) if produced >= self.at else item

    def _append(self, item: Any) -> None:
        self._items.append(self._looked_at(item))

    def _looked_at(self, item: Any) -> Any:
        item = self._make(item)
        if type(item) is Tracked:
            self._track()
        return item


class ProducerWorker(Worker):
    """The one worker of a source."""

    __slots__ = ("attendant", "links", "origin", "outbox", "probe", "produced", "recent", "restarts")

    task: asyncio.Task[None] | None  # as in Worker, but what is assigned below would be inferred otherwise

    def __init__(self, name: str, origin: Origin, outbox: Channel[Any], links: RunLinks) -> None:
        super().__init__(name)
        self.links: RunLinks = links
        self.origin: Origin = origin
        self.outbox: Channel[Any] = outbox
        self.attendant: Attendant | None = None
        """What it has beside it."""
        self.produced: int = 0
        self.restarts: int = 0
        self.probe: LoopProbe = LoopProbe()
        self.recent: deque[float] = deque()  # loop times of the restarts that still count

    async def run(self) -> None:
        """Give items until the source ends; start it again as its ``restart`` allows.

        *Cancel safety*: an item that waited for room is left in the queue, and the source is closed here, in the task
        that iterated it (fault B10).
        """
        self.task = asyncio.current_task()  # an eager task runs before its creator knows it
        try:
            while not self.completed:
                try:
                    await self._produce()
                    self.completed = True
                except Exception as error:
                    await self._before_restart(error)
        except asyncio.CancelledError:
            raise
        except Ended as ended:
            self.failed_with(ended.error)
        except BaseException as error:
            self.failed_with(error)

    async def _produce(self) -> None:
        outbox = self.outbox
        items, getters, clock = outbox.items, outbox.getters, perf_counter
        await outbox.wait_for_room()
        iterator, sampled = self.origin.iterate(), self._sampled()
        produced = self.produced
        began, slow, ticks = clock(), False, 0
        budget_ends, step = produced + LONGEST, 1
        next_look, append = _appending(outbox, sampled, produced)
        try:
            async for item in iterator:
                if outbox.mark <= len(items) >= outbox.grow():
                    if sampled is not None:
                        item = sampled.begin(item, produced)
                    try:
                        if outbox.may_enqueue():
                            outbox.enqueue(item)
                        else:
                            await self._put_waiting(item)
                    except BaseException as error:
                        if not self._deals_with(item, error):
                            raise
                        continue
                    produced += 1
                    self.produced = produced
                    await outbox.wait_for_room()  # the source is not asked while the queue is full
                else:
                    try:
                        append(item)
                    except BaseException as error:
                        if not self._deals_with(item, error):
                            raise
                        continue
                    produced += 1
                    self.produced = produced
                    if getters and not getters.waking:
                        getters.wake()
                if produced >= next_look or self.cancelled:
                    if self.cancelled:  # the source swallowed it (fault B4), or asked for it
                        await obey_cancel()
                    elapsed = clock() - began
                    if slow:
                        self.probe.ended(ticks, elapsed)
                    slow = step == 1 and elapsed > TIME_SLICE
                    step = min(2 * step, len(RUNS[-1]))
                    if produced >= budget_ends or elapsed > TIME_SLICE:  # invariant 10
                        await checkpoint()
                        budget_ends, began, step = produced + LONGEST, clock(), 1
                        if slow:
                            ticks = self.probe.watch()
                    next_look = produced + step
                    if sampled is not None:
                        next_look, append = sampled.look(produced, next_look)
        except Exception as error:
            await self._close_after(error, iterator)
            raise
        finally:
            await _close(iterator)

    def _sampled(self) -> Sampled | None:
        following = self.links.following
        if following is None:
            return None
        return Sampled(following, self.outbox.items, self.links.track, self.attendant is not None)

    def _deals_with(self, item: Any, error: BaseException) -> bool:
        """Tell whoever waits for the item that the first stage refuses it; whether the source goes on.

        It does if that one takes failures for which no policy is written; a full queue is no failure of the item.
        """
        if type(item) is not Tracked or isinstance(error, asyncio.CancelledError):  # then it is in the queue
            return False
        if not isinstance(error, Exception):
            item.ticket.release()
        elif item.ticket.takes_failures != "unhandled" or isinstance(error, (Ended, asyncio.QueueFull)):
            item.ticket.stop(error.error if isinstance(error, Ended) else error)
        else:
            item.ticket.fail(error, KeptFailure.of(item.item, error, 0, self.name))
            return True
        return False

    async def _put_waiting(self, item: Any) -> None:
        """Put ``item`` when there is room. Raises what refuses it; if it is cancelled, the item is in the queue."""
        try:
            await self.outbox.put_or_leave(item)
        except asyncio.CancelledError:
            self.produced += 1
            raise

    async def _close_after(self, error: Exception, iterator: AsyncIterator[Any]) -> None:
        """Close a source whose item was refused; ``error`` is known before, since that may take its time."""
        if not self._may_restart(error):
            self.failed_with(error.error if isinstance(error, Ended) else error)
            self.links.failing(self)
        await _close(iterator)

    def _may_restart(self, error: Exception) -> bool:
        """Whether the source may be started again now (fault C5)."""
        restart, now = self.origin.restart, asyncio.get_running_loop().time()
        if restart is None or self.cancelled or isinstance(error, Ended):
            return False
        while self.recent and now - self.recent[0] >= restart.within:
            self.recent.popleft()
        return len(self.recent) < restart.times

    async def _before_restart(self, error: Exception) -> None:
        """Wait before a restart; raises ``error`` if no more are allowed."""
        restart = self.origin.restart
        if restart is None or not self._may_restart(error):
            raise error
        self.recent.append(asyncio.get_running_loop().time())
        self.restarts += 1
        await asyncio.sleep(restart.backoff(len(self.recent)))


def _appending(outbox: Channel[Any], sampled: Sampled | None, produced: int) -> tuple[float, Callable[[Any], None]]:
    """After how many items to look first, and what appends them until then."""
    return (produced + 1, outbox.items.append) if sampled is None else sampled.look(produced, produced + 1)


async def _close(iterator: AsyncIterator[Any]) -> None:
    if isinstance(iterator, AsyncGenerator):
        await iterator.aclose()
