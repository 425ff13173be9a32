"""``BoundedQueue``: asyncio's queue, bounded by default, with an end and counts.

How it works, in a page
-----------------------
An item stays in a deque until the coroutine that takes it really runs. A wake-up is only a hint that there may be
something to take (or room to put); a coroutine that is woken looks again. So a cancelled waiter can lose nothing: the
item is still in the deque, and the waiter passes its wake-up on to the next one. A queue that puts items into the
waiters' futures instead loses them on cancellation.

Two wait queues may form:

- *getters* wait for an item; a put wakes one, unless one has been woken already, which then wakes others if it leaves
  something for them;
- *putters* wait for room; every free slot wakes one, as in asyncio.

END is not an item. :meth:`BoundedQueue.close` is a plain function that sets a flag and wakes everybody; every consumer
takes what is left, then finds the queue empty and closed, and that is END: it needs no slot and cannot be blocked,
overtaken or mistaken for a payload.

The queue between two stages of a pipeline is a :class:`~asyncpc.core.channel.Channel`, which adds what workers need.
"""

from __future__ import annotations

import asyncio
import math
from asyncio import _get_running_loop
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from operator import length_hint
from threading import get_ident
from typing import ClassVar, Final, Generic, NamedTuple, TypeVar, cast, final

from ..errors import QueueShutDown, StateError
from .waiting import BUDGET, WaitQueue, checkpoint

__all__ = ["DEFAULT_MAXSIZE", "END", "BoundedQueue", "QueueStatistics"]

T = TypeVar("T")

DEFAULT_MAXSIZE: Final = 128
"""Items that a queue holds by default: enough to save task switches, too few to hide a slow consumer."""


@final
class End:
    """The class of :data:`END`."""

    def __repr__(self) -> str:
        return "END"


CONTAINERS: Final = frozenset({list, tuple, range, set, frozenset, dict, str, bytes, deque})
"""What can be read without running any code of the program's."""

_NO_MORE: Final = object()

END: Final = End()
"""What a consumer sees, once, when its queue is closed and empty; never an item."""


class QueueStatistics(NamedTuple):
    """What a queue has seen so far; all counts are items unless they say otherwise."""

    maxsize: float
    """The bound; 0 or less is unbounded."""
    queued: int
    """Items in the queue now."""
    peak_queued: int
    """The most that were ever in it at once."""
    received: int
    """Items accepted since the queue was made."""
    settled: int
    """Items that ``task_done`` was called for, and those dropped."""
    dropped: int
    """Items thrown away by ``shutdown(immediate=True)``."""
    waiting_put: int
    """Callers that wait for room now."""
    waiting_get: int
    """Callers that wait for an item now."""
    put_waited: float
    """Seconds that callers have waited for room, summed over all of them."""
    get_waited: float
    """Seconds that callers have waited for an item, summed over all of them."""
    ends: int
    """How many consumers have seen END."""
    closed: bool
    """Whether the queue is closed."""


class BoundedQueue(asyncio.Queue[T], Generic[T]):
    """A drop-in ``asyncio.Queue`` that is bounded by default, can be closed, and counts.

    All methods of ``asyncio.Queue`` keep their meaning, on every Python version. The queue is FIFO, and not a
    base for queues of another order: a subclass that overrides how items are stored is refused with ``TypeError``. The
    queue belongs to the loop that first waits on it; a call from another loop or thread raises ``StateError``.

    ``maxsize`` is in items. It defaults to :data:`DEFAULT_MAXSIZE`; 0 or less means unbounded.
    """

    # Declared for type checkers: asyncio's own attributes, shared on purpose so that its repr stays true.
    _queue: deque[T]
    _finished: asyncio.Event | None
    _maxsize: float
    _loop: asyncio.AbstractEventLoop | None

    _elsewhere: ClassVar[str] = (
        "this BoundedQueue belongs to another event loop or thread; from a thread, use "
        "asyncio.run_coroutine_threadsafe(queue.put(item), loop)"
    )

    def __init_subclass__(cls) -> None:
        for base in set(cls.__mro__) - {asyncio.Queue}:
            if overridden := {"_init", "_put", "_get"} & vars(base).keys():
                name = ", ".join(sorted(overridden))
                raise TypeError(
                    f"{cls.__name__}: a BoundedQueue is FIFO and does not call {name}; see @consumer(priority=)"
                )

    def __init__(self, maxsize: float = DEFAULT_MAXSIZE) -> None:
        # asyncio's own attributes are set here, since its __init__ would make what a queue of this class never uses
        self._maxsize = maxsize
        self._queue = deque()
        self._loop = None
        self._finished = None  # made for whoever waits in join()
        self._received = 0  # items accepted from outside
        self._settled = 0
        self._limit: float = maxsize if maxsize > 0 else math.inf
        self._peak = 0
        self._getters = WaitQueue(self._made_item)
        self._putters = WaitQueue(self._made_room)
        self._is_shutdown = False
        self._refusal: Callable[[], Exception] | None = None  # what puts are refused with, once they are
        self._ends = 0
        self._dropped = 0
        self._budget = BUDGET  # calls of put and get until one of them lets others run
        self._thread = 0

    # -- put ----------------------------------------------------------------------------------

    async def put(self, item: T, timeout: float | None = None) -> None:
        """Put ``item``, waiting for room if the queue is full, at most ``timeout`` seconds.

        Raises ``TimeoutError`` when the time is up and ``QueueShutDown`` when the queue is or gets closed.

        *Cancel safety*: all or nothing. A ``put`` that raised, whatever it raised, left nothing behind.
        """
        self._budget -= 1
        if self._budget < 0:
            await self._yield_to_others()
        if len(self._queue) >= self._limit:
            self._here()
            deadline = self._deadline(timeout)
            while self._must_wait(deadline):
                await self._putters.wait(cast(asyncio.AbstractEventLoop, self._loop), deadline)
            try:
                if len(self._queue) < self._limit and self._refusal is None:  # most often
                    self._enqueue(item)
                else:
                    self.put_nowait(item)
            except BaseException:  # of a function of the user, such as key=: leave the room to others
                self._made_room()
                raise
            if self._putters and not self._putters.waking:  # it was the last of several, and may have left room
                self._made_room(len(self._putters))
        else:
            self._put_in_room(item)

    def put_nowait(self, item: T) -> None:
        """Put ``item`` at once; raises ``asyncio.QueueFull`` without room, ``QueueShutDown`` when closed."""
        if _get_running_loop() is not self._loop:
            self._here()
        if self._refusal is not None:
            raise self._refusal()
        if len(self._queue) >= self._limit:
            self._put_when_full(item)
        else:
            self._enqueue(item)

    async def put_many(self, items: Iterable[T], timeout: float | None = None) -> None:
        """Put all ``items`` in order, in runs as large as the room, within ``timeout`` seconds in all.

        Raises as :meth:`put` does. *Cancel safety*: accepted items stay accepted. ``items`` is read only as far as
        there is room, so an iterator still has the items that were not accepted. (It takes room to find out that an
        iterator without a length has ended.)
        """
        self._here()
        source = iter(items)
        put = self._put_at_once if type(items) in CONTAINERS else self._put_each
        deadline = self._deadline(timeout)
        try:
            while self._put_run(source, put):
                await self._yield_to_others()
                while self._must_wait(deadline):
                    await self._putters.wait(asyncio.get_running_loop(), deadline)
        finally:
            self._made_room()  # it may have been woken for more than it put

    def _put_run(self, source: Iterator[T], put: Callable[[Iterator[T], float], bool]) -> bool:
        """Put as many items as there is room for; return whether there may be more. A plain function."""
        if self._refusal is not None:
            raise self._refusal()
        if put(source, max(0, min(self._limit - len(self._queue), BUDGET))):
            return False
        if not length_hint(source, 1):  # it knows that it has no more
            if (more := next(source, _NO_MORE)) is _NO_MORE:
                return False
            self._enqueue(cast(T, more))  # one above the bound, since it has been read
        return True

    def _put_at_once(self, source: Iterator[T], room: float) -> bool:
        """Put up to ``room`` items of a container; return whether it has ended."""
        before = len(self._queue)
        self._queue.extend(islice(source, math.ceil(room)))
        moved = len(self._queue) - before
        self._received += moved
        if len(self._queue) > self._peak:
            self._grown()
        self._getters.wake(moved)
        return moved < room

    def _put_each(self, source: Iterator[T], room: float) -> bool:
        """The same of anything else: to ask for an item may run code that puts or takes items, or closes the queue."""
        queue, limit, moved = self._queue, self._limit, 0
        try:
            for item in islice(source, math.ceil(room)):
                if self._refusal is not None:
                    raise self._refusal()
                queue.append(item)  # maybe one above the bound, since it has been read
                self._received += 1
                moved += 1
                if (size := len(queue)) > self._peak:
                    self._grown()
                if size >= limit:
                    return False
        finally:
            self._getters.wake(moved)
        return moved < room

    # -- get ----------------------------------------------------------------------------------

    async def get(self, timeout: float | None = None) -> T:
        """Take the next item, waiting for one at most ``timeout`` seconds.

        Raises ``TimeoutError`` when the time is up and ``QueueShutDown`` (END) when the queue is closed and empty.

        *Cancel safety*: all or nothing. A ``get`` that raised has taken nothing.
        """
        self._budget -= 1
        if self._budget < 0:
            await self._yield_to_others()
        if _get_running_loop() is not self._loop:
            self._here()
        if not self._queue:
            await self._until_item(self._deadline(timeout))
        return self._take()

    def get_nowait(self) -> T:
        """Take the next item at once; raises ``asyncio.QueueEmpty``, or ``QueueShutDown`` when closed."""
        self._here()
        if not self._queue:
            raise self._end() if self._is_shutdown else asyncio.QueueEmpty
        return self._take()

    async def get_many(self, limit: int, timeout: float | None = None) -> list[T]:
        """Wait for one item as :meth:`get` does, then take up to ``limit`` items in one step.

        *Cancel safety*: all or nothing. A ``get_many`` that raised has taken nothing.
        """
        if limit < 1:
            raise ValueError(f"get_many(limit={limit}): limit must be at least 1")
        self._here()
        self._budget -= 1
        if self._budget < 0:
            await self._yield_to_others()
        if not self._queue:
            await self._until_item(self._deadline(timeout))
        if limit < len(self._queue):
            take = self._queue.popleft
            run = [take() for _ in range(limit)]
        else:
            run = list(self._queue)
            self._queue.clear()
        self._made_room(len(run))
        return run

    def __aiter__(self) -> BoundedQueue[T]:
        return self

    async def __anext__(self) -> T:
        """Return the next item; the iteration ends when the queue is closed and empty. Cancel-safe like :meth:`get`."""
        try:
            return await self.get()
        except QueueShutDown:
            raise StopAsyncIteration from None

    # -- the end ------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the queue: no more puts; each consumer gets what is left, and then END exactly once.

        A plain function: it never waits, needs no room, and calling it again changes nothing. Callers that
        wait in ``put`` get ``QueueShutDown``; their items were not taken.
        """
        if _get_running_loop() is not self._loop:
            self._here()
        if self._is_shutdown:
            return
        self._is_shutdown = True
        self._refuse(_closed)
        self._release_getters()

    def shutdown(self, immediate: bool = False) -> None:
        """The name asyncio has for :meth:`close`; ``immediate`` also drops what is queued (counted as dropped)."""
        self.close()
        if immediate:
            self._dropped += len(self._queue)
            self._settled = min(self._settled + len(self._queue), self._received)
            self._queue.clear()
            self._finish_if_settled()

    def task_done(self) -> None:
        """Report that the work on one item is done; raises ``ValueError`` if called more times than items were put."""
        if _get_running_loop() is not self._loop:
            self._here()
        if self._settled >= self._received:
            raise ValueError("task_done() called too many times")
        self._settled += 1
        self._finish_if_settled()

    async def join(self) -> None:
        """Wait until ``task_done`` was called for every accepted item. *Cancel safety*: nothing to lose."""
        self._here()
        if self._settled < self._received:
            if self._finished is None:
                self._finished = asyncio.Event()
            self._finished.clear()
            await self._finished.wait()

    def full(self) -> bool:
        """Whether there are ``maxsize`` items or more."""
        return len(self._queue) >= self._limit

    def statistics(self) -> QueueStatistics:
        """Return the counts so far, as a frozen object."""
        now = self._loop.time() if self._loop else 0.0
        return QueueStatistics(
            maxsize=self._maxsize,
            queued=len(self._queue),
            peak_queued=self._peak,
            received=self._received,
            settled=self._settled,
            dropped=self._dropped,
            waiting_put=len(self._putters),
            waiting_get=len(self._getters),
            put_waited=self._putters.seconds(now),
            get_waited=self._getters.seconds(now),
            ends=self._ends,
            closed=self._is_shutdown,
        )

    # -- inside -------------------------------------------------------------------------------

    def _put_in_room(self, item: T) -> None:
        """Put ``item``, for which room was seen just now: another thread may take none of that, but let puts ask."""
        if _get_running_loop() is not self._loop:
            self._here()
        if self._refusal is not None:
            raise self._refusal()
        self._enqueue(item)

    def _enqueue(self, item: T) -> None:
        """Add ``item``, which came through ``put``; the caller has seen room."""
        self._queue.append(item)
        self._received += 1
        if len(self._queue) > self._peak:
            self._grown()
        if self._getters and not self._getters.waking:
            self._getters.wake()

    def _put_when_full(self, item: T) -> None:
        raise asyncio.QueueFull

    def _take(self) -> T:
        item = self._queue.popleft()
        if self._putters:
            self._made_room()
        return item

    def _grown(self) -> None:
        """The queue is longer than ever before."""
        self._peak = len(self._queue)

    def _made_room(self, freed: int = 1) -> None:
        """Wake a putter for each slot freed."""
        if self._putters and len(self._queue) < self._limit:
            self._putters.wake(freed)

    def _made_item(self) -> None:
        """Wake a getter, if there is an item."""
        if self._queue:
            self._getters.wake()

    async def _yield_to_others(self) -> None:
        """Let others run once; called before an item is taken or put, never after (fault A8)."""
        self._budget = BUDGET - 1  # the item of the call that yields is the first of the next budget
        await checkpoint()

    def _deadline(self, timeout: float | None) -> float | None:
        return None if timeout is None else asyncio.get_running_loop().time() + timeout

    def _must_wait(self, deadline: float | None) -> bool:
        """Whether a caller of ``put`` has to wait for room."""
        return len(self._queue) >= self._limit and self._refusal is None

    async def _until_item(self, deadline: float | None) -> None:
        while not self._queue:
            if self._is_shutdown:
                raise self._end()
            await self._getters.wait(asyncio.get_running_loop(), deadline)
        if self._getters and len(self._queue) > 1:  # a put wakes nobody while somebody is woken already
            self._getters.wake()

    def _refuse(self, refusal: Callable[[], Exception]) -> None:
        """Accept no more puts, and wake the putters that wait."""
        self._refusal = self._refusal or refusal
        self._putters.wake(len(self._putters))

    def _release_getters(self) -> None:
        self._getters.wake(len(self._getters))

    def _end(self) -> QueueShutDown:
        self._ends += 1
        return QueueShutDown("this queue is closed and empty: END")

    def _finish_if_settled(self) -> None:
        if self._finished is not None and self._settled == self._received:
            self._finished.set()

    @property
    def _unfinished_tasks(self) -> int:  # asyncio keeps a counter; here it follows from two others
        return self._received - self._settled

    @_unfinished_tasks.setter
    def _unfinished_tasks(self, count: int) -> None:
        self._settled = self._received - count

    def _here(self) -> None:
        """Refuse a call from another loop or thread (fault A17): it would wake nobody, and race."""
        loop = _get_running_loop()
        if loop is self._loop:
            return
        if self._loop is None or self._loop.is_closed():
            if loop is not None:
                if self._loop is not None:
                    self._forget_loop()
                self._loop, self._thread, self._finished = loop, get_ident(), None
        elif loop is not None or get_ident() != self._thread:
            raise StateError(self._elsewhere)

    def _forget_loop(self) -> None:
        """Forget the loop, which was closed, and the waiters that were woken in it."""
        self._getters.waking = self._putters.waking = 0


def _closed() -> QueueShutDown:
    return QueueShutDown("this queue is closed: the item was not taken")
