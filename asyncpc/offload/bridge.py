"""``Bridge``: how threads put items into a pipeline's queue.

A thread hands its item over under a lock and goes on; one callback in the loop moves all that came since into the queue
(fault D8). What was handed over counts against the bound from then on: a thread waits when the queue and what is on its
way to it are full, and is woken when half of the room is free, as a pipeline's own writers are.

All that both sides look at is looked at under the lock. So refusing and handing over exclude each other, and an item
whose put returned is in the queue before the run looks whether it has nothing left to do (invariant 2).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from itertools import islice
from threading import Lock, RLock, get_ident
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, cast

from ..core.channel import Channel
from ..core.waiting import BUDGET
from ..errors import QueueShutDown, StateError

if TYPE_CHECKING:
    from ..run.supervisor import Supervisor
    from .sources import BlockingSource

__all__ = ["Bridge", "bridge_to"]

LOOK: Final = 0.05
"""Seconds after which a thread that waits looks by itself: a loop that died wakes nobody (fault D6)."""

EXPECTED: Final = 0.0005
"""Seconds after which the loop looks by itself whether a thread that it has woken put something."""

LOOP_IS_CLOSED: Final = "the loop of this run is closed"

_making: Final = Lock()


def bridge_to(queue: Channel[Any]) -> Bridge:
    """The one bridge to ``queue``, from any thread.

    One that is made while the loop refuses is no danger: it looks at the refusal, which is set first, before it takes.
    """
    with _making:
        if queue.inlet is None:
            queue.inlet = Bridge(queue)
        return cast(Bridge, queue.inlet)


class Bridge:
    """Takes items from threads into ``queue``; the methods for threads block, those for the loop never do."""

    __slots__ = (
        "_called",
        "_fed",
        "_given",
        "_is_dead",
        "_items",
        "_limit",
        "_lock",
        "_looking",
        "_loop",
        "_moving",
        "_on_way",
        "_parked",
        "_plain",
        "_queue",
        "_run",
        "_standing",
        "_thread",
    )

    def __init__(self, queue: Channel[Any]) -> None:
        assert queue.loop is not None  # the run has begun
        self._queue = queue
        self._items = queue.items
        self._limit = queue.limit
        self._thread = queue.thread
        self._loop = queue.loop
        self._is_dead = self._loop.is_closed
        self._plain = type(queue.items) is deque and queue.when_full is None  # or putting runs the user's code
        self._lock = RLock()  # a finalizer or signal handler of the user's may put, too, in the midst of it
        self._moving: deque[Any] = deque()  # put, not yet in the queue
        self._given: deque[tuple[Any, BlockingSource]] = deque()  # likewise, of sources
        self._on_way = 0  # how many those are
        self._fed: deque[Any] = deque()  # fed, which has no bound
        self._run: Supervisor | None = None  # that it is fed to
        self._parked: deque[Any] = deque()  # the locks that waiting threads sleep on
        self._called = False  # whether the loop will look at what came
        self._looking = False  # likewise, in its next turn
        self._standing = False  # whether it stands in line for room

    # -- for threads --------------------------------------------------------------------------

    def put(self, item: Any, timeout: float | None = None) -> None:
        """Hand ``item`` over, waiting for room at most ``timeout`` seconds.

        Raises ``TimeoutError`` when the time is up, ``QueueShutDown`` when the run drains or has ended or its loop is
        closed, ``StateError`` in the loop's own thread (fault D7). What raised left nothing behind.
        """
        queue = self._queue
        if self._plain and get_ident() != self._thread:
            with self._lock:
                if (
                    self._called  # so the loop will look
                    and len(self._items) + self._on_way < self._limit
                    and not (queue.refusal or self._is_dead())
                ):
                    self._moving.append(item)
                    self._on_way += 1
                    return
        if get_ident() == self._thread and not (queue.refusal or self._is_dead()):
            raise StateError(
                "waiting would block the run's own loop: write 'await running.put(item)' there, or running.call(item)"
            )
        deadline = None if timeout is None else monotonic() + timeout
        while (gate := self._attempt(item, None)) is not None:
            self._sleep(gate, deadline)

    def give(self, item: Any, source: BlockingSource) -> None:
        """Hand over an item of a source; one that is stopped does not wait for room, as its item is taken already."""
        while (gate := self._attempt(item, source)) is not None:
            self._sleep(gate, None)

    def room_for(self, source: BlockingSource) -> bool:
        """Wait until the source may be asked for its next item; False when it is to stop."""
        while True:
            with self._lock:
                if source.stopped or self._is_dead():
                    return False
                if self._has_room() or self._queue.when_full is not None:
                    return True
                gate = self._park()
            self._sleep(gate, None)

    def feed(self, item: Any, run: Supervisor) -> None:
        """Hand over what a handler feeds, without waiting for room; raises ``QueueShutDown`` when its run has ended.

        Its worker is at work until the loop hears that the handler has returned, which is after it took the item, so
        the run cannot seem to have nothing left to do in between (invariant 3).
        """
        if type(self._items) is not deque:  # an order that runs user code, whose errors belong to the caller
            self._there(run.feed, item)
            return
        with self._lock:
            if not self._fed:
                self._call(self.take_fed)
            self._run = run
            self._fed.append(item)
            # Looked at last: unless the queue is closed by now, the loop takes the item before anyone sees END.
            if self._queue.closed or self._is_dead():
                self._fed.pop()
                raise QueueShutDown("feed() after the end of its run: the item was not taken")

    def result_of(self, future: Future[Any], lost: str) -> Any:
        """Wait for what the loop will set; ``QueueShutDown`` that says what is ``lost`` if the loop is closed before.

        That is no fault of who waits: a loop that is closed under its run answers nobody any more (fault D6).
        """
        while True:
            dead = self._is_dead()  # before it looks for the result, which may have been the loop's last act
            if future.done():
                return future.result()
            if dead:
                raise QueueShutDown(f"{LOOP_IS_CLOSED}: {lost}")
            with suppress(TimeoutError):
                future.exception(LOOK)

    def _attempt(self, item: Any, source: BlockingSource | None) -> Any:
        """Hand over if there is room, or else return what to sleep on."""
        with self._lock:
            self._check(source)
            if self._plain:
                if not (self._has_room() or (source is not None and source.stopped)):
                    return self._park()
                if not self._called:
                    self._call(self._come)
                    self._called = True
                if source is None:
                    self._moving.append(item)
                else:
                    self._given.append((item, source))
                self._on_way += 1
                return None
        return self._there(self._place, item, source)

    def _check(self, source: BlockingSource | None) -> None:
        """Refuse what nobody would take."""
        if self._is_dead():
            raise QueueShutDown(f"{LOOP_IS_CLOSED}: the item was not taken")
        if source is None and self._queue.refusal is not None:
            raise self._queue.refusal()
        if source is not None and source.left:
            raise QueueShutDown("an item that it gave was not taken")

    def _there(self, function: Callable[..., Any], *args: Any) -> Any:
        """What ``function`` gives, called in the loop: a queue's order or policy runs the user's code there only."""
        result: Future[Any] = Future()

        def call() -> None:
            try:
                result.set_result(function(*args))
            except BaseException as error:
                result.set_exception(error)

        self._call(call)
        return self.result_of(result, "the item was not taken")

    def _call(self, function: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            raise QueueShutDown(f"{LOOP_IS_CLOSED}: the item was not taken") from None

    def _has_room(self) -> bool:
        return len(self._items) + self._on_way < self._limit

    def _park(self) -> Any:
        """What to sleep on, until the loop has seen to room."""
        gate = Lock()
        gate.acquire()
        if not (self._looking or self._standing):
            self._call(self._come)
            self._called = True
        self._parked.append(gate)
        return gate

    def _sleep(self, gate: Any, deadline: float | None) -> None:
        left = LOOK if deadline is None else min(LOOK, deadline - monotonic())
        try:
            if left > 0 and gate.acquire(timeout=left):
                return
        finally:
            with self._lock:
                gave_up = gate in self._parked  # else it was woken in this very moment
                if gave_up:
                    self._parked.remove(gate)
        if gave_up and deadline is not None and monotonic() >= deadline:
            raise TimeoutError("time is up")

    # -- for the loop -------------------------------------------------------------------------

    def close(self) -> None:
        """Move all, whatever the bound says, and wake who waits: its queue takes no more from outside."""
        with self._lock:  # for the one moment in which a thread that saw no refusal may still hand over
            self._move(self._on_way)
            self._wake(len(self._parked))
        self.take_fed()

    def stop(self, source: BlockingSource) -> None:
        """Ask the source for no more, and wake it if it waits for room; what it gave already is still taken."""
        with self._lock:
            source.stopped = True
            self._wake(len(self._parked))

    def leave(self, source: BlockingSource) -> None:
        """Take what the source gave, whatever the bound says, and nothing that it gives from now on."""
        with self._lock:
            source.left = True
            self._move(self._on_way)
        self._tell()

    def _place(self, item: Any, source: BlockingSource | None) -> Any:
        """As :meth:`_attempt`, called in the loop."""
        self._check(source)
        queue = self._queue
        full, stopped = len(queue.items) >= queue.limit, source is not None and source.stopped
        if full and queue.when_full is None and not stopped:
            with self._lock:
                return self._park()
        if source is None:
            queue.put_nowait(item)
            return None
        if full and queue.when_full is not None:
            queue.when_full(item)
        else:
            queue.enqueue(item)
        source.worker.produced += 1
        return None

    def _come(self) -> None:
        """A thread has called."""
        if not self._looking:
            self._look()

    def _look(self) -> None:
        """Move what fits; and look again in the next turn as long as something comes, so that no thread has to call."""
        with self._lock:
            self._called = self._looking = self._move(min(self._limit - len(self._items), BUDGET)) > 0
            if self._looking:
                self._loop.call_soon(self._look)
            if (self._parked or self._on_way) and not self._standing:
                self._see_to_room()
        self._tell()

    def _move(self, most: float) -> int:
        """Move at most so many, and return how many those were."""
        moved = int(max(0, min(most, len(self._moving))))
        if moved:
            self._items.extend(islice(self._moving, moved))
            self._queue.came_from_outside(moved)
            if moved == len(self._moving):
                self._moving.clear()
            else:
                for _ in range(moved):
                    self._moving.popleft()
        while moved < most and self._given:
            item, source = self._given.popleft()
            self._items.append(item)
            source.worker.produced += 1
            moved += 1
        self._on_way -= moved
        return moved

    def take_fed(self) -> None:
        """Move what was fed, in one step however much it is: whoever fed it is about to return."""
        with self._lock:
            if self._run is not None:
                self._items.extend(self._fed)
                self._run.accounts.fed += len(self._fed)
                self._fed.clear()
        self._tell()

    def _tell(self) -> None:
        """Tell the queue that it may have grown; without the lock, as an eager task begins its work in here."""
        self._queue.note_length()

    def _see_to_room(self) -> None:
        """Wake as many threads as there is room for; for the others, stand in line with the pipeline's writers."""
        queue = self._queue
        room = self._limit - len(self._items) - self._on_way
        if not queue.holds_writers:
            self._wake(len(self._parked))
        elif room > 0 and self._parked:
            self._wake(int(min(room, len(self._parked))))
            if not self._called:  # they are about to come: they need not call, unless they have to wait again
                self._called = True
                self._loop.call_later(EXPECTED, self._come)
        if queue.holds_writers and (self._parked or (self._on_way and not self._looking)):
            self._standing = True
            waiter: asyncio.Future[None] = self._loop.create_future()
            waiter.add_done_callback(self._woken)
            queue.writers.append(waiter)

    def _woken(self, waiter: asyncio.Future[None]) -> None:
        self._queue.writers.waking -= 1
        self._standing = False
        self._queue.writers.wake()  # a source that was waited for may end, or idle, and never use the room
        self._queue.putters.wake()
        self._come()

    def _wake(self, most: int) -> None:
        for _ in range(most):
            self._parked.popleft().release()
