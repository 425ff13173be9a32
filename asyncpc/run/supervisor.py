"""The supervisor of one run: the only module that creates tasks. It starts, watches, drains and closes.

It is a state machine of plain functions, called when a task ends, a timer fires or a user asks; it has no task of its
own that could be cancelled. It judges each worker's end itself and knows which tasks it cancelled, so a worker that
was cancelled by anyone else is a failure with a name (fault B1).

How a run stops
---------------
1. *Intake ends*: puts are refused and the sources' tasks are cancelled, also while they sit in their next item; each
   source is closed in its own task. (Sources that end by themselves lead to the same point.)
2. *The queues drain*: when every queue is empty and every worker waits with nothing in flight, nothing can make new
   work, not even ``feed``.
3. *END goes through the stages*: the queues that no stage writes to are closed, and each of their consumers sees END.
   When the last worker of a stage has ended, the next queue is closed, stage by stage; where branches meet, when the
   last of them has ended.
4. *One deadline* over all of it, set when a stop is asked for or a source raises; sources that end by themselves set
   none. Then the workers are cancelled, once more after ``GRACE`` seconds, and after another ``GRACE`` a worker that
   ignored both is abandoned by name. What was not handled is listed, item by item.

A failure cancels at once instead of steps 2 and 3; what it leaves is listed as well. When a source raises, the run
drains the items that it produced, then raises the error (fault C13).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from contextvars import Context, ContextVar, copy_context
from functools import partial
from threading import get_ident
from time import perf_counter
from typing import Any

from ..core.channel import Channel
from ..core.plan import Plan
from ..core.source import ProducerWorker
from ..core.stage import ConsumerWorker, RunLinks, Stage, Worker
from ..core.tracked import release_all
from ..core.worker import consume
from ..errors import ConservationError, QueueShutDown, StateError, WorkerCancelled
from ..logs import DEBUG, ERROR, WARNING, log, log_as
from ..wording import item_of, summary
from .accounting import Accounts
from .build import build
from .handover import GRACE, HandOver
from .health import Looks
from .outcome import Outcome
from .report import Report, Statistics
from .scaling import Scaling
from .state import ADVANCES, State

__all__ = ["Supervisor", "feed"]

_under_way: set[Supervisor] = set()
"""Runs with tasks; the loop holds these weakly, so without this they could be garbage-collected."""

_current: ContextVar[Supervisor] = ContextVar("asyncpc_run")


def feed(item: Any) -> None:
    """Put ``item`` into the first stage of the run that the calling handler belongs to, without waiting.

    It ignores the bound of the queue, so a full queue cannot deadlock on its own workers. The report counts the item as
    ``fed``. The run does not end before the item, and all that its handling feeds in turn, has been handled. A handler
    in a thread may call it too; many calls wake the loop once.

    Raises ``StateError`` outside a handler, and in a process, which cannot reach the run; ``QueueShutDown`` when the
    run has ended.
    """
    run = _current.get(None)
    if run is None:
        from ..offload.child import serving  # here, since most programs have none

        if serving:
            raise StateError(
                f"feed() does not reach the run from a process or interpreter of stage {serving!r}: return the items, "
                "or yield them, and let the next stage feed them"
            )
        raise StateError("feed() works only inside a consumer's handler; elsewhere, use 'await running.put(item)'")
    run.feed(item)


class Supervisor:
    """Runs a :class:`~asyncpc.core.plan.Plan` once. All methods but those that wait are plain functions."""

    def __init__(self, plan: Plan, *, streamed: bool = False, tracks: bool = False, entered: bool = False) -> None:
        self.plan: Plan = plan
        self.state: State = State.NEW
        self._entered = entered
        parts = build(plan, streamed, RunLinks(tracks, self._trouble, self._failing))
        self.stages: list[Stage] = parts.stages
        self.results: Channel[Any] | None = parts.results
        self.first: Channel[Any] = parts.first
        self._producers: list[ProducerWorker] = parts.producers
        self._channels: list[Channel[Any]] = parts.channels
        self.scaling: Scaling = Scaling(plan.name, self.stages, self._start_worker)
        self.accounts: Accounts = Accounts(self._producers, self.stages, plan.ends, self.results)
        self.outcome: Outcome = Outcome(plan.name)
        self.looks: Looks = Looks(self.first, self.stages, self.outcome, self.statistics)
        self._live: dict[Worker, None] = {}  # a set that keeps its order, so that runs can be repeated
        self._left_behind: list[str] = []  # workers that left a call running in a thread
        self._sources_live = 0
        self._starting = False  # whether a worker's task is being made
        self._stop_asked = False
        self._handing: HandOver | None = None  # what was left to on_unfinished
        self._cancels = 0  # rounds of cancellation
        self._aborts = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._deadline_at = math.inf  # kept here, since a handle of uvloop that has fired cannot say it
        self._began = 0.0  # loop time
        self._began_really = 0.0
        self._ended = asyncio.Event()
        self._context = copy_context()  # consumers' workers begin with a copy of it

    # -- start --------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the sources; consumers' workers start when there is work for them, or a resource to open."""
        self._advance(State.RUNNING)
        self._loop = asyncio.get_running_loop()
        _under_way.difference_update([run for run in tuple(_under_way) if run.lost_its_loop()])  # other threads' too
        _under_way.add(self)
        self._began, self._began_really = self._loop.time(), perf_counter()
        for queue in self._channels:
            queue.check_caller()
        if len(self.plan.entries) > 1:  # then it is none of those
            self.first.check_caller()
        log_as(self.plan.name, self._context)
        self._context.run(_current.set, self)
        self.first.check_waiter = self._check_waiter
        self.scaling.start(self._loop)
        self._sources_live = len(self._producers)
        for producer in self._producers:
            if producer.origin.blocks:
                from ..offload.sources import read_in_thread  # here, since most programs have no such source

                producer.origin = read_in_thread(producer)
            context = copy_context()
            log_as(self.plan.name, context)
            self._spawn(producer, context)

    def _start_worker(self, stage: Stage) -> None:
        """Start one more worker, since an item has come and no worker is idle."""
        stage.inbox.getters.spare_started(self._loop.time())
        stage.staff.started += 1
        worker = ConsumerWorker(f"{stage.handler.name}-{stage.staff.started}", stage)
        stage.staff.workers[worker] = None
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
        if worker.cancelled or self._cancels:  # in the meantime
            worker.cancelled = True
            self._worker_ended(worker)
            return
        work = consume(worker) if isinstance(worker, ConsumerWorker) else worker.run()
        try:
            worker.task = self._loop.create_task(work, name=f"asyncpc:{worker.name}", context=context)
        except BaseException as error:  # a task factory that refuses
            work.close()
            worker.failed_with(error)
            self._loop.call_soon(self._worker_ended, worker)  # not now: the caller is in the middle of something
        else:
            worker.task.add_done_callback(partial(self._worker_ended, worker))

    # -- intake -------------------------------------------------------------------------------

    def feed(self, item: Any) -> None:
        """See :func:`feed`."""
        if len(self.plan.entries) > 1:
            assert self.first.refusal is not None
            raise self.first.refusal()
        if get_ident() != self.first.thread:
            from ..offload.bridge import bridge_to  # here, since most programs have no threads

            bridge_to(self.first).feed(item, self)
            return
        self.first.check_caller()
        if self._ended.is_set() or self.first.closed:
            raise QueueShutDown("feed() after the end of its run: the item was not taken")
        self.first.enqueue(item)  # first, since key= or priority= may refuse it
        self.accounts.fed += 1

    def count_fed(self, items: int) -> None:
        """Count items that handlers have fed in threads."""
        self.accounts.fed += items

    # -- stop ---------------------------------------------------------------------------------

    def stop(self, timeout: float | None = None) -> None:
        """End the intake and drain, within ``timeout`` seconds (default: the plan's); another call shortens it."""
        if self.state is State.NEW:
            self._advance(State.CLOSED)
            self._ended.set()
        elif not self._ended.is_set():
            self.first.check_caller()
            self._stop_asked = True
            self._drain(self.plan.drain_timeout if timeout is None else timeout)
        elif self._handing is not None:
            self._handing.limit(self.plan.drain_timeout if timeout is None else timeout)

    def _drain(self, timeout: float) -> None:
        self.scaling.stop()
        self._limit(timeout)
        self._end_intake()

    def abort(self) -> None:
        """Cancel every worker now; clean-up gets ``drain_timeout`` seconds, after a second call none (fault B7)."""
        if self._ended.is_set() or self.state is State.NEW:
            self.stop()
            return
        self._aborts += 1
        if self._aborts > 1:
            self._limit(0)
        elif self._cancels == 0:  # or a failure has cancelled them already
            self._stop_asked = True
            self._drain(self.plan.drain_timeout)
            self._cancel()

    async def wait(self) -> None:
        """Wait for the end of the run; *cancel safety*: waiting changes nothing."""
        await self._ended.wait()

    async def wait_hastening(self, cause: BaseException | None = None) -> None:
        """Wait for the end, and until ``on_unfinished`` has got what was left.

        Each cancel of the caller hastens that, and is raised when no task is left (faults B5, B6); the report hangs on
        it. ``cause`` is the error that the caller is leaving with; if that is a cancel, it counts as the first.
        """
        first = cause if isinstance(cause, asyncio.CancelledError) else None
        cancelled = await _outlast(self._ended, self.abort, first)
        report, receive = self.outcome.report, self.plan.on_unfinished
        if receive is not None and report is not None and report.left and self._handing is None:
            self._handing = HandOver(receive, report.unfinished, self._loop.create_task)
            cancelled = await _outlast(self._handing.ended, self._handing.cancel, cancelled)
            self._judge_hand_over(self._handing.error)
        if cancelled is not None:
            if not self._entered:  # else they were logged when they came
                self._log_failures(self.outcome.errors, "while its caller was cancelled")
            self.outcome.hang_on(cancelled)
            if first is None:
                raise cancelled

    def _judge_hand_over(self, error: Exception | None) -> None:
        if error is not None:
            self.outcome.keep(error, "on_unfinished=")
            self.outcome.is_delivered = False  # the caller has not seen this error yet
            name = self.plan.name
            log(ERROR, "pipeline %r: on_unfinished= raised %s", name, summary(error), error=error, pipeline=name)

    @property
    def has_ended(self) -> bool:
        """Whether the run is over and its report written."""
        return self._ended.is_set()

    def lost_its_loop(self) -> bool:
        """Whether the loop was closed under the run."""
        return self.state is not State.NEW and self._loop.is_closed()

    def belongs_here(self) -> bool:
        """Whether it runs in the loop of the caller."""
        return self.state is not State.NEW and self._loop is asyncio.get_running_loop()

    def runs_here(self) -> bool:
        """Whether the caller is one of this run's workers, which cannot wait for its own end."""
        task = asyncio.current_task()
        return any(worker.task is task for worker in self._live)

    def _refusal(self) -> QueueShutDown:
        state = "has ended" if self._ended.is_set() else "is draining"
        return QueueShutDown(f"pipeline {self.plan.name!r} {state}: the item was not taken")

    def _check_waiter(self) -> None:
        """Refuse to let a handler of this run wait for room in ``put``: it may be the one that has to make it."""
        if _current.get(None) is self and (get_ident() != self.first.thread or self.runs_here()):
            raise StateError(
                f"the queue of stage {self.stages[self.plan.entries[0]].handler.name!r} is full, and a handler of the "
                "same run that waits for room there may wait for itself: write feed(item), which never waits, give "
                "the stage a larger maxsize=, or put from outside the handlers"
            )

    def _end_intake(self) -> None:
        if self.state is not State.RUNNING:
            return
        self._advance(State.DRAINING)
        self.first.refuse(self._refusal)
        for producer in self._producers:
            self._cancel_worker(producer)
        if self._sources_live == 0:
            self._watch_for_quiet()

    def _watch_for_quiet(self) -> None:
        """From now on every worker that becomes idle checks whether it was the last."""
        for stage in self.stages:
            stage.inbox.getters.on_wait = self._close_if_quiet
        self._close_if_quiet()

    def _close_if_quiet(self) -> None:
        """Send END into the first stages when nothing is queued or running anywhere (invariant 3)."""
        if self.stages[0].inbox.closed or self._sources_live:
            return
        if self.first.inlet is not None:
            self.first.inlet.take_fed()  # by a call in a thread that exceeded its timeout
        if all(stage.is_idle for stage in self.stages):
            if any(stage.inbox.complete() for stage in self.stages):
                return  # the worker that handles the last batch will come back here
            if any(len(stage.inbox.items) for stage in self.stages):
                return  # and so will the worker with their key, when a call has ended that goes on after its timeout
            for stage in self.stages:
                if not stage.before:
                    stage.inbox.close()
            self._cascade()
            self._finish_if_ended()

    def _limit(self, timeout: float) -> None:
        """Bring the one deadline forward to ``timeout`` seconds from now; it is never postponed."""
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
        self.scaling.close()
        for queue in self._channels:
            queue.release_writers()
        for stage in self.stages:
            stage.inbox.drop_spares()
        for worker in list(self._live):
            if self._cancels > 1 or not (worker.cancelled or worker.completed or worker.failures):  # those are closing
                self._cancel_worker(worker)
        self._finish_if_ended()

    def _cancel_worker(self, worker: Worker) -> None:
        worker.cancelled = worker.interrupted = True
        if worker.task is not None:
            worker.task.cancel()

    def _abandon(self) -> None:
        for worker in self._live:
            worker.abandoned = True
        self._finish()
        _under_way.add(self)  # or a task could be garbage-collected, and Python would complain that it is pending (B9)
        names = ", ".join(self._abandoned())
        log(ERROR, "workers that ignored two cancellations are left behind: %s", names, pipeline=self.plan.name)

    # -- the end of a worker ------------------------------------------------------------------

    def _worker_ended(self, worker: ConsumerWorker | ProducerWorker, task: asyncio.Task[None] | None = None) -> None:
        if worker.abandoned:  # came back after all; the run is long over
            self._live.pop(worker, None)
            if not self._live:
                _under_way.discard(self)
            return
        self._live.pop(worker, None)
        if worker.leaves_a_call:
            self._left_behind.append(worker.name)
        if task is not None and not task.cancelled() and (error := task.exception()) is not None:
            worker.failed_with(error)  # of the framework itself
        errors = self._judge(worker)
        if isinstance(worker, ProducerWorker):
            self._sources_live -= 1
            if self._sources_live == 0:
                self._end_intake()
                self._watch_for_quiet()
        else:
            worker.stage.staff.left(worker, worker.stage.counts)
            worker.stage.inbox.workers -= 1
            if worker.stage.inbox.getters.on_wait is not None:
                self._close_if_quiet()  # a surplus worker that left may have been the last at work
            self._cascade()
        self._finish_if_ended()
        if self._entered:  # the caller of a run that is awaited gets them anyway
            stage = worker.stage.handler.name if isinstance(worker, ConsumerWorker) else worker.name
            self._log_failures(errors, f"in {worker.name}", stage)

    def _judge(self, worker: ConsumerWorker | ProducerWorker) -> Sequence[BaseException]:
        """Keep what the worker failed with, if anything, and stop the run for it."""
        errors: Sequence[BaseException] = worker.failures
        if not errors and not worker.completed and not worker.cancelled:
            errors = [
                WorkerCancelled(
                    f"{worker.name}: its task was cancelled from outside the run, or its handler raised "
                    "CancelledError; the item it had is listed as unfinished"
                )
            ]
        for error in errors:
            self.outcome.keep(error, worker.name)
        if errors and isinstance(worker, ProducerWorker) and self.outcome.interrupt is None:
            self._drain(self.plan.drain_timeout)  # what it produced is handled first (fault C13)
        elif errors:
            self._fail(worker.name)
        return errors

    def _failing(self, worker: Worker) -> None:
        """Stop the run for a worker that has failed already, since what it closes first may take its time."""
        if isinstance(worker, ConsumerWorker):
            self._fail(worker.name)
        else:
            self._limit(self.plan.drain_timeout)

    def _trouble(self, error: BaseException, where: str) -> None:
        """End the run, since a callback of the user failed where nobody could raise it."""
        self.outcome.keep(error, where)
        self._fail(where)
        if self._entered:
            self._log_failures([error], f"in {where}", where)

    def _log_failures(self, errors: Sequence[BaseException], how: str, stage: str = "") -> None:
        name = self.plan.name
        for error in errors:
            if isinstance(error, Exception):
                what = summary(error) + item_of(error)
                log(ERROR, "pipeline %r failed %s: %s", name, how, what, error=error, pipeline=name, stage=stage)

    def _fail(self, where: str) -> None:
        """Stop the run at its first failure: cancel other workers, refuse waiting callers of ``put`` (invariant 7)."""
        if self.state is not State.FAILED:
            self._advance(State.FAILED)
            why = f"pipeline {self.plan.name!r} failed in {where}: the item was not taken"
            self.first.refuse(partial(QueueShutDown, why))
            self._limit(self.plan.drain_timeout)
            if self._cancels == 0:  # or a clean-up under way would be cut short
                self._cancel()

    def _cascade(self) -> None:
        """END goes on: a queue is closed when all stages before it have seen it, by all of their workers."""
        for stage in self.stages:  # each after those before it
            inbox = stage.inbox
            if stage.before and all(before.has_ended for before in stage.before):
                inbox.close()
            if inbox.closed and len(inbox.items) == 0:
                inbox.drop_spares()
                while stage.staff.opening:  # nobody needs their resources any more
                    worker = stage.staff.opening.pop()
                    if not worker.cancelled:
                        inbox.count_unseen_end()
                        self._cancel_worker(worker)
        if self.results is not None and all(self.stages[place].has_ended for place in self.plan.ends):
            self.results.close()

    # -- the end of the run -------------------------------------------------------------------

    def _finish_if_ended(self) -> None:
        if not (self._live or self._ended.is_set() or self.state is State.RUNNING):
            self._finish()

    def _finish(self) -> None:
        self.scaling.close()
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline_at = -math.inf  # a failure in what follows sets no other
        for queue in self._channels:  # first, or a thread could feed an item that no report lists
            queue.close()  # an abandoned worker that comes back finds END
        try:
            self._conclude()
        except Exception as error:  # or the run would never end
            self.outcome.breach = ConservationError(
                "the report cannot be written; this is a bug in asyncpc, please report it"
            )
            self.outcome.breach.__cause__ = error
        finally:
            self._ended.set()
            _under_way.discard(self)
        self._log_left()

    def _log_left(self) -> None:
        """Log how many items each stage has left; never an item itself."""
        if self.outcome.report is None:
            return
        counts = {stage.name: stage for stage in self.outcome.report.stages}
        left_early = self.results is not None and self.outcome.is_clean()  # by whoever reads its results
        for name, left in self.outcome.report.left_by_stage().items():
            one = counts[name]
            message = "pipeline %r: stage %r left %d of %d items unfinished (%d done, %d failed, %d dropped)"
            numbers = left, one.received, one.done, one.failed, one.dropped
            level = DEBUG if left_early else WARNING
            log(level, message, self.plan.name, name, *numbers, pipeline=self.plan.name, stage=name)

    def _conclude(self) -> None:
        """Write the report, with what is left, and let go of it."""
        for stage in self.stages:
            if stage.window is not None:
                stage.window.release()
        left, abandoned = self.accounts.left(), self._abandoned()
        if self.state is not State.FAILED:
            unclean = left or abandoned or not self.outcome.is_clean()
            self._advance(State.FAILED if unclean else State.CLOSED)
        self.outcome.report = Report(self.statistics(), left, abandoned, failures=self.accounts.failures)
        self.outcome.report.signal = self.outcome.signal  # last, since a signal may come between any two steps
        self.outcome.breach = self.accounts.breach(self.outcome.report.statistics)
        for stage in self.stages:
            if self.accounts.tracked:
                release_all(self.accounts.items_of(stage))
            stage.inbox.items.clear()

    def report_so_far(self) -> Report:
        """The report as it would be now: items queued and in flight count as unfinished."""
        return Report(self.statistics(), self.accounts.left(), self._abandoned(), failures=self.accounts.failures)

    def _abandoned(self) -> tuple[str, ...]:
        if not self._live and not self._left_behind:
            return ()
        return tuple(sorted([*self._left_behind, *(worker.name for worker in self._live if worker.abandoned)]))

    # -- insight ------------------------------------------------------------------------------

    def statistics(self) -> Statistics:
        """The counts at this moment, or those at the end once the run has ended."""
        if self.outcome.report is not None:
            return self.outcome.report.statistics
        now = self._loop.time()
        elapsed = max(now - self._began, perf_counter() - self._began_really)  # uvloop's clock has steps of 1 ms
        return self.accounts.statistics(self.state.value, elapsed, now, self._stop_asked)

    def _advance(self, state: State) -> None:
        if state not in ADVANCES[self.state]:
            raise StateError(f"pipeline {self.plan.name!r} is {self.state.value}; it cannot become {state.value}")
        before, self.state = self.state, state
        log(DEBUG, "pipeline %r: %s -> %s", self.plan.name, before, state, pipeline=self.plan.name)


async def _outlast(
    ended: asyncio.Event, hasten: Callable[[], None], cancelled: asyncio.CancelledError | None
) -> asyncio.CancelledError | None:
    """Wait for ``ended``; each new cancel of the caller hastens it. The last cancel, or the one that came before."""
    while not ended.is_set():
        try:
            await ended.wait()
        except asyncio.CancelledError as error:
            if cancelled is None or not _delivered_again(error, cancelled):
                hasten()
            cancelled = error
    return cancelled


def _delivered_again(error: asyncio.CancelledError, before: asyncio.CancelledError) -> bool:
    """Whether anyio delivers the same cancel of a scope again, as it does in every iteration of the loop."""
    return bool(error.args) and error.args == before.args and "cancel scope" in str(error.args[0])
