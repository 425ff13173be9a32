"""``BoundedQueue``: the bounded buffer between two stages, and the only place that touches waiters.

How it works, in a page
-----------------------
An item lies in a deque until the coroutine that will have it really runs. A wake-up is only a hint
that there may be something to take (or room to put); whoever is woken looks again. So a cancelled
waiter can lose nothing: the item is still in the deque, and the wake-up it was given is passed on
to the next in line. Handing items to the waiters' futures instead loses them on cancellation.

Three lines may form at a queue:

- *getters*, waiting for an item; a put wakes one, unless one is on its way already, and sees to it that others follow
  if that one leaves something for them. A pipeline's workers that have not started stand last in it;
- *putters*, callers of :meth:`BoundedQueue.put`; every free slot wakes one, as in asyncio;
- *writers*, a pipeline's own workers. They are woken in bulk once half of the room is free, which
  turns a switch of tasks per item into one per half a queue; where branches meet, they take :class:`Turns`.

END is not an item. :meth:`BoundedQueue.close` is a plain function that sets a flag and wakes all;
every consumer takes what is left, then finds the queue empty and closed, and that is END: it needs
no slot, cannot be blocked, overtaken or mistaken for a payload.

A pipeline's workers (``worker.py``) append to and pop from the deque directly while there is room
and backlog; no coroutine is made, no future, no clock read. What they must look at is in three fields:
``_mark`` (the length from which a writer takes the slow path: full, a new peak, or not its turn), ``_getters`` (a
writer wakes one of them unless one is on its way already), ``_putters`` and ``_writers`` (a taker calls
:meth:`BoundedQueue._made_room` for them).
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
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar, cast, final

from .errors import QueueShutDown, StateError
from .waiting import Line, pause

if TYPE_CHECKING:
    from .bridge import Bridge
    from .containers import Batches, Heap, Lanes
    from .turns import Turns

__all__ = ["DEFAULT_MAXSIZE", "END", "BoundedQueue", "QueueStatistics"]

T = TypeVar("T")

DEFAULT_MAXSIZE: Final = 128
"""Items a queue holds unless told otherwise: enough to spare switches, too few to hide a slow consumer."""

BUDGET: Final = 128
"""Items that ``put`` and ``get`` of one queue move without letting others run (invariant 10)."""


@final
class _End:
    """The class of :data:`END`."""

    def __repr__(self) -> str:
        return "END"


_NO_MORE: Final = object()

END: Final = _End()
"""What a consumer is told, once, when its queue is closed and empty; never an item."""


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
    """How often END was told: once per consumer."""
    closed: bool
    """Whether the queue is closed."""


class BoundedQueue(asyncio.Queue[T], Generic[T]):
    """A drop-in ``asyncio.Queue`` that is bounded by default, can be closed, and counts.

    All verbs of ``asyncio.Queue`` keep their meaning, on every Python version alike. The queue is FIFO, and no base for
    queues of another order: a subclass that overrides where items are kept is refused with ``TypeError``. It belongs to
    the loop that first waits on it; a call from another loop or thread raises ``StateError``.

    ``maxsize`` is in items. It defaults to :data:`DEFAULT_MAXSIZE`; 0 or less means unbounded.
    """

    # Declared for type checkers: asyncio's own attributes, shared on purpose so that its repr stays true.
    _queue: deque[T]
    _finished: asyncio.Event
    _maxsize: float
    _loop: asyncio.AbstractEventLoop | None

    def __init_subclass__(cls) -> None:
        for base in set(cls.__mro__) - {asyncio.Queue}:
            if overridden := {"_init", "_put", "_get"} & vars(base).keys():
                name = ", ".join(sorted(overridden))
                raise TypeError(
                    f"{cls.__name__}: a BoundedQueue is FIFO and does not call {name}; see @consumer(priority=)"
                )

    def __init__(self, maxsize: float = DEFAULT_MAXSIZE) -> None:
        self._received = 0
        self._accepted = 0  # of these, by put and put_nowait
        self._settled = 0
        # typeshed says int, but asyncio itself only compares maxsize, and CPython's own queue tests make queues of 1.3
        # and -1.3 and hold them to that; a drop-in replacement must take what they take.
        super().__init__(maxsize)  # type: ignore[arg-type]
        self._limit: float = maxsize if maxsize > 0 else math.inf
        self._low = self._limit // 2 if maxsize > 0 else math.inf
        self._peak = 0
        self._mark: float = 0
        self._getters = Line(self._made_item)  # wait for an item
        self._putters = Line(self._made_room)  # wait for room, outside a pipeline
        self._writers = Line(self._made_room)  # wait for room: a pipeline's workers
        self._holds_writers = True
        self._writers_next = False  # who is woken next, if both putters and writers wait
        self._is_shutdown = False
        self._refusal = ""  # why puts are refused; empty while they are not
        self._refused: type[Exception] = QueueShutDown  # what they are refused with
        self._ends = 0
        self._dropped = 0
        self._turn = BUDGET
        self._thread = 0
        self._available: Callable[[], int] = self._queue.__len__  # how many items can be taken now
        self._overflow: Callable[[Any], None] | None = None  # instead of waiting for room
        self._bridge: Bridge | None = None  # for threads
        self._turns: Turns | None = None  # of its writers, where they are of several stages or sources
        self._workers = 0  # of a pipeline's stage, those in reserve included
        self._lingering = 0  # of these, those that let others run before they go on
        self._calling = False  # whether _call_more() is about to run

    # -- put ----------------------------------------------------------------------------------

    async def put(self, item: T, timeout: float | None = None) -> None:
        """Put ``item``, waiting for room if the queue is full, at most ``timeout`` seconds.

        Raises ``TimeoutError`` when the time is up and ``QueueShutDown`` when the queue is or gets closed.

        *Cancel safety*: all or nothing. A ``put`` that raised, whatever it raised, left nothing behind.
        """
        self._turn -= 1
        if self._turn < 0:
            await self._breathe()
        if len(self._queue) >= self._limit and not self._refusal and self._overflow is None:
            self._here()
            await self._until_room(self._deadline(timeout))
            try:
                self.put_nowait(item)
            except BaseException:  # of a function of the user, such as key=: the room is for somebody else
                self._made_room()
                raise
            return
        self.put_nowait(item)

    def put_nowait(self, item: T) -> None:
        """Put ``item`` at once; raises ``asyncio.QueueFull`` without room, ``QueueShutDown`` when closed."""
        if _get_running_loop() is not self._loop:
            self._here()
        if self._refusal:
            raise self._refused(self._refusal)
        if len(self._queue) >= self._limit:
            if self._overflow is None:
                raise asyncio.QueueFull
            try:
                self._overflow(item)
            except asyncio.QueueFull:
                raise
            except BaseException:  # of on_drop=: the item was taken, or dropped
                self._accepted += 1
                raise
            self._accepted += 1
            return
        self._enqueue(item, 1)

    async def put_many(self, items: Iterable[T], timeout: float | None = None) -> None:
        """Put all ``items`` in order, in runs as large as the room, within ``timeout`` seconds in all.

        Raises as :meth:`put` does. *Cancel safety*: what was accepted stays accepted; ``items`` is read only as
        far as there is room, so if you pass an iterator, what was not accepted is still in it. (So it takes room to
        find out that one which does not know its length has ended.)
        """
        self._here()
        source = iter(items)
        deadline = self._deadline(timeout)
        try:
            while self._put_run(source):
                await self._breathe()
                await self._until_room(deadline)
        finally:
            self._made_room()  # it may have been woken for more than it put

    def _put_run(self, source: Iterator[T]) -> bool:
        """Put as many as there is room for; whether there may be more. A plain function."""
        if self._refusal:
            raise self._refused(self._refusal)
        room = max(0, min(self._limit - len(self._queue), BUDGET))
        before = len(self._queue)
        try:
            self._queue.extend(islice(source, math.ceil(room)))
        finally:  # the source may raise; what it gave before is in
            moved = len(self._queue) - before
            self._received += moved
            if len(self._queue) > self._peak:
                self._grown()
            self._getters.wake(moved)
        if moved < room:
            return False
        if not length_hint(source, 1):  # it says that it has no more
            if (more := next(source, _NO_MORE)) is _NO_MORE:
                return False
            self._enqueue(cast(T, more))  # one above the bound, since it is in our hand
        return True

    # -- get ----------------------------------------------------------------------------------

    async def get(self, timeout: float | None = None) -> T:
        """Take the next item, waiting for one at most ``timeout`` seconds.

        Raises ``TimeoutError`` when the time is up and ``QueueShutDown`` (END) when the queue is closed and empty.

        *Cancel safety*: all or nothing. A ``get`` that raised has taken nothing.
        """
        self._turn -= 1
        if self._turn < 0:
            await self._breathe()
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
        self._turn -= 1
        if self._turn < 0:
            await self._breathe()
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
        """The next item; the loop ends when the queue is closed and empty. Cancel safety as :meth:`get`."""
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
        self._is_shutdown = True  # first: what a thread feeds after the next line's last look is refused
        self._refuse("this queue is closed: the item was not taken")
        if len(self._queue) == 0:
            self._dismiss()
        self._getters.wake(len(self._getters))
        self._release_writers()

    def shutdown(self, immediate: bool = False) -> None:
        """The name asyncio has for :meth:`close`; ``immediate`` also drops what is queued (counted as dropped)."""
        self.close()
        if immediate:
            self._dropped += len(self._queue)
            self._settled = min(self._settled + len(self._queue), self._received)
            self._queue.clear()
            self._finish_if_settled()

    def task_done(self) -> None:
        """Say that the work on one item is complete; raises ``ValueError`` if called more often than items were put."""
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
            self._finished.clear()
            await self._finished.wait()

    def full(self) -> bool:
        """Whether there are ``maxsize`` items or more."""
        return len(self._queue) >= self._limit

    def statistics(self) -> QueueStatistics:
        """What the queue has seen so far, as a frozen object."""
        now = self._loop.time() if self._loop else 0.0
        return QueueStatistics(
            maxsize=self._maxsize,
            queued=len(self._queue),
            peak_queued=self._peak,
            received=self._received,
            settled=self._settled,
            dropped=self._dropped,
            waiting_put=len(self._putters) + len(self._writers),
            waiting_get=len(self._getters),
            put_waited=self._put_waited(now),
            get_waited=self._getters.seconds(now),
            ends=self._ends,
            closed=self._is_shutdown,
        )

    # -- for a pipeline's workers -------------------------------------------------------------

    def _keep_in(self, container: Heap | Lanes | Batches) -> None:
        """Keep items in ``container``; to be called before any is put."""
        self._queue = cast("deque[T]", container)
        self._available = container.available

    def _tell_end(self) -> _End | None:
        """Tell END, if this queue is closed; its caller has found it empty."""
        if not self._is_shutdown:
            return None
        self._ends += 1
        return END

    async def _linger(self) -> None:
        """Let others run once, with an empty hand: as if woken already, so that a writer need not wake anybody else."""
        self._getters.waking += 1
        self._lingering += 1
        try:
            await pause()
        except BaseException:
            self._made_item()
            raise
        finally:
            self._getters.waking -= 1
            self._lingering -= 1
        self._share()

    def _share(self) -> None:
        """Whoever was woken sees to it that others are, unless it can handle what is left without waiting.

        A pipeline's writers wake one getter for a run of items, not one for each. It starts on the first item; if that
        makes it wait, the loop goes on, to :meth:`_call_more`; if it does not, there will be nothing left by then.
        """
        if self._getters and not self._calling and self._available() > 1 + self._getters.waking:
            self._calling = True
            asyncio.get_running_loop().call_soon(self._call_more)

    def _call_more(self) -> None:
        """Wake as many as are at work already: so there are soon enough, even thousands, and never many too many."""
        self._calling = False
        left = self._available() - self._getters.waking
        if left > 0 and not self._lingering:  # whoever lingers never waits, so others would only take its turn
            at_work = self._workers - self._getters.waiting if self._workers else left
            self._getters.wake(min(left, max(1, at_work), BUDGET))

    def _dismiss(self) -> None:
        """Start none of the workers in reserve any more."""
        self._workers -= self._getters.dismiss()

    def _joined(self) -> None:
        """A worker that a wake-up called for has begun."""
        self._getters.waking -= 1
        self._share()

    async def _push(self, item: T) -> None:
        """Put ``item`` when there is room.

        *Cancel safety*: a cancelled push leaves its item in the queue (invariant 2), one above the bound.
        """
        if self._overflow is not None and len(self._queue) >= self._limit:
            try:
                self._overflow(item)
            except asyncio.QueueFull:  # the run fails of it, and lists the item
                self._enqueue(item)
                raise
            return
        in_vain = False  # then it is the first to be woken again
        try:
            if self._turns is not None and not self._turns.may_put():
                await self._turns.wait()
            while len(self._queue) >= self._limit and self._holds_writers:
                await self._writers.stand(asyncio.get_running_loop(), first=in_vain)
                in_vain = True
        except BaseException:
            self._enqueue(item)
            raise
        try:
            self._enqueue(item)
        except BaseException:  # of a function of the user, such as key=: the room is for somebody else
            self._made_room()
            raise

    async def _room(self) -> None:
        """Wait for room before asking a source for its next item.

        The source may never use the room, so the wake-up is passed on at once; the one who asks looks again with
        the item in hand (:meth:`_push`).
        """
        has_room = len(self._queue) < self._limit if self._turns is None else self._turns.may_put(0)
        if not has_room and self._overflow is None:
            if self._turns is not None:
                await self._turns.wait()
            while len(self._queue) >= self._limit and self._holds_writers:
                await self._writers.stand(asyncio.get_running_loop())
            self._writers.wake()
            self._putters.wake()

    def _may_enqueue(self) -> bool:
        """Whether a writer may add an item without asking for its turn."""
        return self._turns is None and len(self._queue) < self._limit

    def _refuse(self, why: str) -> None:
        """Accept no more puts from outside; consumers see nothing of it until :meth:`close`."""
        self._refusal = self._refusal or why
        if self._bridge is not None:
            self._bridge.close()
        self._putters.wake(len(self._putters))

    def _release_writers(self) -> None:
        """Let writers wait no more: their run is cancelled, so nobody will make room for those who ignore it (B4)."""
        self._holds_writers = False
        self._writers.wake(len(self._writers))

    def _enqueue(self, item: T, accepted: int = 0) -> None:
        """Add ``item`` whatever the bound says: for those who saw room, give back, or feed."""
        self._queue.append(item)
        self._received += 1
        self._accepted += accepted
        if len(self._queue) > self._peak:
            self._grown()
        if self._getters and not self._getters.waking:
            self._getters.wake()

    def _made_room(self, freed: int = 1) -> None:
        """Wake who waits for room: a putter for each slot freed, the writers in bulk when half is free.

        While both wait they take turns slot by slot, so that neither starves the other.
        """
        if self._putters and len(self._queue) < self._limit:
            lines = [self._putters, self._writers]
            if self._writers_next:
                lines.reverse()
            self._writers_next = not self._writers_next
            freed -= lines[0].wake(freed)
            lines[1].wake(freed)  # what is left, since those in the first line may all be cancelled
        elif self._writers and len(self._queue) <= self._low:
            if self._turns is not None:
                self._turns.wake()
            else:
                self._writers.wake(int(self._limit) - len(self._queue))

    def _made_item(self) -> None:
        """Wake who waits for an item, if there is one."""
        if self._queue:
            self._getters.wake()

    # -- inside -------------------------------------------------------------------------------

    def _take(self) -> T:
        item = self._queue.popleft()
        if self._putters or self._writers:
            self._made_room()
        return item

    def _grown(self) -> None:
        """Keep the peak and the mark true: the queue is longer than ever."""
        self._peak = len(self._queue)
        self._mark = min(self._limit - 1, self._peak) if self._turns is None else self._turns.mark()

    def _end(self) -> QueueShutDown:
        self._ends += 1
        return QueueShutDown("this queue is closed and empty: END")

    async def _breathe(self) -> None:
        """Let others run once; called before an item is taken or put, never after (fault A8)."""
        self._turn = BUDGET - 1  # the item of the call that yields is the first of the next turn
        await pause()

    def _deadline(self, timeout: float | None) -> float | None:
        return None if timeout is None else asyncio.get_running_loop().time() + timeout

    async def _until_room(self, deadline: float | None) -> None:
        while len(self._queue) >= self._limit and not self._refusal:
            await self._putters.stand(asyncio.get_running_loop(), deadline)

    async def _until_item(self, deadline: float | None) -> None:
        while not self._queue:
            if self._is_shutdown:
                raise self._end()
            await self._getters.stand(asyncio.get_running_loop(), deadline)
        self._share()

    def _put_waited(self, now: float) -> float:
        return self._putters.seconds(now) + self._writers.seconds(now)

    def _finish_if_settled(self) -> None:
        if self._settled == self._received:
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
            if self._workers:
                raise QueueShutDown("the loop of this run is closed: the item was not taken")
            if loop is not None:
                if self._loop is not None:  # what belonged to the old loop does not count any more
                    self._calling = False
                    for line in self._getters, self._putters, self._writers:
                        line.waking = 0
                self._loop, self._thread = loop, get_ident()
                self._finished = asyncio.Event()
        elif loop is not None or get_ident() != self._thread:
            raise StateError(
                "this BoundedQueue belongs to another event loop or thread; from a thread, hand the call over: "
                "asyncio.run_coroutine_threadsafe(queue.put(item), loop)"
            )
