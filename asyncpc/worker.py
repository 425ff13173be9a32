"""The loops: a producer's worker pulls from a source, a consumer's worker takes, handles, passes on, settles.

An accepted item is at every ``await`` in exactly one place that can be counted (invariant 2): in a queue, or in a
worker's ``hand``. The hand is cleared only before an ``await``, since nobody can look in between.

The loops reach into :class:`~asyncpc.queue.BoundedQueue` (its module says which fields, and why): while there is
room and backlog, an item costs an append, a pop and two counts, and no coroutine, future or clock read. What went into
a queue is counted by those who wrote it, what came of it by those who took it, so that the two can be compared
(invariant 4).
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import AsyncExitStack, suppress
from contextvars import Context
from time import perf_counter
from typing import Any, Final

from .errors import RetryLater, TooManyFailures
from .limits import Circuit, Handle, Throttle, Timeout
from .policies import Failure
from .queue import END, BoundedQueue
from .report import Latency
from .stages import Handler, Origin
from .waiting import pause

__all__ = ["EMPTY", "ConsumerWorker", "ProducerWorker", "Stage"]

logger: Final = logging.getLogger("asyncpc")

TURN: Final = 0.0005
"""Seconds after which a loop's turn ends, at the next look at the clock."""

RUNS: Final = tuple(map(range, (1, 2, 4, 8, *[16] * 7)))
"""A turn's runs of items; the clock is read once per run. At most 127 items a turn (invariant 10)."""

FIRST: Final = RUNS[0]
LONGEST: Final = sum(map(len, RUNS))

EMPTY: Final = type("_Empty", (), {"__repr__": lambda self: "EMPTY"})()
"""What is in a worker's hand when there is no item in it; any object may be an item."""


class Stage:
    """One stage of one run: its handler, the queues around it, its workers and its counts."""

    __slots__ = (
        "beating",
        "beats",
        "circuit",
        "emitted",
        "failed",
        "handler",
        "inbox",
        "latency",
        "opening",
        "outbox",
        "retried",
        "throttle",
        "workers",
    )

    def __init__(self, handler: Handler, inbox: BoundedQueue[Any]) -> None:
        self.handler: Handler = handler
        self.inbox: BoundedQueue[Any] = inbox
        self.outbox: BoundedQueue[Any] | None = None
        self.workers: list[ConsumerWorker] = []
        self.opening: set[ConsumerWorker] = set()  # their resource
        self.failed: int = 0
        self.retried: int = 0  # calls after the first of an item
        self.throttle: Throttle | None = Throttle(handler.rate) if handler.rate is not None else None
        self.circuit: Circuit | None = Circuit(handler.breaker) if handler.breaker is not None else None
        self.emitted: int = 0  # values a generator gave; of a coroutine it follows from done
        self.latency: Latency = Latency()
        self.beats: int = 0  # turns of the loop, seen while slow handlers run
        self.beating: bool = False  # whether the next turn will be seen

    def beat(self) -> None:
        """See to it that the next turn of the loop is counted in ``beats``."""
        self.beating = True
        asyncio.get_running_loop().call_soon(self._count_beat)

    def _count_beat(self) -> None:
        self.beats += 1
        self.beating = False

    def is_quiet(self) -> bool:
        """Whether nothing is queued and every worker waits, with an empty hand."""
        return not self.inbox._queue and self.inbox._workers == self.inbox._getters.waiting + len(self.opening)

    @property
    def settled(self) -> int:
        """Items done or failed."""
        return sum(worker.settled for worker in self.workers)

    @property
    def in_flight(self) -> list[Any]:
        """The items in workers' hands."""
        return [worker.hand for worker in self.workers if worker.hand is not EMPTY]


class Worker:
    """What the supervisor knows of a task: who it is, how it ended, and whether the supervisor cancelled it."""

    __slots__ = ("abandoned", "cancelled", "completed", "context", "failures", "name", "task")

    def __init__(self, name: str) -> None:
        self.name: str = name
        self.task: asyncio.Task[None] | None = None
        self.context: Context | None = None
        self.failures: list[BaseException] = []
        self.completed: bool = False  # came to its proper end
        self.cancelled: bool = False  # by the supervisor
        self.abandoned: bool = False

    def failed_with(self, error: BaseException) -> None:
        """Keep the error, once, for the supervisor to judge."""
        if not any(error is known for known in self.failures):
            self.failures.append(error)


class ConsumerWorker(Worker):
    """One of a stage's workers."""

    __slots__ = ("hand", "passing", "settled", "stage", "timeout")

    completed: bool  # came to its proper end, its resource included

    def __init__(self, name: str, stage: Stage) -> None:
        super().__init__(name)
        self.stage: Stage = stage
        self.hand: Any = EMPTY
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
        self.stage.inbox._joined()

    async def _with_resource(self, handler: Handler) -> None:
        self._begin()
        opening = self.stage.opening
        try:
            async with AsyncExitStack() as stack:
                opening.add(self)
                if (on_wait := self.stage.inbox._getters.on_wait) is not None:
                    on_wait()  # or END would wait for a worker that nobody needs any more
                resource = await stack.enter_async_context(handler.open_context())
                opening.discard(self)
                await self._consume(lambda item: handler.function(item, resource))
                if self.failures:
                    raise self.failures[0]  # tells the resource; if its exit swallows it, it is kept
        except asyncio.CancelledError:
            self.completed = False  # the resource was not closed properly
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
        items, take = inbox._queue, inbox._queue.popleft
        handle: Handle = function
        if stage.handler.generates:
            handle, outbox = self._emitting(function), None
        handle = self._limited(handle)
        out_items: deque[Any] = outbox._queue if outbox else items
        out_append, out_getters = out_items.append, outbox._getters if outbox else inbox._getters
        context, home = self.context, self.context.copy() if self.context else None
        getters, loop = inbox._getters, asyncio.get_running_loop()
        putters, writers, wake_from = inbox._putters, inbox._writers, inbox._low + 1
        clock, latency = perf_counter, stage.latency
        settled, slow, run, elapsed = 0, False, FIRST, 0.0
        try:
            while True:
                if not items:
                    if inbox._tell_end() is END:
                        break
                    await getters.stand(loop)
                    inbox._share()
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
                        if putters or (writers and len(items) < wake_from):
                            inbox._made_room()
                        try:
                            value = await handle(item)
                        except Exception as error:
                            value = await self._recover(item, handle, error)
                        try:
                            leaked = context != home
                        except Exception:  # a value that cannot be compared, such as an array
                            leaked = True
                        if leaked:
                            handle, context, home = self._isolated(handle, home), None, None
                        if outbox is not None and value is not EMPTY:
                            if len(out_items) >= outbox._mark:
                                await self._pass_on(outbox, value)
                            else:
                                out_append(value)
                                if out_getters and not out_getters.waking:
                                    out_getters.wake()
                        settled += 1
                        self.settled = settled
                        if self.cancelled:  # the handler swallowed it: nothing more is taken (fault B4)
                            self.hand = EMPTY
                            raise asyncio.CancelledError
                    elapsed = clock() - started
                    if run is FIRST:
                        latency.add(elapsed - self.passing)
                    if not items or elapsed > TURN:
                        break
                self.hand = EMPTY
                item = value = None  # an idle worker keeps nothing alive
                waited = slow and stage.beats != beats  # a slow handler that waits has let others run
                slow = run is FIRST and elapsed > TURN
                if not waited if items else writers.waking:  # a writer that was woken will have put something by then
                    await inbox._linger()  # before an item is taken, never after (invariant 10, fault A8)
            self.completed = True
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # KeyboardInterrupt and SystemExit too: the run stops, then they come out (B13)
            self._failed(error)
        finally:
            if self.timeout is not None:
                self.timeout.close()

    def _limited(self, handle: Handle) -> Handle:
        """``handle`` within the stage's limits: each call waits for the circuit, then for its turn, then is timed."""
        stage = self.stage
        if stage.handler.timeout is not None:
            handle = self.timeout = Timeout(handle, stage.handler.timeout, stage.handler.name)
        if stage.throttle is not None:
            handle = stage.throttle.limit(handle)
        if stage.circuit is not None:
            handle = stage.circuit.guard(handle)
        return handle

    async def _recover(self, item: Any, handle: Handle, error: Exception) -> Any:
        """The value after all, by another attempt; EMPTY if a policy gives the item up; else what failed is raised."""
        retry, attempts, calls = self.stage.handler.retry, 1, 1
        while not self.cancelled:  # else the handler made an error of its cancellation
            if isinstance(error, RetryLater):
                seconds = error.seconds
            elif retry is not None and attempts < retry.attempts and isinstance(error, retry.on):
                seconds = retry.wait(attempts)
                attempts += 1
            else:
                break
            self.stage.retried += 1
            calls += 1
            await self._rest(seconds)
            try:
                return await handle(item)
            except Exception as again:
                error = again
        if calls > 1:
            with suppress(Exception):  # an exception class may refuse to be written to
                error.add_note(f"asyncpc: after {calls} calls")
        if self.cancelled or self.stage.handler.on_error == "stop":
            raise error
        await self._give_up(item, calls, error)
        return EMPTY

    async def _rest(self, seconds: float) -> None:
        """Wait before another attempt: it is no part of the handler's latency."""
        began = perf_counter()
        try:
            await asyncio.sleep(seconds)
        finally:
            self.passing += perf_counter() - began

    async def _give_up(self, item: Any, attempts: int, error: Exception) -> None:
        """Count the item as failed and hand it on as the policy says; raises when it was one too many."""
        stage, handler = self.stage, self.stage.handler
        failed = stage.failed + 1
        allowed = handler.max_failures
        if isinstance(allowed, float):
            allowed *= max(100, stage.settled + 1)
        if allowed is not None and failed > allowed:
            raise TooManyFailures(
                f"stage {handler.name!r}: {failed} items failed, max_failures={handler.max_failures} allows no more"
            ) from error
        if failed & (failed - 1) == 0:  # 1, 2, 4, 8, …: a log is no place for each of a million
            logger.warning("stage %r gave up %d items; the last: %s", handler.name, failed, type(error).__name__)
        if handler.on_error != "skip":
            await handler.tell(Failure(item, _text(error), attempts, handler.name, _trace(error)))
        stage.failed += 1

    def _failed(self, error: BaseException) -> None:
        self.failed_with(error)
        if self.hand is not EMPTY:
            self.hand = EMPTY
            self.stage.failed += 1
            self.settled += 1

    async def _pass_on(self, outbox: BoundedQueue[Any], value: Any) -> None:
        """Push the value when there is room; cancelled or not, it ends in the queue, so the item is done."""
        try:
            await self._push(outbox, value)
        except BaseException:
            self.hand = EMPTY
            self.settled += 1
            raise

    async def _push(self, outbox: BoundedQueue[Any], value: Any) -> None:
        """Push the value, and remember how long that took: it is no part of the handler's latency."""
        began = perf_counter()
        if self.timeout is not None:
            self.timeout.hold()
        try:
            await outbox._push(value)
        finally:
            self.passing += perf_counter() - began
            if self.timeout is not None:
                self.timeout.go_on()

    def _emitting(
        self, function: Callable[[Any], AsyncGenerator[Any, None]]
    ) -> Callable[[Any], Coroutine[Any, Any, None]]:
        """An async generator as a coroutine function that passes each value on itself."""
        stage, outbox = self.stage, self.stage.outbox

        async def handle(item: Any) -> None:
            values = function(item)
            given, until = 0, perf_counter() + TURN
            try:
                async for value in values:
                    if outbox is not None:
                        if len(outbox._queue) >= outbox._mark:
                            try:
                                await self._push(outbox, value)
                            except BaseException:  # the value is left in the queue
                                stage.emitted += 1
                                raise
                        else:
                            outbox._queue.append(value)
                            if outbox._getters and not outbox._getters.waking:
                                outbox._getters.wake()
                    stage.emitted += 1
                    given += 1
                    if not given % 8 and (not given % 128 or perf_counter() > until):  # invariant 10
                        await pause()
                        until = perf_counter() + TURN
                    if self.cancelled:  # the generator swallowed it (fault B4)
                        raise asyncio.CancelledError
            except BaseException:
                await values.aclose()  # in this task (fault B10)
                raise

        return handle

    @staticmethod
    def _isolated(handle: Callable[[Any], Awaitable[Any]], home: Context | None) -> Callable[[Any], Awaitable[Any]]:
        """The handler changed a context variable: from now on each item has a context of its own (fault B12).

        Comparing two untouched contexts is a comparison of two pointers, so handlers that leave no trace pay
        almost nothing; for the others, every later item sees the context the worker began with. (A variable set to
        another object that is equal to the old one counts as untouched.)
        """
        pristine = home or Context()
        return lambda item: _InContext(handle(item), pristine.copy())


def _text(error: Exception) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # its own __str__ fails
        return type(error).__name__


def _trace(error: Exception) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception:
        return ""


class _InContext:
    """Awaits a coroutine with ``context`` as its current context, in the task that awaits it."""

    __slots__ = ("context", "coroutine")

    def __init__(self, coroutine: Any, context: Context) -> None:
        self.coroutine = coroutine
        self.context = context

    def __await__(self) -> Generator[Any, Any, Any]:
        step: Callable[..., Any] = self.coroutine.send
        argument: Any = None
        while True:
            try:
                future = self.context.run(step, argument)
            except StopIteration as stop:
                return stop.value
            try:
                argument = yield future
                step = self.coroutine.send
            except BaseException as error:
                step, argument = self.coroutine.throw, error


class ProducerWorker(Worker):
    """The one worker of a source."""

    __slots__ = ("origin", "outbox", "produced", "recent", "restarts")

    def __init__(self, name: str, origin: Origin, outbox: BoundedQueue[Any]) -> None:
        super().__init__(name)
        self.origin: Origin = origin
        self.outbox: BoundedQueue[Any] = outbox
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
        items, append, getters, clock = outbox._queue, outbox._queue.append, outbox._getters, perf_counter
        await outbox._room()
        iterator = self.origin.iterate()
        produced = self.produced
        turn_ends, until, step, next_look = produced + LONGEST, clock() + TURN, 1, produced + 1
        try:
            async for item in iterator:
                if len(items) >= outbox._mark:
                    produced += 1
                    try:
                        if len(items) < outbox._limit:
                            outbox._enqueue(item)
                        else:
                            await outbox._push(item)
                    finally:  # cancelled or not, the item is in the queue
                        self.produced = produced
                    await outbox._room()  # the source is not asked while the queue is full
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
                        await pause()
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
