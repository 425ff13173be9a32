"""The supervisor of one run: the only module that creates tasks. It starts, watches, drains and closes.

Other modules of this wing have what needs no tasks: what comes in from outside (``intake``), when END may be sent and
how it goes on (``ending``), the timer of the deadline (``deadline``), the counts (``accounting``), what a worker's end
means for the result (``outcome``), and how a caller waits for the end (``leaving``).

It is a state machine of plain functions, called when a task ends, a timer fires or a user asks; it has no task of its
own that could be cancelled. It sees each worker's end itself and knows which tasks it cancelled, so a worker that was
cancelled by anyone else is a failure with a name (fault B1).

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
from collections.abc import Iterable
from contextvars import Context, copy_context
from functools import partial
from time import perf_counter
from typing import Any

from ..core.channel import Channel
from ..core.plan import Plan
from ..core.seams import Following
from ..core.source import ProducerWorker
from ..core.stage import ConsumerWorker, RunLinks, Stage, Worker
from ..core.worker import consume
from ..errors import ConservationError, StateError
from ..events import DrainBegun, ItemsLeft, Listener, StateChanged, WorkerEnded, WorkerLeft, WorkerStarted
from ..logs import DEBUG, ERROR, WARNING, log, log_as
from ..wording import described
from .accounting import Accounts
from .attending import LAST_GRACE, AttendantWorker, most_time, reserve
from .build import build
from .deadline import Deadline
from .ending import end_first_stages, end_following_stages, is_quiet
from .events import Events
from .handover import HandOver
from .intake import Intake
from .looks import Looks
from .outcome import Outcome
from .report import Report
from .scaling import Scaling
from .state import ADVANCES, State
from .statistics import Statistics

__all__ = ["Supervisor"]

_under_way: set[Supervisor] = set()
"""Runs with tasks; the loop holds these weakly, so without this they could be garbage-collected."""


class Supervisor:
    """Runs a :class:`~asyncpc.core.plan.Plan` once. All methods are plain functions, which wait for nothing."""

    __slots__ = (
        "_aborts", "_attendants", "_attending", "_began", "_began_really", "_cancels", "_channels", "_context",
        "_deadline", "_handing", "_is_settled", "_last_moment", "_left_behind", "_lets_go", "_live", "_looks", "_loop",
        "_outside", "_producers", "_sources_live", "_starting", "_stop_asked", "accounts", "ended", "entered", "events",
        "first", "following", "intake", "links", "outcome", "plan", "results", "scaling", "stages", "state",
    )  # fmt: skip

    def __init__(
        self,
        plan: Plan,
        *,
        streamed: bool = False,
        tracks: bool = False,
        entered: bool = False,
        listeners: Iterable[Listener] = (),
        following: Following | None = None,
    ) -> None:
        self.plan: Plan = plan
        self.state: State = State.NEW
        self.entered: bool = entered  # with 'async with'
        self.events: Events = Events(plan.name, listeners, self._interrupted)
        self.following: Following | None = following
        self.links: RunLinks = RunLinks(tracks, self._trouble, self._failing, self.events, following)
        parts = build(plan, streamed, self.links)
        self.stages: list[Stage] = parts.stages
        self.results: Channel[Any] | None = parts.results
        self.first: Channel[Any] = parts.first
        self._producers: list[ProducerWorker] = parts.producers
        self._attendants: list[AttendantWorker] = parts.attendants
        self._channels: list[Channel[Any]] = parts.channels
        self.links.comes_with_tickets = bool(self._attendants)  # nothing has asked yet
        self.links.tracks = tracks or bool(self._attendants)
        self.scaling: Scaling = Scaling(plan.name, self.stages, self._start_worker, self.events)
        self.accounts: Accounts = Accounts(self._producers, self.stages, plan.ends, self.results)
        self.accounts.tracked = bool(self._attendants) or following is not None
        self.ended: asyncio.Event = asyncio.Event()
        """Set when the run is over and its report written."""
        self.intake: Intake = Intake(plan, self.first, self.accounts, self.ended.is_set)
        self.outcome: Outcome = Outcome(plan.name)
        self._looks: Looks | None = None
        self._live: dict[Worker, None] = {}  # a set that keeps its order, so that runs can be repeated
        self._left_behind: list[str] = []  # workers that left a call running in a thread
        self._sources_live = 0
        self._attending = 0  # attendants that have not ended
        self._last_moment = math.inf  # loop time at which what attends the sources has to have ended
        self._starting = False  # whether a worker's task is being made
        self._stop_asked = False
        self._handing: HandOver | None = None  # what was left to on_unfinished
        self._cancels = 0  # rounds of cancellation
        self._lets_go = False  # whether results that nobody has read yet were given back
        self._is_settled = False  # whether what is left is known, and nothing is handled any more
        self._aborts = 0
        self._outside: Context  # what begins in a copy of it can tell listeners, and its log lines name the pipeline
        self._context: Context  # consumers' workers begin with a copy of it, and can feed
        self._began = 0.0  # loop time
        self._began_really = 0.0

    # -- start --------------------------------------------------------------------------------

    def start(self) -> None:
        """Start what takes items, then the sources, which need it.

        Consumers' workers start when there is work for them, or a resource to open.
        """
        self._loop = asyncio.get_running_loop()
        self._advance(State.RUNNING)
        self._deadline = Deadline(self._loop, self._at_deadline)
        if _under_way:  # other threads' too
            _under_way.difference_update([run for run in tuple(_under_way) if run.lost_its_loop()])
        _under_way.add(self)
        self._began, self._began_really = self._loop.time(), perf_counter()
        for queue in self._channels:
            queue.check_caller()
        if len(self.plan.entries) > 1:  # then it is none of those
            self.first.check_caller()
        self._outside = copy_context()
        log_as(self.plan.name, self._outside)
        self.events.open(self._outside)
        self._context = self._outside.copy()
        self.intake.open(self._context, self.runs_here)
        self.scaling.start(self._loop)
        self._start_sources()

    def _start_sources(self) -> None:
        self._attending = len(self._attendants)
        for attendant in self._attendants:  # first, since the sources need them
            self._spawn(attendant, self._outside.copy())
        self._sources_live = len(self._producers)
        for producer in self._producers:
            if producer.origin.blocks:
                from ..offload.sources import read_in_thread  # here, since most programs have no such source

                producer.origin = read_in_thread(producer)
            self._spawn(producer, self._outside.copy())

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

    def _spawn(self, worker: ConsumerWorker | ProducerWorker | AttendantWorker, context: Context) -> None:
        worker.context = context
        if isinstance(worker, ConsumerWorker) and (worker.stage.run.tracks or self.following is not None):
            self.intake.know(worker, context)
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
            # not a bound method, which takes 64 bytes more for each worker
            worker.task.add_done_callback(partial(Supervisor._worker_ended, self, worker))
            if isinstance(worker, ConsumerWorker) and self.events:
                self.events.tell(WorkerStarted(self.plan.name, worker.stage.handler.name, worker.name))

    # -- stop ---------------------------------------------------------------------------------

    def stop(self, timeout: float | None = None) -> None:
        """End the intake and drain, within ``timeout`` seconds (default: the plan's); another call shortens it."""
        if self.state is State.NEW:
            self._advance(State.CLOSED)
            self.ended.set()
        elif not self.ended.is_set():
            self.first.check_caller()
            self._stop_asked = True
            self._drain(self.plan.drain_timeout if timeout is None else timeout)
        elif self._handing is not None:
            self._handing.limit(self.plan.drain_timeout if timeout is None else timeout)

    def abort(self) -> None:
        """Cancel every worker now; clean-up gets ``drain_timeout`` seconds, after a second call none (fault B7)."""
        if self.ended.is_set() or self.state is State.NEW:
            self.stop()
            return
        self._aborts += 1
        if self._aborts > 1:
            self._limit(0)
        elif self._cancels == 0:  # or a failure has cancelled them already
            self._stop_asked = True
            self._drain(self.plan.drain_timeout)
            self._cancel()

    def _drain(self, timeout: float) -> None:
        begins = self.state is State.RUNNING
        self.scaling.stop()
        self._limit(timeout)
        self._end_intake()
        if begins and self.events:
            self.events.tell(DrainBegun(self.plan.name, timeout))

    def _end_intake(self) -> None:
        """Take nothing from outside any more: refuse callers of ``put``, and cancel the sources."""
        if self.state is not State.RUNNING:
            return
        self._advance(State.DRAINING)
        self.intake.close()
        for producer in self._producers:
            self._cancel_worker(producer)
        for worker in self._attendants:
            worker.attendant.end_intake()
        if self._sources_live == 0:
            self._watch_for_quiet()

    # -- END ----------------------------------------------------------------------------------

    def _watch_for_quiet(self) -> None:
        """From now on every worker that becomes idle checks whether it was the last."""
        for stage in self.stages:
            stage.inbox.getters.on_wait = self._close_if_quiet
        self._close_if_quiet()

    def _close_if_quiet(self) -> None:
        """Send END into the first stages when nothing is queued or running anywhere (invariant 3)."""
        if self.stages[0].inbox.closed or self._sources_live or not is_quiet(self.stages, self.first):
            return
        end_first_stages(self.stages)
        self._cascade()
        self._finish_if_ended()

    def _cascade(self) -> None:
        """END goes on: to the next stages, and at last to whoever reads the results."""
        end_following_stages(self.stages, self._cancel_worker)
        if self.results is not None and all(self.stages[place].has_ended for place in self.plan.ends):
            self.results.close()

    # -- the deadline -------------------------------------------------------------------------

    def _limit(self, timeout: float) -> None:
        """Bring the one deadline forward to ``timeout`` seconds from now; it is never postponed."""
        if self._attendants:
            self._last_moment = min(self._last_moment, self._loop.time() + most_time(timeout))
            timeout -= 0.0 if self._is_settled else reserve(timeout)
        if self._cancels < 2 or self._is_settled:  # after the second round workers have their last GRACE
            self._deadline.limit(timeout)

    def _at_deadline(self) -> None:
        if self._is_settled and self._cancels < 3:
            if self.results is None or self._lets_go:
                self._cut_short()
            else:
                self._lets_go = True
                self.accounts.let_go_of_results()  # its reader is too slow
                self._deadline.renew(self._last_moment - self._loop.time())
        elif self._cancels < 2:
            self._end_intake()
            self._cancel()
            self._deadline.renew()
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
            if isinstance(worker, AttendantWorker):
                worker.attendant.end_intake()  # it has to settle what the others leave
            elif self._cancels > 1 or not (
                worker.cancelled or worker.completed or worker.failures
            ):  # those are closing
                self._cancel_worker(worker)
        self._finish_if_ended()

    def _cancel_worker(self, worker: Worker) -> None:
        worker.cancelled = worker.interrupted = True
        if worker.task is not None:
            worker.task.cancel()

    def _cut_short(self) -> None:
        """Cancel what attends the sources; what it could not settle comes again, so the report names it."""
        self._cancels = 3
        for worker in self._live:
            self._left_behind.append(worker.name)
            self._cancel_worker(worker)
            message = "%s: no time was left to settle messages, which come again"
            log(ERROR, message, worker.name, pipeline=self.plan.name, stage=worker.name)
        self._deadline.renew(self._last_moment + LAST_GRACE - self._loop.time())

    def _abandon(self) -> None:
        for worker in self._live:
            worker.abandoned = self._is_settled or not isinstance(worker, AttendantWorker)
        if self._is_settled:
            self._end()
        else:
            self._finish()
        _under_way.add(self)  # or a task could be garbage-collected, and Python would complain that it is pending (B9)
        names = ", ".join(self._abandoned())
        log(ERROR, "workers that ignored two cancellations are left behind: %s", names, pipeline=self.plan.name)
        for name in self._abandoned() if self.events else ():
            self.events.tell(WorkerLeft(self.plan.name, name))

    # -- the end of a worker ------------------------------------------------------------------

    def _worker_ended(
        self, worker: ConsumerWorker | ProducerWorker | AttendantWorker, task: asyncio.Task[None] | None = None
    ) -> None:
        if worker.abandoned:  # came back after all; the run is long over
            self._live.pop(worker, None)
            if not self._live:
                _under_way.discard(self)
            return
        self._live.pop(worker, None)
        self._attending -= isinstance(worker, AttendantWorker)
        if worker.leaves_a_call:
            self._left_behind.append(worker.name)
        if task is not None and not task.cancelled() and (error := task.exception()) is not None:
            worker.failed_with(error)  # of the framework itself
        errors = self.outcome.judge(worker)
        if errors and not self._is_settled:
            self._stop_for(worker)
        if isinstance(worker, ProducerWorker):
            self._source_ended()
        elif isinstance(worker, ConsumerWorker):
            self._left_stage(worker)
            if self.events and (worker.task is not None or errors):  # else it has never begun
                failed_with = described(errors[0]) if errors else ""
                self.events.tell(WorkerEnded(self.plan.name, worker.stage.handler.name, worker.name, failed_with))
        self._finish_if_ended()
        if self.entered:  # the caller of a run that is awaited gets them anyway
            stage = worker.stage.handler.name if isinstance(worker, ConsumerWorker) else worker.name
            self.outcome.log_failures(errors, f"in {worker.name}", stage)

    def _source_ended(self) -> None:
        self._sources_live -= 1
        if self._sources_live:
            return
        if self.state is State.RUNNING:
            self._end_intake()  # and watches
        else:
            self._watch_for_quiet()

    def _left_stage(self, worker: ConsumerWorker) -> None:
        stage = worker.stage
        stage.staff.left(worker, stage.counts)
        stage.inbox.workers -= 1
        if stage.inbox.getters.on_wait is not None:
            self._close_if_quiet()  # a surplus worker that left may have been the last at work
        self._cascade()

    def _stop_for(self, worker: Worker) -> None:
        """Stop the run, since a worker has failed."""
        if isinstance(worker, ProducerWorker) and self.outcome.interrupt is None:
            self._drain(self.plan.drain_timeout)  # what it produced is handled first (fault C13)
        else:
            self._fail(worker.name)

    def _failing(self, worker: Worker) -> None:
        """Stop the run for a worker that has failed already, since its end may take its time."""
        if isinstance(worker, ConsumerWorker):
            self._fail_unless_over(worker.name)
        else:
            self._limit(self.plan.drain_timeout)

    def _trouble(self, error: BaseException, where: str) -> None:
        """End the run, since a callback of the user failed where nobody could raise it."""
        self.outcome.keep(error, where)
        self._fail(where)
        if self.entered:
            self.outcome.log_failures([error], f"in {where}", where)

    def _interrupted(self, interrupt: BaseException, where: str) -> None:
        """End the run with an interrupt that came in a listener; soon, since that is told in the midst of things."""
        self.outcome.keep(interrupt, where)
        self._loop.call_soon(self._fail_unless_over, where)

    def _fail_unless_over(self, where: str) -> None:
        if not self._is_settled:
            self._fail(where)

    def _fail(self, where: str) -> None:
        """Stop the run at its first failure: cancel other workers, refuse waiting callers of ``put`` (invariant 7)."""
        if self.state is not State.FAILED:
            self._advance(State.FAILED)
            self.intake.fail(where)
            self._limit(self.plan.drain_timeout)
            if self._cancels == 0:  # or a clean-up under way would be cut short
                self._cancel()

    # -- the end of the run -------------------------------------------------------------------

    def _finish_if_ended(self) -> None:
        """Finish when all that was started has ended.

        Until then the deadline holds, and ends what takes longer. So what takes time is done by something that is live,
        never in :meth:`_finish`.
        """
        if self.ended.is_set() or self.state is State.RUNNING:
            return
        if not self._is_settled:
            if len(self._live) == self._attending:
                self._finish()
        elif self._attending == 0:
            self._end()

    def _finish(self) -> None:
        """End the run, at which nobody is at work any more but those who were abandoned; this waits for nothing.

        What attends the sources is told to finish; if there is any, the run ends when that has.
        """
        self.scaling.close()
        self._deadline.close()  # a failure in what follows sets no other
        for queue in self._channels:  # first, or a thread could feed an item that no report lists
            queue.close()  # an abandoned worker that comes back finds END
        self._is_settled = True
        try:
            self._conclude()
        except Exception as error:  # or the run would never end
            self.outcome.breach = ConservationError(
                "the report cannot be written; this is a bug in asyncpc, please report it"
            )
            self.outcome.breach.__cause__ = error
        for worker in self._attendants:
            worker.attendant.finish()
        if self._attending:
            self._deadline = Deadline(self._loop, self._at_deadline)
            if self._last_moment == math.inf:  # nobody has set a time
                self._last_moment = self._loop.time() + most_time(self.plan.drain_timeout)
            left = self._last_moment - self._loop.time()
            self._deadline.limit(left if self.results is None else left - reserve(left))
        else:
            self._end()

    def _end(self) -> None:
        self._deadline.close()
        if self._attendants and self.outcome.report is not None:
            self._conclude_again(self.outcome.report)
        self.ended.set()
        _under_way.discard(self)
        is_left_early = self.results is not None and self.outcome.is_clean()  # by whoever reads its results
        self.outcome.log_left(DEBUG if is_left_early else WARNING)
        if self.events and self.outcome.report is not None:
            for stage, items in self.outcome.report.left_by_stage().items():
                self.events.tell(ItemsLeft(self.plan.name, stage, items))
        if not self._live:
            self._let_go()

    def _let_go(self) -> None:
        """Cut what leads back here, so that a run is freed as soon as nobody has it: a collector would take longer."""
        self.links.let_go()
        self.events.let_go(self.outcome.keep)
        for queue in {*self._channels, self.first}:  # which is none of those if items enter at several stages
            queue.let_go()

    def _conclude(self) -> None:
        """Write the report, with what is left, and let go of it."""
        for stage in self.stages:
            if stage.window is not None:
                stage.window.release()
        left, abandoned = self.accounts.left(), self._abandoned()
        if self.state is not State.FAILED and not self._attending:
            unclean = left or abandoned or not self.outcome.is_clean()
            self._advance(State.FAILED if unclean else State.CLOSED)
        self.outcome.report = Report(self.statistics(), left, abandoned, failures=self.accounts.failures)
        self.outcome.report.signal = self.outcome.signal  # last, since a signal may come between any two steps
        self.outcome.breach = self.accounts.breach(self.outcome.report.statistics)
        self.accounts.let_go()
        if self._cancels:  # or their reader may still come for them
            self.accounts.let_go_of_results()

    def _conclude_again(self, report: Report) -> None:
        """Tell in the report how that ended which attended the sources."""
        report.abandoned = self._abandoned()
        if self.state is State.DRAINING:
            self._advance(State.CLOSED if report.complete and self.outcome.is_clean() else State.FAILED)
        self.accounts.conclude(report, self.state.value)

    def report_so_far(self) -> Report:
        """The report as it would be now: items queued and in flight count as unfinished."""
        return Report(self.statistics(), self.accounts.left(), self._abandoned(), failures=self.accounts.failures)

    def _abandoned(self) -> tuple[str, ...]:
        if not self._live and not self._left_behind:
            return ()
        return tuple(sorted({*self._left_behind, *(worker.name for worker in self._live if worker.abandoned)}))

    def hand_over(self) -> HandOver | None:
        """Begin to give what the run has left to ``on_unfinished=``, once; None if there is nothing to give."""
        report, receive = self.outcome.report, self.plan.on_unfinished
        if receive is None or report is None or not report.left or self._handing is not None:
            return None
        self._handing = HandOver(receive, report.unfinished, self._loop.create_task)
        return self._handing

    # -- insight ------------------------------------------------------------------------------

    @property
    def looks(self) -> Looks:
        """Looks at it for callers in any thread; most runs are never looked at."""
        if self._looks is None:
            self._looks = Looks(self.first, self.stages, self.outcome, self.statistics)
        return self._looks

    def statistics(self, percentiles: bool = True) -> Statistics:
        """The counts at this moment, or those at the end once the run has ended; see :meth:`Running.statistics`."""
        if self.outcome.report is not None:
            return self.outcome.report.statistics
        now = self._loop.time()
        elapsed = max(now - self._began, perf_counter() - self._began_really)  # uvloop's clock has steps of 1 ms
        return self.accounts.statistics(str(self.state), elapsed, now, self._stop_asked, percentiles)

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

    def _advance(self, state: State) -> None:
        if state not in ADVANCES[self.state]:
            raise StateError(f"pipeline {self.plan.name!r} is {self.state.value}; it cannot become {state.value}")
        before, self.state = self.state, state
        log(DEBUG, "pipeline %r: %s -> %s", self.plan.name, before, state, pipeline=self.plan.name)
        if self.events:
            self.events.tell(StateChanged(self.plan.name, before.value, state.value))
