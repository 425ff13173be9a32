"""The loops: a producer's worker pulls from a source, a consumer's worker takes, handles, passes on, settles.

An accepted item is at every ``await`` in exactly one place that can be counted (invariant 2): in a queue, or in a
worker's ``hand``. The hand is cleared only before an ``await``, since nobody can look in between.

The loops reach into :class:`~asyncpc.core.queue.BoundedQueue` (its module says which fields, and why): while there is
room and backlog, an item costs an append, a pop and two counts, and no coroutine, future or clock read. What went into
a queue is counted by those who wrote it, what came of it by those who took it, so that the two can be compared
(invariant 4).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AsyncExitStack
from contextvars import Context
from time import perf_counter
from types import CoroutineType
from typing import Any, Final

from ..graph.definitions import Handler, Origin
from ..errors import LeftBehind, QueueShutDown
from .emit import TURN, answering, batching, branching, emitting, in_order, limited
from .isolation import isolated
from ..options.rate import Handle, Timeout
from .channel import Channel
from .queue import END
from ..options.failures import recovered
from .stage import EMPTY, Asked, Stage
from .waiting import checkpoint

__all__ = ["ConsumerWorker", "ProducerWorker"]

RUNS: Final = tuple(map(range, (1, 2, 4, 8, *[16] * 7)))
"""A turn's runs of items; the clock is read once per run. At most 127 items a turn (invariant 10)."""

FIRST: Final = RUNS[0]
LONGEST: Final = sum(map(len, RUNS))


class Worker:
    """What the supervisor knows of a task: who it is, how it ended, and whether the supervisor cancelled it."""

    __slots__ = (
        "abandoned",
        "called_off",
        "cancelled",
        "completed",
        "context",
        "failures",
        "leaves_a_call",
        "name",
        "task",
    )

    def __init__(self, name: str) -> None:
        self.name: str = name
        self.task: asyncio.Task[None] | None = None
        self.context: Context | None = None
        self.failures: list[BaseException] = []
        self.completed: bool = False  # came to its proper end
        self.cancelled: bool = False  # by the supervisor
        self.called_off: bool = False  # to be looked at after each item: cancelled, or its stage was changed
        self.abandoned: bool = False
        self.leaves_a_call: bool = False  # in a thread

    def failed_with(self, error: BaseException) -> None:
        """Keep the error, once, for the supervisor to judge."""
        if not any(error is known for known in self.failures):
            self.failures.append(error)


class ConsumerWorker(Worker):
    """One of a stage's workers."""

    __slots__ = ("hand", "home", "inside", "passing", "settled", "stage", "timeout")

    # as in Worker, but what is assigned below would be inferred otherwise
    called_off: bool
    completed: bool  # came to its proper end, its resource included
    leaves_a_call: bool
    task: asyncio.Task[None] | None

    def __init__(self, name: str, stage: Stage) -> None:
        super().__init__(name)
        self.stage: Stage = stage
        self.hand: Any = EMPTY
        self.home: Context | None = None  # what each call of the handler sees
        self.inside: Context | None = None  # the context of the item it is at, if that has one of its own
        self.settled: int = 0  # items done or failed
        self.timeout: Timeout | None = None
        self.passing: float = 0.0  # seconds of this turn in which values waited for room

    def run(self) -> Coroutine[Any, Any, None]:
        """Handle items until END; a failure is kept in ``failures``, never raised into the loop (fault B9).

        *Cancel safety*: an item whose handler was cancelled stays in the hand, for the report; a value that waited
        for room is left in the next queue. A resource is closed in the task that opened it.
        """
        handler = self.stage.handler
        return self._consume(handler.function) if handler.context is None else self._with_resource(handler)

    def _begin(self) -> None:
        self.task = asyncio.current_task()  # an eager task runs before the one who made it knows it
        self.stage.inbox.worker_began()

    async def _with_resource(self, handler: Handler) -> None:
        self._begin()
        opening = self.stage.opening
        try:
            async with AsyncExitStack() as stack:
                opening.add(self)
                if (on_wait := self.stage.inbox.getters.on_wait) is not None:
                    on_wait()  # or END would wait for a worker that nobody needs any more
                    if self not in opening:  # that was END
                        return
                resource = await stack.enter_async_context(handler.open_context())
                opening.discard(self)
                await self._consume(lambda item: handler.function(item, resource))
                if self.failures:
                    raise self.failures[0]  # tells the resource; if its exit swallows it, it is kept
        except asyncio.CancelledError as error:
            self.completed = False  # the resource was not closed properly
            self.leaves_a_call = isinstance(error, LeftBehind)
            raise
        except BaseException as error:
            self._failed(error)
        finally:
            opening.discard(self)

    async def _consume(self, function: Callable[[Any], Any]) -> None:
        if self.stage.handler.context is None:
            self._begin()
        stage = self.stage
        inbox, outbox = stage.inbox, stage.outbox
        items = stage.items()
        take = items.popleft
        limits, (handle, passes_on) = stage.limits_version, self._handle(function)
        if passes_on:
            outbox = None
        out_items: deque[Any] = (outbox or inbox).items
        out_append, out_getters = out_items.append, (outbox or inbox).getters
        context = self.context
        home = self.home = None if context is None else context.copy()
        getters, loop = inbox.getters, asyncio.get_running_loop()
        putters, writers, wake_from = inbox.putters, inbox.writers, inbox.low + 1
        clock, latency = perf_counter, stage.latency
        settled, slow, run, elapsed, value = 0, False, FIRST, 0.0, None
        try:
            while True:
                if (stage.surplus or stage.gate is not None) and await self._is_to_leave():
                    break
                if limits != stage.limits_version:
                    limits, (handle, _) = stage.limits_version, self._handle(function)
                    handle = handle if context is not None else isolated(self, handle)
                if not items:
                    if inbox.take_end() is END:
                        break
                    await getters.wait(loop)
                    inbox.wake_followers()
                    continue  # somebody else may have taken it
                if slow and not stage.beating:
                    stage.beat()
                beats, self.passing, started = stage.beats, 0.0, clock()
                for run in RUNS:
                    for _ in run:
                        try:
                            self.hand = item = take()
                        except IndexError:
                            break
                        except BaseException:  # priorities that cannot be compared; the last item has been settled
                            self.hand = EMPTY
                            raise
                        if putters or (writers and len(items) < wake_from):
                            inbox.made_room()
                        try:
                            value = await handle(item)
                        except Exception as error:
                            if stage.order is not None:
                                raise  # it has had its attempts
                            value = await recovered(self, item, handle, error)
                        try:
                            leaked = context != home
                        except Exception:  # a value that cannot be compared, such as an array
                            leaked = True
                        if leaked:
                            handle, context, home = isolated(self, handle), None, None
                        if outbox is not None and value is not EMPTY:
                            if len(out_items) >= outbox.mark:
                                await self._pass_on(outbox, value)
                            else:
                                out_append(value)
                                if out_getters and not out_getters.waking:
                                    out_getters.wake()
                        settled += 1
                        self.settled = settled
                        if self.called_off:
                            self.hand = EMPTY
                            if self.cancelled:  # the handler swallowed it: nothing more is taken (fault B4)
                                raise asyncio.CancelledError
                            break
                    elapsed = clock() - started
                    if run is FIRST:
                        latency.add(elapsed - self.passing)
                        if type(value) is CoroutineType and stage.outbox is None:
                            self.hand = EMPTY
                            raise _forgotten(stage.handler.name, value)
                    self.hand = EMPTY  # what follows may raise: a key is released there, which may compare priorities
                    if not items or elapsed > TURN or self.called_off:
                        break
                self.called_off = False
                item = value = self.inside = None  # an idle worker keeps nothing alive
                waited = slow and stage.beats != beats  # a slow handler that waits has let others run
                if slow and not waited:
                    stage.loop_held += elapsed
                slow = run is FIRST and elapsed > TURN
                if not waited if items else writers.waking:  # a writer that was woken will have put something by then
                    await inbox.yield_to_others()  # before an item is taken, never after (invariant 10, fault A8)
            self.completed = True
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # KeyboardInterrupt and SystemExit too: the run stops, then they come out (B13)
            self._failed(error)
        finally:
            if self.timeout is not None:
                self.timeout.close()
            inbox.worker_left(items)

    async def _is_to_leave(self) -> bool:
        """Wait while the stage is paused, with an empty hand; whether it has more workers than it should."""
        stage = self.stage
        while stage.gate is not None:
            await stage.gate.wait()
        if not stage.surplus or stage.inbox.closed:  # END will come anyway, and it may be needed until then
            return False
        stage.surplus -= 1
        stage.inbox.made_item()  # it may have been woken for one
        return True

    def _handle(self, function: Callable[[Any], Any]) -> tuple[Handle, bool]:
        """How the function is called, with all that the stage's options ask for; and whether that passes values on."""
        stage, handler = self.stage, self.stage.handler
        if handler.branches is not None:
            return branching(self, limited(self, function)), True
        handle: Handle = emitting(self, function) if handler.generates else function
        handle = limited(self, handle)
        if handler.batch is not None:
            return batching(self, handle), True
        if stage.answers and not handler.generates:
            handle = answering(self, handle)
        if stage.order is not None:
            return in_order(self, handle), True
        return handle, handler.generates

    def _failed(self, error: BaseException) -> None:
        self.failed_with(error)
        if self.hand is not EMPTY:
            size = self.stage.size(self.hand)
            for item in self.hand if self.stage.handler.batch is not None else [self.hand]:
                if type(item) is Asked and isinstance(error, Exception):  # others are for whoever waits for the run
                    item.fail(error)
                elif type(item) is Asked:
                    item.fail(QueueShutDown(f"stage {self.stage.handler.name!r} was interrupted"))
            self.hand = EMPTY
            self.stage.failed += size
            self.stage.more += size - 1
            self.settled += 1

    async def rest(self, seconds: float) -> None:
        """Wait before another attempt: it is no part of the handler's latency."""
        began = perf_counter()
        try:
            await asyncio.sleep(seconds)
        finally:
            self.passing += perf_counter() - began

    def settle(self) -> None:
        """Count the item in hand as done, before a cancel comes out: its values are in a place of their own."""
        self.hand = EMPTY
        self.settled += 1

    async def emit(self, outbox: Channel[Any] | None, value: Any) -> None:
        """Pass a value on beside the loop; cancelled or not, it ends in the queue."""
        try:
            if outbox is not None:
                if outbox.may_enqueue():
                    outbox.enqueue(value)
                else:
                    await self.push(outbox, value)
            self.stage.emitted += 1
        except asyncio.CancelledError:
            self.stage.emitted += 1
            raise
        except asyncio.QueueFull as error:  # overflow="raise": no failure of the handler, so no policy for those
            self.stage.emitted += 1
            self.failed_with(error)
            raise asyncio.CancelledError from error

    async def _pass_on(self, outbox: Channel[Any], value: Any) -> None:
        """Push the value when there is room; cancelled or not, it ends in the queue, so the item is done."""
        try:
            await self.push(outbox, value)
        except (asyncio.CancelledError, asyncio.QueueFull):
            self.settle()
            raise

    async def push(self, outbox: Channel[Any], value: Any) -> None:
        """Push the value, and remember how long that took: it is no part of the handler's latency."""
        began, stage = perf_counter(), self.stage
        if self.timeout is not None:
            self.timeout.hold()
        if stage.shares_room:
            stage.out_waiting += 1
            stage.out_seconds -= asyncio.get_running_loop().time()
        try:
            await outbox.put_or_leave(value)
        finally:
            self.passing += perf_counter() - began
            if stage.shares_room:
                stage.out_waiting -= 1
                stage.out_seconds += asyncio.get_running_loop().time()
            if self.timeout is not None:
                self.timeout.go_on()


def _forgotten(stage: str, coroutine: CoroutineType[Any, Any, Any]) -> TypeError:
    """What is looked for in the first item of a turn only, since a mistake in the program is in all of them."""
    coroutine.close()  # or Python warns that it was never awaited
    return TypeError(f"stage {stage!r} gave a coroutine that nobody awaits: write 'await' before what it returns")


class ProducerWorker(Worker):
    """The one worker of a source."""

    __slots__ = ("origin", "outbox", "produced", "recent", "restarts")

    task: asyncio.Task[None] | None

    def __init__(self, name: str, origin: Origin, outbox: Channel[Any]) -> None:
        super().__init__(name)
        self.origin: Origin = origin
        self.outbox: Channel[Any] = outbox
        self.produced: int = 0
        self.restarts: int = 0
        self.recent: deque[float] = deque()  # loop times of the restarts that still count

    async def run(self) -> None:
        """Give items until the source ends; start it again as its ``restart`` allows.

        *Cancel safety*: an item that waited for room is left in the queue, and the source is closed here, in the task
        that iterated it (fault B10).
        """
        self.task = asyncio.current_task()  # an eager task runs before the one who made it knows it
        try:
            while not self.completed:
                try:
                    await self._produce()
                    self.completed = True
                except Exception as error:
                    await self._before_restart(error)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.failed_with(error)

    async def _produce(self) -> None:
        outbox = self.outbox
        items, append, getters, clock = outbox.items, outbox.items.append, outbox.getters, perf_counter
        await outbox.wait_for_room()
        iterator = self.origin.iterate()
        produced = self.produced
        turn_ends, until, step, next_look = produced + LONGEST, clock() + TURN, 1, produced + 1
        try:
            async for item in iterator:
                if len(items) >= outbox.mark:
                    produced += 1
                    try:
                        if outbox.may_enqueue():
                            outbox.enqueue(item)
                        else:
                            await outbox.put_or_leave(item)
                    except (asyncio.CancelledError, asyncio.QueueFull):
                        raise
                    except Exception:  # a function of the user, such as priority=: the item was not taken
                        produced -= 1
                        raise
                    finally:  # cancelled or not, the item is in the queue
                        self.produced = produced
                    await outbox.wait_for_room()  # the source is not asked while the queue is full
                    if self.cancelled:  # the source swallowed it (fault B4)
                        raise asyncio.CancelledError
                else:
                    append(item)
                    produced += 1
                    self.produced = produced
                    if getters and not getters.waking:
                        getters.wake()
                if produced >= next_look or self.cancelled:
                    if self.cancelled:  # as above
                        raise asyncio.CancelledError
                    step = min(2 * step, len(RUNS[-1]))
                    if produced >= turn_ends or clock() > until:  # invariant 10
                        await checkpoint()
                        turn_ends, until, step = produced + LONGEST, clock() + TURN, 1
                    next_look = produced + step
        finally:
            if isinstance(iterator, AsyncGenerator):
                await iterator.aclose()

    async def _before_restart(self, error: Exception) -> None:
        """Wait before a restart; raises ``error`` if no more are allowed (fault C5)."""
        restart = self.origin.restart
        now = asyncio.get_running_loop().time()
        if restart is None or self.cancelled:
            raise error
        while self.recent and now - self.recent[0] >= restart.within:
            self.recent.popleft()
        if len(self.recent) >= restart.times:
            raise error
        self.recent.append(now)
        self.restarts += 1
        await asyncio.sleep(restart.backoff(len(self.recent)))
