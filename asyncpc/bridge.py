"""``Bridge``: how threads put items into a pipeline's first queue, and how a blocking source is read.

A thread hands its item over under a lock and goes on; one callback in the loop moves all that came since into the queue
(fault D8). What was handed over counts against the bound from then on: a thread waits when the queue and what is on its
way to it are full, and is woken when half of the room is free, as a pipeline's own writers are.

Refusing and handing over exclude each other, so that an item whose put returned is in the queue before the run looks
whether it has nothing left to do (invariant 2).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import suppress
from contextvars import copy_context
from threading import Lock, RLock, Thread, get_ident
from time import monotonic
from typing import Any, Final, Protocol

from .errors import QueueShutDown, StateError
from .queue import BoundedQueue
from .threads import until_ended

__all__ = ["Bridge", "bridge_to", "read_in_thread"]

logger: Final = logging.getLogger("asyncpc")

LOOK: Final = 0.05
"""Seconds after which a thread that waits looks by itself: a loop that died wakes nobody (fault D6)."""

EXPECTED: Final = 0.0005
"""Seconds after which the loop looks by itself whether a thread that it has woken put something."""

BUDGET: Final = 128
"""Items moved before others run (invariant 10)."""

PATIENCE: Final = 0.02
"""Seconds that a stop waits for a source that may be about to give an item; then it is left to its thread."""


_making: Final = Lock()


class Counted(Protocol):
    """Who counts what a source gave."""

    name: str
    produced: int
    outbox: BoundedQueue[Any]


def bridge_to(queue: BoundedQueue[Any]) -> Bridge:
    """The one bridge to ``queue``, from any thread.

    One that is made while the loop refuses is no danger: it looks at the refusal, which is set first, before it takes.
    """
    with _making:
        if queue._bridge is None:
            queue._bridge = Bridge(queue)
        return queue._bridge


class Bridge:
    """Takes items from threads into ``queue``; the methods for threads block, those for the loop never do."""

    __slots__ = (
        "_called",
        "_is_dead",
        "_items",
        "_lock",
        "_looking",
        "_loop",
        "_moving",
        "_parked",
        "_plain",
        "_queue",
        "_standing",
    )

    def __init__(self, queue: BoundedQueue[Any]) -> None:
        assert queue._loop is not None  # the run has begun
        self._queue = queue
        self._items = queue._queue
        self._loop = queue._loop
        self._is_dead = self._loop.is_closed
        self._plain = type(queue._queue) is deque and queue._overflow is None  # or putting runs the user's code
        self._lock = RLock()
        self._moving: deque[tuple[Any, Source | None]] = deque()  # handed over, not yet in the queue
        self._parked: deque[Any] = deque()  # the locks that waiting threads sleep on
        self._called = False  # whether the loop will look at what came
        self._looking = False  # likewise, by itself
        self._standing = False  # whether it stands in line for room

    # -- for threads --------------------------------------------------------------------------

    def put(self, item: Any, timeout: float | None = None) -> None:
        """Hand ``item`` over, waiting for room at most ``timeout`` seconds.

        Raises ``TimeoutError`` when the time is up, ``QueueShutDown`` when the run drains or has ended or its loop is
        closed, ``StateError`` in the loop's own thread (fault D7). What raised left nothing behind.
        """
        queue = self._queue
        if self._plain and get_ident() != queue._thread:
            with self._lock:
                if (
                    self._called  # so the loop will look
                    and len(self._items) + len(self._moving) < queue._limit
                    and not (queue._refusal or self._is_dead())
                ):
                    self._moving.append((item, None))
                    return
        if queue._thread == get_ident() and not (queue._refusal or self._is_dead()):
            raise StateError("put_from_thread() would block the run's own loop: write 'await running.put(item)' there")
        deadline = None if timeout is None else monotonic() + timeout
        while (gate := self._attempt(item, None)) is not None:
            self._sleep(gate, deadline)

    def give(self, item: Any, source: Source) -> None:
        """Hand over an item of a source; one that is stopped does not wait for room, as its item is taken already."""
        while (gate := self._attempt(item, source)) is not None:
            self._sleep(gate, None)

    def room_for(self, source: Source) -> bool:
        """Wait until the source may be asked for its next item; False when it is to stop."""
        while True:
            with self._lock:
                if source.stopped or self._is_dead():
                    return False
                if self._has_room() or self._queue._overflow is not None:
                    return True
                gate = self._park()
            self._sleep(gate, None)

    def _attempt(self, item: Any, source: Source | None) -> Any:
        """Hand over if there is room, or else return what to sleep on."""
        queue = self._queue
        if not self._plain:
            return self._attempt_there(item, source)
        with self._lock:
            if self._is_dead():
                raise QueueShutDown("the loop of this run is closed: the item was not taken")
            if source is None and queue._refusal:
                raise QueueShutDown(queue._refusal)
            if source is not None and source.left:
                raise QueueShutDown("the source was stopped: the item was not taken")
            if not self._has_room() and not (source is not None and source.stopped):
                return self._park()
            self._moving.append((item, source))
            if not self._called:
                self._called = True
                try:
                    self._loop.call_soon_threadsafe(self._come)
                except RuntimeError:  # closed in this very moment
                    self._moving.pop()
                    raise QueueShutDown("the loop of this run is closed: the item was not taken") from None
        return None

    def _attempt_there(self, item: Any, source: Source | None) -> Any:
        """The same inside the loop: this queue's order or policy runs user code, whose errors belong to the caller."""
        from concurrent.futures import Future

        placed: Future[Any] = Future()

        def place() -> None:
            try:
                placed.set_result(self._place(item, source))
            except BaseException as error:
                placed.set_exception(error)

        with suppress(RuntimeError):  # the loop is closed, which the next look finds
            self._loop.call_soon_threadsafe(place)
        while not placed.done():
            if self._is_dead():
                raise QueueShutDown("the loop of this run is closed: the item was not taken")
            with suppress(TimeoutError):
                placed.exception(LOOK)
        return placed.result()

    def _has_room(self) -> bool:
        return len(self._items) + len(self._moving) < self._queue._limit

    def _park(self) -> Any:
        gate = Lock()
        gate.acquire()
        self._parked.append(gate)
        if not self._looking:
            self._called = True
            with suppress(RuntimeError):  # the loop was closed; who sleeps will see it
                self._loop.call_soon_threadsafe(self._come)
        return gate

    def _sleep(self, gate: Any, deadline: float | None) -> None:
        left = LOOK if deadline is None else min(LOOK, deadline - monotonic())
        if left > 0 and gate.acquire(timeout=left):
            return
        try:
            self._parked.remove(gate)
        except ValueError:  # woken in this very moment
            return
        if deadline is not None and monotonic() >= deadline:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._pass_on)
            raise TimeoutError("time is up")

    # -- for the loop -------------------------------------------------------------------------

    def close(self) -> None:
        """Move all, whatever the bound says, and wake who waits: its queue takes no more from outside."""
        with self._lock:  # for the one moment in which a thread that saw no refusal may still hand over
            self._move_some(len(self._moving))
        self._wake(len(self._parked))

    def _place(self, item: Any, source: Source | None) -> Any:
        queue = self._queue
        full = len(queue._queue) >= queue._limit
        if full and queue._overflow is None and not queue._refusal and not (source is not None and source.stopped):
            return self._park()
        if source is None:
            queue.put_nowait(item)
            return None
        if source.left:
            raise QueueShutDown("the source was stopped: the item was not taken")
        source.worker.produced += 1
        try:
            if full and queue._overflow is not None:
                queue._overflow(item)
                return None
        except asyncio.QueueFull:  # the run fails of it, and lists the item
            queue._enqueue(item)
            raise
        queue._enqueue(item)
        return None

    def _come(self) -> None:
        """A thread has called."""
        if not self._looking:
            self._look()

    def _look(self) -> None:
        """Move what fits; and look again in the next turn as long as something comes, so that no thread has to call."""
        self._looking = False
        moved = self._move_some(int(min(self._queue._limit - len(self._items), BUDGET)))
        if not moved:
            self._called = False  # a thread that has not seen this has handed over already
            moved = len(self._moving) > 0 and len(self._items) < self._queue._limit
        if moved:
            self._called = self._looking = True
            self._loop.call_soon(self._look)
        if (self._parked or self._moving) and not self._standing:
            self._see_to_room()

    def _move_some(self, most: int) -> bool:
        """Move at most so many, each into the queue before it is taken from here: it is never in neither."""
        queue, moving, append = self._queue, self._moving, self._items.append
        most = min(most, len(moving))
        for _ in range(most):
            item, source = moving[0]
            append(item)
            moving.popleft()
            if source is None:
                queue._accepted += 1
            else:
                source.worker.produced += 1
        if len(self._items) > queue._peak:
            queue._grown()
        if queue._getters and not queue._getters.waking:
            queue._made_item()
        return most > 0

    def _see_to_room(self) -> None:
        """Wake as many threads as there is room for; for the others, stand in line with the pipeline's writers."""
        queue = self._queue
        room = queue._limit - len(self._items) - len(self._moving)
        if not queue._holds_writers:
            self._wake(len(self._parked))
        elif room > 0 and self._parked:
            self._wake(int(min(room, len(self._parked))))
            if not self._called:  # they are about to come: they need not call, unless they have to wait again
                self._called = True
                self._loop.call_later(EXPECTED, self._come)
        if queue._holds_writers and (self._parked or (self._moving and not self._looking)):
            self._standing = True
            waiter: asyncio.Future[None] = self._loop.create_future()
            waiter.add_done_callback(self._woken)
            queue._writers.append(waiter)

    def _woken(self, waiter: asyncio.Future[None]) -> None:
        self._queue._writers.waking -= 1
        self._standing = False
        self._queue._writers.wake()  # a source that was waited for may end, or idle, and never use the room
        self._queue._putters.wake()
        self._come()

    def _pass_on(self) -> None:
        """The room is not used: others may wait for it."""
        if len(self._items) < self._queue._limit:
            self._queue._made_room()

    def _wake(self, most: int) -> None:
        for _ in range(most):
            try:
                self._parked.popleft().release()
            except IndexError:  # it gave up
                return


class Source:
    """A blocking iterable, read in a thread of its own."""

    def __init__(self, worker: Counted, iterate: Callable[[], Any], bridge: Bridge) -> None:
        self.worker = worker
        self.stopped: bool = False
        """It is to give no more, apart from an item that it has given already."""
        self.left: bool = False
        """Nobody takes what it gives."""
        self._iterate = iterate
        self._bridge = bridge
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._error: BaseException | None = None

    async def read(self) -> None:
        """Read it to its end; raises what it raises.

        *Cancel safety*: what it gave is in the queue, and it is closed in its thread; if it blocks, the thread is
        left behind, closes it when it comes back, and what it gives then is not taken.
        """
        context = copy_context()
        thread = Thread(target=context.run, args=(self._drive,), name=f"asyncpc:{self.worker.name}", daemon=True)
        thread.start()
        try:
            await asyncio.wait([self._ended])  # a cancel of the task does not cancel the future
            await until_ended(thread)
        except asyncio.CancelledError:
            self.stopped = True
            self._bridge._wake(len(self._bridge._parked))
            await asyncio.wait([self._ended], timeout=PATIENCE)
            if not self._ended.done():
                logger.warning("source %r is blocked: it is left to its thread", self.worker.name)
            elif self._error is None:
                await until_ended(thread)
            if self._error is None:
                raise
        finally:
            with self._bridge._lock:
                self.left = True
                self._bridge._move_some(len(self._bridge._moving))
        if self._error is not None:
            raise self._error

    def _drive(self) -> None:
        iterator: Any = None
        try:
            if self._bridge.room_for(self):
                iterator = iter(self._iterate())
                for item in iterator:
                    self._bridge.give(item, self)
                    if not self._bridge.room_for(self):
                        break
        except QueueShutDown:
            logger.warning("source %r gave an item after it was stopped: it was not taken", self.worker.name)
        except BaseException as error:
            self._error = error
        try:
            if isinstance(iterator, Generator):
                iterator.close()
        except BaseException as error:
            self._error = error
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)


async def read_in_thread(worker: Counted, iterate: Callable[[], Any]) -> AsyncIterator[Any]:
    """A blocking iterable as an asynchronous one that gives nothing itself: its thread puts what it gives.

    An item that waits for nobody but a task to fetch it would be lost at a stop; see :meth:`Source.read`.
    """
    await Source(worker, iterate, bridge_to(worker.outbox)).read()
    return
    yield
