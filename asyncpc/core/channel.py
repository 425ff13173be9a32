"""``Channel``: the queue before a stage, as the workers on both sides of it see it.

A worker that passes values on is a *writer* of the next channel. Writers append to ``items`` and workers pop from it
directly while there is room and backlog; no coroutine is made, no future, no clock read. What they must look at are
plain attributes:

- ``mark``: the length from which a writer lets the channel :meth:`grow <Channel.grow>`; if it cannot, it takes the
  slow path (the channel is full, or other writers wait for their turn): :meth:`Channel.put_or_leave`;
- ``getters``: a writer wakes one of them, unless one has been woken already, and that one sees to it that others
  follow. Workers that have not started yet wait last in it, as spares;
- ``putters``, ``writers`` and ``look_below``: whoever takes an item calls :meth:`Channel.made_room` for them. Putters,
  callers from outside, are woken one for each free slot, as in asyncio, but few at once; the last of them to run sees
  to it that others follow. Writers are woken in bulk once half of the room is free, which turns a switch of tasks per
  item into one per half a queue, or once nothing can be taken: then what a container holds may wait for what only they
  can give. Where branches meet they share the room (:class:`~asyncpc.core.fairness.FairWriters`).

``items`` is a deque unless an option asks for another :class:`~asyncpc.core.seams.Container`.
"""

from __future__ import annotations

import asyncio
import math
from asyncio import _get_running_loop
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from ..errors import QueueShutDown
from .queue import END, BoundedQueue, End
from .waiting import BUDGET, WaitQueue, checkpoint

if TYPE_CHECKING:
    from .seams import Container, Full, Inlet, Sharing

__all__ = ["Channel", "Ended"]

T = TypeVar("T")

AT_ONCE: Final = 16
"""Callers of ``put`` that are woken before one of them has run: a caller that goes on may take all the room itself."""


class Ended(Exception):
    """The run ends with ``error``, whatever a policy says, so none is asked (again)."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error: Exception = error


class Channel(BoundedQueue[T]):
    """A :class:`BoundedQueue` between a pipeline's workers, which counts only what comes from outside by itself."""

    __slots__ = (
        "_available", "_calling", "_writers_next", "_yielding", "check_waiter", "container", "getters", "holds_writers",
        "inlet", "items", "limit", "look_below", "low", "mark", "putters", "sharing", "when_full", "workers", "writers",
    )  # fmt: skip

    _elsewhere = (
        "this run belongs to another event loop or thread; from a thread, write running.put_from_thread(item), and "
        "loop.call_soon_threadsafe(…) for anything else"
    )

    def __init__(self, maxsize: float) -> None:
        super().__init__(maxsize)
        self.items: Any = self._queue
        """What is queued: a deque, or the container."""
        self.container: Container | None = None
        self.limit: float = self._limit
        """The bound, in items; infinite if there is none."""
        self.low: float = self._limit // 2 if maxsize > 0 else math.inf
        """Writers that wait are woken when no more items than this are queued."""
        self.look_below: float = self.low + 1
        """Whoever takes an item looks whether writers are to be woken if fewer than this are left."""
        self.mark: float = 0
        self.getters: WaitQueue = self._getters
        self.putters: WaitQueue = self._putters
        self.writers: WaitQueue = WaitQueue(self.made_room)
        self.holds_writers: bool = True
        """Whether writers wait for room; not any more in a run that is cancelled."""
        self.sharing: Sharing | None = None
        """How its writers share the room, where they belong to several stages or sources."""
        self.when_full: Full | None = None
        """Called with an item instead of waiting for room."""
        self.check_waiter: Callable[[], None] | None = None
        """Called before somebody waits for room in ``put`` without a limit; raises if nobody else can make room."""
        self.inlet: Inlet | None = None
        """Where items from threads come in, if any do."""
        self.workers: int = 0
        """Workers of its stage that have not ended, spares included."""
        self._available: Callable[[], int] = self._queue.__len__  # how many items can be taken now
        self._writers_next = False  # whether writers are woken next, if both putters and writers wait
        self._yielding = 0  # workers that let others run before they go on
        self._calling = False  # whether _wake_more() is about to run

    # -- what outsiders ask ----------------------------------------------------------------------

    @property
    def peak(self) -> int:
        """The most items that were ever queued at once."""
        return self._peak

    @property
    def accepted(self) -> int:
        """Items that came in through ``put`` and its variants."""
        return self._received

    @property
    def closed(self) -> bool:
        """Whether it is closed: no more items come, and workers that find it empty see END."""
        return self._is_shutdown

    @property
    def refusal(self) -> Callable[[], Exception] | None:
        """Makes the error that puts are refused with; None while they are accepted."""
        return self._refusal

    @property
    def runs_code(self) -> bool:
        """Whether putting an item calls a function of the user, or an overflow policy."""
        return self.when_full is not None or (self.container is not None and self.container.runs_code)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop it belongs to."""
        return self._loop

    @property
    def thread(self) -> int:
        """The identity of the thread it belongs to."""
        return self._thread

    def put_waited(self, now: float) -> float:
        """Seconds that putters and writers have waited for room until ``now`` (loop time), summed over them."""
        return self.putters.seconds(now) + self.writers.seconds(now)

    def check_caller(self) -> None:
        """Raise ``StateError`` in another loop or thread, ``QueueShutDown`` if the run's loop is closed."""
        self._here()

    # -- what options install --------------------------------------------------------------------

    def keep_in(self, container: Container) -> None:
        """Keep items in ``container`` from now on; to be called before any is put."""
        self.container = container
        self.look_below = math.inf  # what is left may wait for more, however much it is
        self._queue = self.items = cast("deque[T]", container)  # it stands in for the deque
        self._available = container.available

    def taker(self) -> Any:
        """What a worker takes from: it has ``popleft`` and a truth value."""
        return self.items if self.container is None else self.container.taker()

    def items_in(self, taken: Any) -> list[Any]:
        """The items in what a worker took at once."""
        return [taken] if self.container is None else self.container.items_in(taken)

    def complete(self) -> bool:
        """Release items that wait for more; return whether there were any."""
        if self.container is not None and self.container.complete():
            self.made_item()
            return True
        return False

    def try_put(self, item: T) -> bool:
        """Put ``item`` at once if there is room and no need to let others run; for a caller that could wait as well.

        As ``put_nowait``, in one piece: this is the way of nearly every item from outside.
        """
        items = self.items
        if self._budget <= 0:
            return False
        if len(items) >= self._limit:
            if self.inlet is None or self.is_full():
                return False
            self._budget -= 1
            self.put_nowait(item)
            return True
        if _get_running_loop() is not self._loop:
            self._here()
        if self._refusal is not None:
            raise self._refusal()
        self._budget -= 1
        items.append(item)
        self._received += 1
        if len(items) > self._peak:
            self._grown()
        getters = self.getters
        if getters and not getters.waking:
            getters.wake()
        return True

    # -- for writers -----------------------------------------------------------------------------

    def enqueue(self, item: T) -> None:
        """Add ``item`` whatever the bound says; for callers that have seen room, give an item back, or feed it."""
        if self.inlet is None:
            self.items.append(item)
        else:
            try:
                self.items.append(item)
            finally:  # a function of the user may raise; the place is free then
                self.inlet.claimed = 0
        if len(self.items) > self._peak:
            self._grown()
        if self.getters and not self.getters.waking:
            self.getters.wake()

    def grow(self) -> float:
        """Raise ``mark`` by the item that a writer is about to append, if there is room and no need to ask; return it.

        To be called just before that, once the mark is reached, since the item counts in the peak.
        """
        longer = len(self.items) + 1
        if longer < self.limit and self.sharing is None and self.inlet is None and self.container is None:
            self._peak = self.mark = longer
        return self.mark

    def may_enqueue(self) -> bool:
        """Whether a writer may add an item without waiting its turn; call it just before adding the item."""
        if self.inlet is None:
            return self.sharing is None and len(self.items) < self.limit
        return self.sharing is None and self.inlet.claim()

    def is_full(self) -> bool:
        """Whether there is no room; call it just before putting an item, since threads leave the room to it."""
        if self.inlet is None:
            return len(self.items) >= self.limit
        self.renew_mark()  # the thread that has opened the inlet may not have come to it
        return not self.inlet.claim()

    def places_taken(self) -> int:
        """The items that count against the bound now: also those that threads have on their way."""
        return len(self.items) if self.inlet is None else len(self.items) + self.inlet.taken()

    async def put_or_leave(self, item: T) -> None:
        """Add ``item`` when there is room.

        Raises what a function of the user, such as ``key=``, or the overflow policy raises: then it was not taken.
        *Cancel safety*: a cancelled call leaves its item in the queue (invariant 2), one above the bound. If a function
        of the user does not let it, the call raises ``Ended`` instead.
        """
        if self.when_full is not None and len(self.items) >= self.limit:
            self.when_full.from_within(item)
            return
        in_vain = False  # then it is the first to be woken again
        try:
            if self.sharing is not None and not self.sharing.may_put():
                await self.sharing.wait()
            while (
                len(self.items) >= self.limit if self.inlet is None else not self.inlet.claim()
            ) and self.holds_writers:
                await self.writers.wait(asyncio.get_running_loop(), first=in_vain)
                in_vain = True
        except BaseException:
            self._leave(item)
            raise
        try:
            self.enqueue(item)
        except BaseException:  # of a function of the user: leave the room to others
            self.made_room()
            raise

    async def wait_for_room(self) -> None:
        """Wait for room before asking a source for its next item.

        The source may never use the room, so the wake-up is passed on at once; when the item is there, the writer
        looks again (:meth:`put_or_leave`).
        """
        if self.sharing is not None:
            has_room = self.sharing.may_put(0)
        else:
            has_room = len(self.items) < self.limit and (self.inlet is None or self.places_taken() < self.limit)
        if not has_room and self.when_full is None:
            if self.sharing is not None:
                await self.sharing.wait()
            while (
                len(self.items) >= self.limit or (self.inlet is not None and self.places_taken() >= self.limit)
            ) and self.holds_writers:
                await self.writers.wait(asyncio.get_running_loop())
            self.writers.wake()
            self.putters.wake()

    def release_writers(self) -> None:
        """Let no writer wait any longer: the run is cancelled, so nobody makes room for one that ignores that (B4)."""
        self.holds_writers = False
        if self.writers:
            self.writers.wake(len(self.writers))

    def came_from_outside(self, count: int) -> None:
        """Count items that were added to ``items`` on behalf of callers of ``put``."""
        self._received += count

    def note_length(self) -> None:
        """Update the peak after items were added to ``items``, and wake a worker for them."""
        if len(self.items) > self._peak:
            self._grown()
        if self.getters and not self.getters.waking:
            self.made_item()

    # -- for the workers of its stage ------------------------------------------------------------

    def take_end(self) -> End | None:
        """Return END if the channel is closed; the caller has found it empty."""
        if not self._is_shutdown:
            return None
        self._ends += 1
        return END

    async def yield_to_others(self) -> None:
        """Let others run once, with no item in flight; this counts as woken, so that writers need wake nobody else."""
        self.getters.waking += 1
        self._yielding += 1
        try:
            await checkpoint()
        except BaseException:
            self.made_item()
            raise
        finally:
            self.getters.waking -= 1
            self._yielding -= 1
        self.wake_followers()

    def wake_followers(self) -> None:
        """Wake more workers soon, unless the one that was woken can handle the rest without waiting.

        A pipeline's writers wake one getter for a run of items, not one for each. It starts on the first item; if that
        makes it wait, the loop goes on, to :meth:`_wake_more`; if it does not, there will be nothing left by then.
        """
        if self.getters and not self._calling and self._available() > 1 + self.getters.waking:
            self._calling = True
            asyncio.get_running_loop().call_soon(self._wake_more)

    def worker_began(self) -> None:
        """A worker that was woken runs now."""
        self.getters.waking -= 1
        self.wake_followers()

    def made_room(self, freed: int = 1) -> None:
        """Wake putters, for each slot freed, and writers in bulk: half of the room is free or nothing can be taken.

        While both wait, slots go to them alternately, so that neither starves the other.
        """
        if self.putters and len(self.items) < self.limit:
            # No more than have room, with those who are coming: a putter woken in vain waits again, behind all others.
            freed = min(freed, int(self.limit) - len(self.items) - self.putters.waking - self.writers.waking)
            if freed <= 0:
                return
            if not self.writers:
                self.putters.wake(min(freed, AT_ONCE - self.putters.waking))
                return
            first, second = (self.writers, self.putters) if self._writers_next else (self.putters, self.writers)
            self._writers_next = not self._writers_next
            freed -= first.wake(freed)
            second.wake(freed)  # what is left, since the first may all be cancelled
        elif self.writers and (len(self.items) <= self.low or not self.items):
            if self.sharing is not None:
                self.sharing.wake()
            else:
                self.writers.wake(int(self.limit) - len(self.items))

    def made_item(self) -> None:
        """Wake a worker, if there is an item."""
        if self.items:
            self.getters.wake()

    # -- the end ---------------------------------------------------------------------------------

    def refuse(self, refusal: Callable[[], Exception]) -> None:
        """Refuse ``put`` with the error that ``refusal`` makes; workers do not notice before :meth:`close`."""
        self._refuse(refusal)

    def close(self) -> None:
        """Close the channel: workers take what is left, then each sees END once. A plain function."""
        if not self._is_shutdown:
            super().close()
            self.release_writers()

    def drop_spares(self) -> None:
        """Start no more spare workers."""
        self.workers -= self.getters.drop_spares()

    def let_go(self) -> None:
        """The run has ended with all of its workers: forget what leads to it, and to the channel itself."""
        self.check_waiter = self.sharing = None
        for line in self.getters, self.putters, self.writers:
            line.forget_owner()

    def count_unseen_end(self) -> None:
        """Count the END of a worker that is cancelled instead, since it is still opening its resource."""
        self._ends += 1

    # -- in place of the base's ------------------------------------------------------------------

    def _put_when_full(self, item: T) -> None:
        if not self.is_full():  # callers of put had to ask
            try:
                self._enqueue(item)
            finally:
                if self.inlet is not None:
                    self.inlet.claimed = 0
            return
        if self.when_full is None:
            raise asyncio.QueueFull("there is no room in the run's first queue; 'await running.put(item)' waits for it")
        try:
            self.when_full(item)
        except asyncio.QueueFull:
            raise
        except BaseException:  # of on_drop=: the item was taken, or dropped
            self._received += 1
            raise
        self._received += 1

    def _must_wait(self, deadline: float | None) -> bool:
        if self.when_full is not None or self._refusal is not None or not self.is_full():
            return False
        if deadline is None and self.check_waiter is not None:
            self.check_waiter()
        return True

    def _leave(self, item: T) -> None:
        try:
            self.enqueue(item)
        except Exception as refusal:
            raise Ended(refusal) from None

    def _take(self) -> T:
        item: T = self.items.popleft()
        if self.putters or self.writers:
            self.made_room()
        return item

    def _refuse(self, refusal: Callable[[], Exception]) -> None:
        self._refusal = self._refusal or refusal
        if self.inlet is not None:
            self.inlet.close()
        if self.putters:
            self.putters.wake(len(self.putters))

    def _release_getters(self) -> None:
        if len(self.items) == 0:
            self.drop_spares()
        self.getters.wake(len(self.getters))

    def _grown(self) -> None:
        self._peak = len(self.items)
        self.renew_mark()

    def renew_mark(self) -> None:
        """Set ``mark``, and the length from which on callers of ``put`` have to ask."""
        if self.inlet is not None and self.inlet.asks:
            self.mark = self._limit = 0
        else:
            self.mark = min(self.limit - 1, self._peak) if self.sharing is None else self.sharing.mark()

    def _made_room(self, freed: int = 1) -> None:
        self.made_room(freed)

    def _wake_more(self) -> None:
        """Wake as many workers as are busy already: soon there are enough, even thousands, and never far too many."""
        self._calling = False
        left = self._available() - self.getters.waking
        if left > 0 and not self._yielding:  # a worker that yields never waits, so others would only take its items
            at_work = self.workers - self.getters.waiting if self.workers else left
            self.getters.wake(min(left, max(1, at_work), BUDGET))

    def _here(self) -> None:
        if self.workers and self._loop is not None and self._loop.is_closed():
            raise QueueShutDown("the loop of this run is closed: the item was not taken")
        super()._here()

    def _forget_loop(self) -> None:
        super()._forget_loop()
        self._calling = False
        self.writers.waking = 0
