"""``Bridge``: how threads put items into a channel.

A thread leaves its item in the bridge under a lock and goes on. One callback in the loop, :meth:`Bridge._look`, moves
all items that came since into the channel (fault D8). An item in the bridge counts against the bound, for everybody:

- *Threads* leave items while the channel, with the items on their way to it, has room. Otherwise they park, with their
  item. When there is room, the loop takes the item of the first parked thread and wakes it; that thread puts what else
  it has, and wakes the next one if there is room left.
- *The loop* claims a place under the lock before it puts (:meth:`Bridge.claim`), so no thread comes between its look
  and its put. A channel without a bridge pays nothing for this; with one, every put asks first.
- A coroutine that puts all the time is always faster than a thread that has to wake up first. Threads get their share
  all the same, since the loop takes their items for them.

Two rules keep items from being lost. Both sides look only under the lock, so a put is either refused or accepted, and
an item whose put returned is in the channel before the run checks whether anything is left to do (invariant 2). And
while a thread is parked, the loop will look, or the bridge waits for room, or another thread was woken and has not come
yet; the side that ends one of these takes care of the parked threads.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from math import inf
from threading import Lock, RLock, get_ident
from time import monotonic
from typing import Any, Final, Protocol

from ..core.channel import Channel
from ..core.seams import Ticket
from ..core.tracked import Tracked, fed
from ..core.waiting import BUDGET
from ..errors import QueueShutDown, StateError
from .into_loop import LONGEST_LOOK, LOOK, LOOP_IS_CLOSED, NOT_TAKEN, TIME_IS_UP, call_soon, in_loop
from .outside import begin_wait, end_wait

__all__ = ["Bridge", "Feedable", "ThreadedSource", "bridge_to"]

NO_ITEM: Final = object()

_making: Final = Lock()


class ThreadedSource(Protocol):
    """A source that is read in a thread."""

    stopped: bool
    """Whether it must produce no more, apart from an item that it has read already."""
    left: bool
    """Whether nobody takes its items any more."""

    def count_item(self) -> None:
        """Count an item of it that is in the channel now."""


class Feedable(Protocol):
    """What handlers of a run feed their items to."""

    def feed(self, item: Any, ticket: Ticket | None, /) -> None:
        """Feed an item, in the loop."""

    def count_fed(self, items: int, /) -> None:
        """Count items that were fed in threads and are in the channel now."""


def bridge_to(channel: Channel[Any]) -> Bridge:
    """The one bridge to ``channel``, from any thread.

    The loop sets its refusal before it looks for a bridge, and this looks for a refusal after the bridge is there; so
    whenever they meet, one of them sees the other.
    """
    with _making:
        bridge = channel.inlet
        if bridge is None:
            channel.inlet = bridge = Bridge(channel)
            channel.renew_mark()
            if channel.refusal is not None:
                bridge.refuses = True
        assert isinstance(bridge, Bridge)
        return bridge


class Bridge:
    """Takes items from threads into ``channel``; the methods for threads block, those for the loop never do."""

    __slots__ = (
        "_called",
        "_channel",
        "_fed",
        "_from_sources",
        "_is_dead",
        "_items",
        "_limit",
        "_lock",
        "_loop",
        "_moving",
        "_on_way",
        "_parked",
        "_plain",
        "_run",
        "_thread",
        "_waits",
        "_woken",
        "asks",
        "claimed",
        "refuses",
    )

    def __init__(self, channel: Channel[Any]) -> None:
        assert channel.loop is not None  # the run has begun
        self._channel = channel
        self._items = channel.items
        self._limit = channel.limit
        self._thread = channel.thread
        self._loop = channel.loop
        self._is_dead = self._loop.is_closed
        self._plain = not channel.runs_code  # of the user, when an item is put
        self._lock = RLock()  # a finalizer or signal handler of the user's may put, too, in the midst of it
        self._moving: deque[Any] = deque()  # put, not yet in the channel
        self._from_sources: deque[tuple[Any, ThreadedSource]] = deque()  # likewise, of sources
        self._on_way = 0  # how many those are
        self._fed: deque[Any] = deque()  # fed, which has no bound
        self._run: Feedable | None = None  # that it is fed to
        self._parked: deque[_Parked] = deque()  # threads that wait for room, first come first
        self._woken = 0  # threads that were woken and have not come yet
        self._called = False  # whether the loop will look
        self._waits = False  # whether it waits for room
        self.asks: bool = self._plain and self._limit < inf
        """Whether puts in the loop must claim a place."""
        self.claimed: int = 0
        """Places that a put in the loop is about to use."""
        self.refuses: bool = False
        """Whether the channel refuses ``put``."""

    # -- for threads --------------------------------------------------------------------------

    def put(self, item: Any, timeout: float | None = None) -> None:
        """Put ``item`` from a thread; wait for room for at most ``timeout`` seconds.

        Raises ``TimeoutError`` after that, ``QueueShutDown`` when the run drains or has ended or its loop is closed,
        and ``StateError`` in the loop's own thread (fault D7). A put that raised left nothing behind; one that is
        interrupted, as by Ctrl-C, leaves nothing behind unless the loop is taking its item just then.
        """
        if self._plain and get_ident() != self._thread:
            with self._lock:
                if (
                    self._called
                    and self.claimed + self._on_way + len(self._items) < self._limit  # as in _has_room
                    and not (self.refuses or self._is_dead())
                ):
                    self._moving.append(item)
                    self._on_way += 1
                    if self._parked:
                        self._wake_next()
                    return
        if get_ident() == self._thread and not (self.refuses or self._is_dead()):
            raise StateError(
                "waiting would block the run's own loop: write 'await running.put(item)' there, or running.call(item)"
            )
        waits = self._channel.check_waiter if timeout is None and self._channel.when_full is None else None
        if waits is not None and not (self._has_room() or self.refuses or self._is_dead()):
            waits()
        self._deliver(item, None, None if timeout is None else monotonic() + timeout)

    def put_from_source(self, item: Any, source: ThreadedSource) -> None:
        """Put an item of a source; a stopped source does not wait for room, since its item has been read already."""
        self._deliver(item, source, None)

    def room_for(self, source: ThreadedSource) -> bool:
        """Wait until the source may be asked for its next item; False when it is to stop."""
        while True:
            with self._lock:
                if source.stopped or self._is_dead():
                    return False
                if self._has_room() or self._channel.when_full is not None:
                    return True
                parked = self._park(NO_ITEM, source)
            self._sleep(parked, None)

    def feed(self, item: Any, ticket: Ticket | None, run: Feedable) -> None:
        """Put an item that a handler feeds, without waiting for room; raises ``QueueShutDown`` when its run has ended.

        The handler's worker is busy until the loop learns that the handler has returned. The loop takes the item before
        that, so the run never seems to have nothing left to do (invariant 3).
        """
        if self._channel.container is not None:  # a container runs user code, whose errors belong to the caller
            in_loop(self._loop, run.feed, item, ticket)
            return
        with self._lock:
            if not self._fed:
                call_soon(self._loop, self.take_fed)
            self._run = run
            self._fed.append(item if ticket is None else Tracked(item, ticket))
            # Looked at last: unless the channel is closed by now, the loop takes the item before anyone sees END.
            if self._channel.closed or self._is_dead():
                self._fed.pop()
                raise QueueShutDown("feed() after the end of its run: the item was not taken")

    def _deliver(self, item: Any, source: ThreadedSource | None, deadline: float | None) -> None:
        attempt = self._attempt if self._plain else partial(self._attempt_in_loop, deadline)
        while (parked := attempt(item, source)) is not None and not self._sleep(parked, deadline):
            pass

    def _attempt(self, item: Any, source: ThreadedSource | None) -> _Parked | None:
        """Leave the item if there is room, or else park.

        It calls the loop after releasing the lock: the call wakes the loop at once, which would find the lock held and
        sleep again, for each item where the bound is small.
        """
        parked, calls = None, False
        try:
            with self._lock:
                self._check(source)
                if self._has_room() or (source is not None and source.stopped):
                    self._take(item, source)
                    if self._parked:
                        self._wake_next()
                    if not self._called:
                        self._called = calls = True
                else:
                    parked = self._park(item, source)
            if calls:
                call_soon(self._loop, self._look)
        except BaseException:
            if calls:  # a signal handler may raise before the call; the others must not rely on it then
                self._called = False
            raise
        return parked

    def _attempt_in_loop(self, deadline: float | None, item: Any, source: ThreadedSource | None) -> _Parked | None:
        """As :meth:`_attempt`, where a container or a policy runs the user's code, which belongs into the loop.

        The loop has a moment to answer, even if there is no time to wait for room.
        """
        self._check(source)
        answer = None if deadline is None else max(deadline, monotonic() + LOOK)
        parked: _Parked | None = in_loop(self._loop, self._place, item, source, deadline=answer, undo=self._unpark)
        return parked

    def _unpark(self, parked: _Parked | None) -> None:
        if parked is not None:
            with self._lock:
                self._leave(parked)

    def _sleep(self, parked: _Parked, deadline: float | None) -> bool:
        """Sleep until woken, or until it is time to look; return whether the item was taken meanwhile.

        The loop wakes threads when half of the room is free; one that looks by itself may be in time for less. They
        look one after the other: if all did each time, many would keep a core busy.
        """
        left = min(LOOK * max(1, len(self._parked)), LONGEST_LOOK)
        if deadline is not None:
            left = min(left, deadline - monotonic())
        try:
            with self._lock:
                if not parked.woken:  # who wakes it says that it does not wait any more
                    parked.thread = get_ident()
                    begin_wait(parked.thread)
            if left > 0:
                parked.lock.acquire(timeout=left)
        finally:
            with self._lock:
                self._leave(parked)
        if left <= 0 and not parked.woken:
            raise TimeoutError(TIME_IS_UP)
        return parked.taken

    # -- for threads, under the lock ----------------------------------------------------------

    def _check(self, source: ThreadedSource | None) -> None:
        if self._is_dead():
            raise QueueShutDown(f"{LOOP_IS_CLOSED}: {NOT_TAKEN}")
        if source is None and self._channel.refusal is not None:
            raise self._channel.refusal()
        if source is not None and source.left:
            raise QueueShutDown("an item that it produced was not taken")

    def _has_room(self) -> bool:
        # In this order: a put in the loop ends without the lock, so that what was claimed is an item a moment later.
        return self.claimed + self._on_way + len(self._items) < self._limit

    def _take(self, item: Any, source: ThreadedSource | None) -> None:
        """Take an item from a thread."""
        if source is None:
            self._moving.append(item)
        else:
            self._from_sources.append((item, source))
        self._on_way += 1

    def _park(self, item: Any, source: ThreadedSource | None) -> _Parked:
        """Let the caller wait for room, with ``item`` if it can be taken without the caller."""
        parked = _Parked(item, source)
        self._parked.append(parked)
        self._see_to_parked()
        return parked

    def _leave(self, parked: _Parked) -> None:
        """Let a parked thread go on."""
        if parked.woken:
            self._woken = max(0, self._woken - 1)
        else:
            self._parked.remove(parked)
            end_wait(parked.thread)
            self._woken, self._called = 0, False  # in vain: a thread that was interrupted keeps no promise
        if self._parked:
            self._wake_next()
            self._see_to_parked()

    def _see_to_parked(self) -> None:
        """Make sure that the loop looks while a thread is parked, or an item of a woken thread is on its way."""
        if (self._on_way or not self._woken) and not (self._waits or self._called or self._is_dead()):
            call_soon(self._loop, self._look)
            self._called = True

    def _wake_next(self) -> bool:
        """Wake the first parked thread, if there is room and no other is coming; return whether that takes a place."""
        if self._woken or not self._has_room():
            return False
        first = self._parked.popleft()
        self._wake(first)
        return first.taken

    def _wake(self, parked: _Parked) -> None:
        if parked.item is not NO_ITEM:
            self._take(parked.item, parked.source)
            parked.taken = True
        parked.woken = True
        end_wait(parked.thread)
        self._woken += 1
        parked.lock.release()

    # -- for the loop -------------------------------------------------------------------------

    def claim(self) -> bool:
        """Claim a place, if there is one, for the item that is put next; nothing else may happen in between."""
        if not self.asks:
            return len(self._items) + self.taken() < self._limit
        if not self.claimed:  # or a caller that has asked twice
            with self._lock:
                if len(self._items) + self.taken() < self._limit:
                    self.claimed = 1
        return bool(self.claimed)

    def taken(self) -> int:
        """Places that are taken although they hold no item yet."""
        if self._on_way and len(self._items) < self._limit:
            self._look_soon()  # the caller may have been woken for this room in place of the bridge
        return self._on_way

    def close(self) -> None:
        """Move all items, whatever the bound says, and wake parked threads: the channel refuses ``put`` from now on."""
        with self._lock:  # for the moment in which a thread that saw no refusal may still leave an item
            self.refuses = True
            self._move(self._on_way)
            for parked in [one for one in self._parked if one.source is None]:
                self._parked.remove(parked)
                parked.item = NO_ITEM  # it will see for itself
                self._wake(parked)
        self.take_fed()

    def stop(self, source: ThreadedSource) -> None:
        """Ask the source for no more, and wake it if it waits for room; items that it has put are still taken."""
        with self._lock:
            source.stopped = True
            for parked in [one for one in self._parked if one.source is source]:
                self._parked.remove(parked)
                self._wake(parked)

    def leave(self, source: ThreadedSource) -> None:
        """Take the items that the source has put, whatever the bound says, and none from now on."""
        with self._lock:
            source.left = True
            self._move(self._on_way)
        self._channel.note_length()

    def take_fed(self) -> None:
        """Move all fed items in one step, since the handlers that fed them are about to return."""
        with self._lock:
            if self._run is not None:
                self._items.extend([fed(one.item, one.ticket) if type(one) is Tracked else one for one in self._fed])
                self._run.count_fed(len(self._fed))
                self._fed.clear()
        self._channel.note_length()

    def _place(self, item: Any, source: ThreadedSource | None) -> _Parked | None:
        """As :meth:`_attempt`, called in the loop."""
        self._check(source)
        channel = self._channel
        full, stopped = channel.places_taken() >= channel.limit, source is not None and source.stopped
        if full and channel.when_full is None and not stopped:
            with self._lock:
                return self._park(NO_ITEM, source)
        if source is None:
            channel.put_nowait(item)
            return None
        if full and channel.when_full is not None:
            channel.when_full.from_within(item)
        else:
            channel.enqueue(item)
        source.count_item()
        return None

    def _look(self) -> None:
        """Move the items that fit, and wake a thread if there is room, or else wait for room.

        It looks again in the next iteration as long as something comes and there is room for more, so that no thread
        has to call.
        """
        channel = self._channel
        channel.renew_mark()  # once more, in the loop: it may have done so itself just when this was made
        with self._lock:
            self._called, self.claimed = False, 0  # nobody in the loop is about to put now
            if self._parked:
                self._wake_next()
            if self._move(min(self._limit - len(self._items), BUDGET)) and len(self._items) < self._limit:
                self._look_soon()
            if (self._on_way or (self._parked and not self._woken)) and not (self._called or self._waits):
                self._waits = True
                channel.writers.call(self._made_room)
        channel.note_length()  # without the lock, as an eager task begins its work in here

    def _look_soon(self) -> None:
        if not self._called:
            self._called = True
            self._loop.call_soon(self._look)

    def _move(self, most: float) -> int:
        """Move up to ``most`` items; return how many were moved."""
        moving, moved = self._moving, 0
        if moving:  # or the channel may have a container that runs code, into which threads put nothing themselves
            moved = min(len(moving), max(0, int(most)))
            self._channel.came_from_outside(moved)
            if moved == len(moving) and self._channel.container is None:
                self._items.extend(moving)
                moving.clear()
            else:
                for _ in range(moved):
                    self._items.append(moving.popleft())
        while moved < most and self._from_sources:
            item, source = self._from_sources.popleft()
            self._items.append(item)
            source.count_item()
            moved += 1
        self._on_way -= moved
        return moved

    def _made_room(self) -> None:
        """Use the room that the bridge has waited for: take a thread's item, or leave the room to others."""
        channel = self._channel
        self._waits = False
        with self._lock:
            used = bool(self._parked) and self._wake_next()
            self._move(min(self._limit - len(self._items), BUDGET))
            if channel.getters or self._on_way or (self._parked and not self._woken):
                self._look_soon()  # not now: others would begin before the worker that has just taken an item
            else:
                channel.note_length()
        if not used:
            channel.writers.wake()
            channel.putters.wake()


class _Parked:
    """A thread that waits for room."""

    __slots__ = ("item", "lock", "source", "taken", "thread", "woken")

    def __init__(self, item: Any, source: ThreadedSource | None) -> None:
        self.item: Any = item
        """The item that it puts; NO_ITEM if it only waits for room."""
        self.source: ThreadedSource | None = source
        self.thread: int = 0
        """Its identity, once it waits."""
        self.lock: Lock = Lock()
        self.lock.acquire()
        self.woken: bool = False
        self.taken: bool = False
        """Whether the item was taken, so that its put is done."""
