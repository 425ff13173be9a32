"""The supervisor of one run: the only module that creates tasks. It starts, watches, drains and closes.

It is a state machine of plain functions, called when a task ends, a timer fires or a user asks; it has no task of its
own that could be cancelled. It judges each worker's end itself and knows which tasks it cancelled, so a worker that
was cancelled by anyone else is a failure with a name (fault B1).

How a run stops
---------------
1. *Intake ends*: puts are refused and the sources' tasks are cancelled, also while they sit in their next item; each
   source is closed in its own task. (Sources that end by themselves come to the same point.)
2. *The tide goes out*: when every queue is empty and every worker waits with an empty hand, nothing can make new work,
   not even ``feed``; the first queue is closed, and each of its consumers sees END. When the last worker of a stage has
   ended, the next queue is closed, stage by stage.
3. *One deadline* over all of it: then the workers are cancelled, once more after ``GRACE`` seconds, and after another
   ``GRACE`` whoever ignored both is abandoned by name. What was not handled is listed, item by item.

A failure cancels at once instead of step 2; what it leaves is listed as well. A source that raises is no reason to
lose what it gave: the run drains, then the error comes out (fault C13).
"""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from enum import StrEnum
from functools import partial
from time import perf_counter
from typing import Any, Final

from .books import Books
from .errors import ConservationError, PipelineError, QueueShutDown, StateError, WorkerCancelled
from .policies import Adaptive
from .queue import BoundedQueue
from .report import Report, Statistics
from .stage import Asked, Stage
from .stages import Plan
from .worker import ConsumerWorker, ProducerWorker, Worker

__all__ = ["State", "Supervisor", "feed"]

logger: Final = logging.getLogger("asyncpc")
logger.addHandler(logging.NullHandler())

GRACE: Final = 0.04
"""Seconds between the first cancel at a deadline, the second, and giving up: together below the 100 ms promised."""


class State(StrEnum):
    """Where a run is; it only advances (invariant 8), along :data:`ADVANCES`."""

    NEW = "new"
    RUNNING = "running"
    DRAINING = "draining"
    CLOSED = "closed"
    FAILED = "failed"


ADVANCES: Final[dict[State, set[State]]] = {
    State.NEW: {State.RUNNING, State.CLOSED},
    State.RUNNING: {State.DRAINING, State.FAILED},
    State.DRAINING: {State.CLOSED, State.FAILED},
    State.CLOSED: set(),
    State.FAILED: set(),
}

_under_way: set[Supervisor] = set()
"""Runs that have not ended; tasks are held weakly, so without this a run that nobody names could be collected."""

_current: ContextVar[Supervisor] = ContextVar("asyncpc_run")


def feed(item: Any) -> None:
    """Put ``item`` into the first stage of the run that the calling handler belongs to, without waiting.

    It never waits, so a full queue cannot deadlock on its own workers; the bound does not hold it back, and it is
    counted as ``fed``. The run does not end before the item, and all that it feeds in turn, has been handled.

    Raises ``StateError`` outside a handler and ``QueueShutDown`` when the run has ended.
    """
    run = _current.get(None)
    if run is None:
        raise StateError("feed() works inside a consumer's handler only; from outside, use 'await running.put(item)'")
    run.feed(item)


class Supervisor:
    """Runs a :class:`~asyncpc.stages.Plan` once. All methods but :meth:`wait` are plain functions."""

    def __init__(self, plan: Plan, *, streamed: bool = False, answers: bool = False) -> None:
        self.plan: Plan = plan
        self.state: State = State.NEW
        self.stages: list[Stage] = [
            Stage(handler, BoundedQueue(handler.bound(plan.maxsize)), answers) for handler in plan.handlers
        ]
        self.results: BoundedQueue[Any] | None = BoundedQueue(plan.maxsize) if streamed else None
        for stage, following in zip(self.stages, self.stages[1:], strict=False):
            stage.outbox = following.inbox
        self.stages[-1].outbox = self.results
        if self.results is None:
            self.stages[-1].order = None  # nobody sees it
        self.first: BoundedQueue[Any] = self.stages[0].inbox
        self.producers: list[ProducerWorker] = [
            ProducerWorker(origin.name, origin, self.first) for origin in plan.origins
        ]
        self.books: Books = Books(self.producers, self.stages, self.results)
        self.errors: list[Exception] = []
        self.interrupt: BaseException | None = None  # KeyboardInterrupt or SystemExit of a handler (fault B13)
        self.breach: ConservationError | None = None
        self.report: Report | None = None
        self.told: bool = False  # the user has been given the outcome, so leaving the block does not raise it again
        self._live: dict[Worker, None] = {}  # a set that keeps its order, so that runs can be repeated
        self._sources_live = 0
        self._starting = False  # whether a worker's task is being made
        self._cancels = 0  # rounds of cancellation
        self._timers: dict[str, asyncio.TimerHandle] = {}  # of adaptive stages
        self._deadline: asyncio.TimerHandle | None = None
        self._deadline_at = math.inf  # kept here, since uvloop's handle of a moment that has come cannot tell it
        self._began = 0.0  # loop time
        self._began_really = 0.0
        self._ended = asyncio.Event()
        self._context = copy_context()  # consumers' workers begin with a copy of it

    # -- start --------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the sources; consumers' workers start when there is work for them, or a resource to open."""
        self._advance(State.RUNNING)
        self._loop = asyncio.get_running_loop()
        _under_way.difference_update([run for run in _under_way if run.lost_its_loop()])
        _under_way.add(self)
        self._began, self._began_really = self._loop.time(), perf_counter()
        for queue in self._queues():
            queue._here()
        self._context.run(_current.set, self)
        for stage in self.stages:
            stage.report_trouble = self._trouble
            getters, count = stage.inbox._getters, stage.concurrency
            stage.inbox._workers = count
            getters.reserve(count, partial(self._start_worker, stage), self._loop.time())
            if stage.handler.adaptive is not None:
                self._adapt_later(stage, stage.handler.adaptive)
            if stage.handler.context is not None:
                getters.wake(count)  # opening takes time, and if it fails that is better known now
        self._sources_live = len(self.producers)
        for producer in self.producers:
            self._spawn(producer, copy_context())

    def _start_worker(self, stage: Stage) -> None:
        """An item has come and no worker is idle: one more starts."""
        stage.inbox._getters.called(self._loop.time())
        worker = ConsumerWorker(f"{stage.handler.name}-{len(stage.workers) + 1}", stage)
        stage.workers.append(worker)
        if self._starting:  # an eager task runs at once, and would start the next stage's worker inside this one
            self._live[worker] = None
            self._loop.call_soon(self._spawn, worker, self._context.copy())
            return
        self._starting = True
        try:
            self._spawn(worker, self._context.copy())
        finally:
            self._starting = False

    def _spawn(self, worker: ConsumerWorker | ProducerWorker, context: Context) -> None:
        worker.context = context
        self._live[worker] = None
        if worker.cancelled:  # in the meantime
            self._worker_ended(worker)
            return
        work = worker.run()
        try:
            worker.task = self._loop.create_task(work, name=f"asyncpc:{worker.name}", context=context)
        except BaseException as error:  # a task factory that refuses
            work.close()
            worker.failed_with(error)
            self._loop.call_soon(self._worker_ended, worker)  # not now: who starts it is in the middle of something
        else:
            worker.task.add_done_callback(partial(self._worker_ended, worker))

    # -- intake -------------------------------------------------------------------------------

    def feed(self, item: Any) -> None:
        """See :func:`feed`."""
        self.first._here()
        if self._ended.is_set() or self.first._is_shutdown:
            raise QueueShutDown("feed() after the end of its run: the item was not taken")
        self.books.fed += 1
        self.first._enqueue(item)

    # -- control ------------------------------------------------------------------------------

    def stage(self, name: str) -> Stage:
        """The stage of that name; raises ``StateError`` that names them all."""
        for stage in self.stages:
            if stage.handler.name == name:
                return stage
        names = ", ".join(repr(stage.handler.name) for stage in self.stages)
        raise StateError(f"pipeline {self.plan.name!r} has no stage {name!r}; it has {names}")

    def scale(self, stage: Stage, concurrency: int) -> None:
        """Let ``stage`` have so many workers from now on; those it has too many leave after the item they are at."""
        inbox, getters, now = stage.inbox, stage.inbox._getters, self._loop.time()
        if self._ended.is_set() or inbox._is_shutdown or self._cancels:
            return
        more, stage.concurrency = concurrency - stage.concurrency, concurrency
        kept = min(max(more, 0), stage.surplus)  # those asked to leave before stay
        stage.surplus -= kept
        if more > kept:
            inbox._workers += more - kept
            getters.reserve(more - kept, partial(self._start_worker, stage), now)
            if stage.handler.context is not None:
                getters.wake(more - kept)
            inbox._made_item()
        elif more < 0:
            spared = getters.discharge(-more, now)
            inbox._workers -= spared
            stage.surplus += -more - spared
            stage.call_off()
            getters.wake(stage.surplus)  # idle ones leave at once

    def _adapt_later(self, stage: Stage, policy: Adaptive) -> None:
        latency = stage.latency
        look = partial(self._adapt, stage, policy, latency.count, latency.seconds)
        self._timers[stage.handler.name] = self._loop.call_later(policy.every, look)

    def _adapt(self, stage: Stage, policy: Adaptive, calls: int, seconds: float) -> None:
        """Fewer workers if the calls since took too long, one more if they did not and all are at work."""
        calls, seconds = stage.latency.count - calls, stage.latency.seconds - seconds
        if calls and seconds / calls > policy.target:
            self.scale(stage, max(policy.min, stage.concurrency * 3 // 4))
        elif calls and stage.inbox._getters.waiting == 0 and stage.concurrency < policy.max:
            self.scale(stage, stage.concurrency + 1)
        self._adapt_later(stage, policy)

    def pause(self) -> None:
        """Let no worker take another item before :meth:`resume`."""
        for stage in self.stages:
            if stage.gate is None:
                stage.gate = asyncio.Event()
                stage.call_off()

    def resume(self) -> None:
        """Go on."""
        for stage in self.stages:
            if stage.gate is not None:
                stage.gate.set()
                stage.gate = None

    # -- stop ---------------------------------------------------------------------------------

    def stop(self, timeout: float | None = None) -> None:
        """End the intake and drain, within ``timeout`` seconds (default: the plan's); again: only ever sooner."""
        if self.state is State.NEW:
            self._advance(State.CLOSED)
            self._ended.set()
        elif not self._ended.is_set():
            self.first._here()
            self._limit(self.plan.drain_timeout if timeout is None else timeout)
            self._end_intake()

    def abort(self) -> None:
        """Cancel every worker now; clean-up gets ``drain_timeout`` seconds, or none if asked a second time (B7)."""
        if self._ended.is_set() or self.state is State.NEW:
            self.stop()
        elif self._cancels == 0:
            self._limit(self.plan.drain_timeout)
            self._end_intake()
            self._cancel()
        else:
            self._limit(0)

    async def wait(self) -> None:
        """Wait for the end of the run; *cancel safety*: waiting changes nothing."""
        await self._ended.wait()

    async def wait_hastening(self, cause: BaseException | None = None) -> None:
        """Wait for the end; each cancel of the caller hastens it, and comes out when no task is left (B5, B6).

        ``cause`` is what the caller is leaving for already; if that is a cancel, it is the first.
        """
        first = cause if isinstance(cause, asyncio.CancelledError) else None
        cancelled = first
        while not self._ended.is_set():
            try:
                await self._ended.wait()
            except asyncio.CancelledError as error:
                if cancelled is None or not _delivered_again(error, cancelled):
                    self.abort()
                cancelled = error
        if cancelled is not None and first is None:
            raise cancelled

    def lost_its_loop(self) -> bool:
        """Whether the loop was closed under the run."""
        return self.state is not State.NEW and self._loop.is_closed()

    def runs_here(self) -> bool:
        """Whether the caller is one of this run's workers, which cannot wait for its own end."""
        task = asyncio.current_task()
        return any(worker.task is task for worker in self._live)

    def _end_intake(self) -> None:
        if self.state is not State.RUNNING:
            return
        self._advance(State.DRAINING)
        self.resume()
        self.first._refuse(f"pipeline {self.plan.name!r} is draining: the item was not taken")
        for producer in self.producers:
            self._cancel_worker(producer)
        if self._sources_live == 0:
            self._watch_for_quiet()

    def _watch_for_quiet(self) -> None:
        """From now on every worker that falls idle looks whether it was the last."""
        for stage in self.stages:
            stage.inbox._getters.on_wait = self._close_if_quiet
        self._close_if_quiet()

    def _close_if_quiet(self) -> None:
        """Send END into the first stage when nothing is queued or running anywhere (invariant 3)."""
        if self.first._is_shutdown or self._sources_live:
            return
        if all(stage.is_idle() for stage in self.stages):
            if any(stage.flush() for stage in self.stages):
                return  # whoever handles the last batches will come back here
            self.first.close()
            self._cascade()
            self._finish_if_ended()

    def _limit(self, timeout: float) -> None:
        """Bring the one deadline forward to ``timeout`` seconds from now; it is never put off."""
        when = self._loop.time() + max(0.0, timeout)
        if when < self._deadline_at and self._cancels < 2:  # after the second round workers have their last GRACE
            self._set_deadline(when)

    def _set_deadline(self, when: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline_at = when
        self._deadline = self._loop.call_at(when, self._at_deadline)

    def _at_deadline(self) -> None:
        if self._cancels < 2:
            self._end_intake()
            self._cancel()
            self._set_deadline(self._loop.time() + GRACE)
        else:
            self._abandon()

    def _cancel(self) -> None:
        self._cancels += 1
        for queue in self._queues():
            queue._release_writers()
        for stage in self.stages:
            stage.inbox._dismiss()
        for worker in list(self._live):
            if self._cancels > 1 or not (worker.cancelled or worker.completed):  # those are closing already
                self._cancel_worker(worker)
        self._finish_if_ended()

    def _cancel_worker(self, worker: Worker) -> None:
        worker.cancelled = worker.called_off = True
        if worker.task is not None:
            worker.task.cancel()

    def _abandon(self) -> None:
        for worker in self._live:
            worker.abandoned = True
        logger.error("workers that ignored two cancellations are left behind: %s", [one.name for one in self._live])
        self._finish()

    # -- the end of a worker ------------------------------------------------------------------

    def _worker_ended(self, worker: ConsumerWorker | ProducerWorker, task: asyncio.Task[None] | None = None) -> None:
        if worker.abandoned:  # came back after all; the run is long over
            return
        self._live.pop(worker, None)
        if task is not None and not task.cancelled() and (error := task.exception()) is not None:
            worker.failed_with(error)  # of the framework itself
        self._judge(worker)
        if isinstance(worker, ProducerWorker):
            self._sources_live -= 1
            if self._sources_live == 0:
                self._end_intake()
                self._watch_for_quiet()
        else:
            worker.stage.inbox._workers -= 1
            if worker.stage.inbox._getters.on_wait is not None:
                self._close_if_quiet()  # one that left, as its stage has too many, may have been the last at work
            self._cascade()
        self._finish_if_ended()

    def _judge(self, worker: ConsumerWorker | ProducerWorker) -> None:
        errors = worker.failures
        if not errors and not worker.completed and not worker.cancelled:
            errors = [
                WorkerCancelled(
                    f"{worker.name}: its task was cancelled from outside the run, or its handler raised "
                    "CancelledError; the item it had is listed as unfinished"
                )
            ]
        for error in errors:
            self._keep(error, worker.name)
        if errors and isinstance(worker, ProducerWorker) and self.interrupt is None:
            self.stop()  # what it gave is handled first (fault C13)
        elif errors:
            self._fail(worker.name)

    def _keep(self, error: BaseException, where: str) -> None:
        if not isinstance(error, Exception):
            self.interrupt = error if self.interrupt is None else self.interrupt
            return
        with suppress(Exception):  # an exception class may refuse to be written to
            error.add_note(f"asyncpc: in {where} of pipeline {self.plan.name!r}")
        self.errors.append(error)

    def _trouble(self, error: Exception, where: str) -> None:
        """A callback of the user failed, in the middle of somebody else's work."""
        self._keep(error, where)
        self._fail(where)

    def _fail(self, where: str) -> None:
        """The first failure stops the run: siblings are cancelled, callers in ``put`` are told (invariant 7)."""
        if self.state is not State.FAILED:
            self._advance(State.FAILED)
            self.first._refuse(f"pipeline {self.plan.name!r} failed in {where}: the item was not taken")
            self._limit(self.plan.drain_timeout)
            if self._cancels == 0:  # or a clean-up under way would be cut short
                self._cancel()

    def _cascade(self) -> None:
        """END goes on: the queue after a stage whose workers have all seen it is closed."""
        for stage in self.stages:
            inbox = stage.inbox
            if inbox._is_shutdown and len(inbox._queue) == 0:
                inbox._dismiss()
                while stage.opening:  # nobody needs their resources any more
                    worker = stage.opening.pop()
                    if not worker.cancelled:
                        inbox._ends += 1  # this is how it is told END
                        self._cancel_worker(worker)
            if inbox._workers or not inbox._is_shutdown:
                return
            if stage.outbox is not None:
                stage.outbox.close()

    # -- the end of the run -------------------------------------------------------------------

    def _finish_if_ended(self) -> None:
        if not (self._live or self._ended.is_set() or self.state is State.RUNNING):
            self._finish()

    def _finish(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        if self._deadline is not None:
            self._deadline.cancel()
        for stage in self.stages:
            stage.release()
        left = self.books.left()
        if self.state is not State.FAILED:
            unclean = left or self._abandoned() or self.errors or self.interrupt
            self._advance(State.FAILED if unclean else State.CLOSED)
        self.report = self.report_so_far()
        self.breach = self.books.breach(self.report.statistics)
        if left:
            logger.warning("pipeline %r left items unfinished: %s", self.plan.name, self.report.left_by_stage())
        self._disappoint()
        for queue in self._queues():
            queue.close()  # an abandoned worker that comes back finds END
            if queue is not self.results:
                queue._queue.clear()
        self._ended.set()
        _under_way.discard(self)

    def _disappoint(self) -> None:
        """Tell those who asked for a result that will not come."""
        for stage in self.stages:
            for item in (*stage.in_flight, *stage.inbox._queue):
                if type(item) is Asked:
                    item.fail(QueueShutDown(f"pipeline {self.plan.name!r} ended before it came to this item"))

    def report_so_far(self) -> Report:
        """The report as it would be now: what is in queues and hands counts as unfinished."""
        return Report(self.statistics(), self.books.left(), self._abandoned())

    def _abandoned(self) -> tuple[str, ...]:
        return tuple(sorted([worker.name for worker in self._live if worker.abandoned]))

    def outcome(self) -> Report:
        """The report of a run that has ended, or what it failed with."""
        assert self.report is not None
        if self.interrupt is not None:
            raise self.interrupt
        if self.breach is not None:
            raise self.breach
        if self.errors:
            raise PipelineError(f"pipeline {self.plan.name!r} failed", self.errors, self.report)
        return self.report

    # -- insight ------------------------------------------------------------------------------

    def statistics(self) -> Statistics:
        """The books at this moment, or at the end once there was one."""
        if self.report is not None:
            return self.report.statistics
        now = self._loop.time()
        elapsed = max(now - self._began, perf_counter() - self._began_really)  # uvloop's clock has steps of 1 ms
        return self.books.statistics(self.state.value, elapsed, now)

    def _queues(self) -> list[BoundedQueue[Any]]:
        return [*(stage.inbox for stage in self.stages), *([self.results] if self.results is not None else [])]

    def _advance(self, state: State) -> None:
        if state not in ADVANCES[self.state]:
            raise StateError(f"pipeline {self.plan.name!r} is {self.state.value}; it cannot become {state.value}")
        logger.debug("pipeline %r: %s -> %s", self.plan.name, self.state, state)
        self.state = state


def _delivered_again(error: asyncio.CancelledError, before: asyncio.CancelledError) -> bool:
    """Whether anyio delivers one cancel of a scope again, as it does in every turn of the loop."""
    return bool(error.args) and error.args == before.args and "cancel scope" in str(error.args[0])
