"""A run as its user sees it: put items, read results, look at it, stop it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from ..checks import at_least_1, check_seconds
from ..core.plan import Plan
from ..core.tracked import CallTicket, Tracked
from ..errors import QueueShutDown, StateError
from ..events import Listener
from ..mistakes import absent
from ..options.rate import Rate, set_rate
from .health import Health, judge
from .leaving import end_block, wait_hastening
from .looks import Look
from .report import Report
from .signals import Signals, can_handle_signals
from .statistics import Statistics
from .supervisor import Supervisor
from .telling import where_all_are
from .verdict import verdict
from .workers import WorkerState, workers_of

if TYPE_CHECKING:
    from ..offload.bridge import Bridge

__all__ = [
    "Running",
    "failing",
    "limit_calls",
    "listen_to",
    "look_at",
    "loop_of",
    "opening",
    "plan_followed",
    "signals_handled",
    "tell_where",
]

In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)


@absent
class Running(Generic[In_contra, Out_co]):
    """A run that is under way: put items, look at it, stop it."""

    __slots__ = ("_answers", "_bridge", "_lost", "_run")

    def __init__(self, run: Supervisor) -> None:
        self._run = run
        self._bridge: Bridge | None = None
        self._answers = False  # whether it is known that calls can be answered
        self._lost = partial(_not_handled, run.plan.name)

    async def put(self, item: In_contra, timeout: float | None = None) -> None:
        """Put ``item`` into the first stage's queue; wait for room for at most ``timeout`` seconds.

        Raises ``TimeoutError`` after that, and ``QueueShutDown`` when the run drains or has ended. *Cancel safety*: all
        or nothing; an item whose ``put`` raised was not accepted. In a handler of the same run, which may wait for
        itself, it raises ``StateError`` when it would wait without a ``timeout``: use :func:`feed` there.
        """
        run = self._run
        first = run.first
        if run.following is not None:
            item = self._entering(item)
        if not first.try_put(item):
            await first.put(item, timeout)

    def put_nowait(self, item: In_contra) -> None:
        """Put ``item`` into the first stage's queue at once; raises ``asyncio.QueueFull`` without room (answer 503)."""
        self._run.first.put_nowait(self._entering(item))

    def _entering(self, item: Any) -> Any:
        if self._run.following is not None:
            item = self._run.following.enter(item)
            if type(item) is Tracked:
                self._run.links.track()
        return item

    def put_from_thread(self, item: In_contra, timeout: float | None = None) -> None:
        """:meth:`put` from any thread but the loop's own: blocks while the queue is full, at most ``timeout`` seconds.

        Raises ``TimeoutError`` after that, ``QueueShutDown`` when the run drains or has ended or its loop is closed,
        and ``StateError`` in the loop's own thread, and for a handler as in :meth:`put`. An item whose call raised was
        not accepted. The item counts against the bound at once. Many calls wake the loop once.
        """
        if self._bridge is None:
            from ..offload.bridge import bridge_to  # here, since most programs have no threads

            self._bridge = bridge_to(self._run.first)
        self._bridge.put(self._entering(item), timeout)

    def call_from_thread(self, item: In_contra, timeout: float | None = None) -> Out_co:
        """:meth:`call` from any thread but the loop's own: blocks until there is a result.

        ``timeout`` (seconds) limits the wait for room; then it raises ``TimeoutError``. Raises ``QueueShutDown`` when
        the run drains or ends or its loop is closed, also while it waits, and ``StateError`` in the loop's own thread.
        Otherwise it raises what :meth:`call` raises. An item that was not accepted leaves no trace.
        """
        from concurrent.futures import Future

        from ..offload.bridge import bridge_to
        from ..offload.into_loop import result_of

        first = self._run.first
        if not self._answers:
            self._check_call()
        result: Future[Out_co] = Future()
        ticket = CallTicket(cast(Any, result), self._lost)
        bridge_to(first).put(self._entering(Tracked(item, ticket)), timeout)
        assert first.loop is not None  # the run has begun
        return cast(Out_co, result_of(first.loop, result, "the result of this item is lost"))

    async def call(self, item: In_contra, timeout: float | None = None) -> Out_co:
        """Put ``item`` and return the last stage's value for it; raises what a handler raised for it.

        ``timeout`` (seconds) limits the wait for room, as with :meth:`put`. If the item fails after all attempts, the
        error goes to the caller alone and the run goes on, whatever ``on_error`` says. Raises ``QueueShutDown`` when
        the run ends before the item was handled, and ``StateError`` if a stage may emit several values for an item, or
        gathers batches without a time limit.

        *Cancel safety*: before the item is accepted, all or nothing; after that it is handled, and its result dropped.
        """
        run = self._run
        first = run.first
        if not self._answers:
            self._check_call()
        result: asyncio.Future[Out_co] = asyncio.get_running_loop().create_future()
        tracked = Tracked(item, CallTicket(result, self._lost))
        if run.following is not None:
            tracked = self._entering(tracked)
        if not first.try_put(tracked):
            await first.put(tracked, timeout)
        return await result

    def _check_call(self) -> None:
        """Refuse a ``call`` that nobody would answer; from the first call on, items may be tracked."""
        run = self._run
        run.accounts.tracked = True
        if not (run.entered or run.links.tracks):
            raise StateError("call() needs a pipeline that was entered with 'async with pipeline as running:'")
        for stage in run.stages[: run.plan.main]:
            several = "may give more than one result" if stage.handler.gives_several else ""
            if why := several or stage.handler.no_calls:
                raise StateError(f"call() cannot be answered: stage {stage.handler.name!r} {why}")
        run.links.track()
        self._answers = True  # last, since other threads look at it

    def scale(self, stage: str, concurrency: int) -> None:
        """Set how many items the stage of that name handles at once, at least 1.

        New workers start when there is work for them; surplus workers leave after their current item. Raises
        ``StateError`` for an unknown stage and for a ``route`` or ``broadcast``, ``DefinitionError`` for anything but a
        whole number from 1 up.
        """
        self._run.first.check_caller()
        found = self._run.scaling.stage(stage)
        if found.handler.branches is not None:
            raise StateError(
                f"stage {found.handler.name!r} has one worker, which keeps items in their order: scale the stages of "
                "its branches"
            )
        self._run.scaling.scale(found, at_least_1(f"stage {found.handler.name!r}", "concurrency", concurrency))

    def set_rate(self, stage: str, rate: Rate) -> None:
        """Set the :class:`~asyncpc.Rate` of the stage of that name; calls that wait already follow it too.

        It holds for all places of the stage's consumer. Calls made under the old rate still count.

        Raises ``StateError`` for an unknown stage, ``DefinitionError`` for anything but a rate.
        """
        self._run.first.check_caller()
        set_rate(self._run.scaling.stage(stage), rate)

    def pause(self) -> None:
        """Let handlers finish their current items, and take no more before :meth:`resume`.

        Sources and callers of ``put`` go on until the first queue is full. A drain ends the pause.
        """
        self._run.first.check_caller()
        self._run.scaling.pause()

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        self._run.first.check_caller()
        self._run.scaling.resume()

    async def drain(self, timeout: float | None = None) -> Report:
        """Stop the intake and finish what is queued; at the deadline, cancel what is left and list it in the report.

        ``timeout`` is in seconds, by default the pipeline's ``drain_timeout``. Returns within that plus 100 ms;
        cancelling tens of thousands of workers, or listing millions of items by key or priority, takes longer. Raises
        ``PipelineError`` if the run failed, but not for items left at the deadline: see ``report.complete``.
        Inside one of the run's own handlers, which cannot wait for itself, it starts the drain and returns the report
        so far. *Cancel safety*: the drain goes on.
        """
        self.stop(timeout)
        if self._run.runs_here():
            return self._run.report_so_far()
        return await self.wait()

    def stop(self, timeout: float | None = None) -> None:
        """Begin to drain, without waiting; may be called anywhere in the loop, any number of times.

        Raises ``StateError`` in another thread: there, ``loop.call_soon_threadsafe(running.stop)``.
        """
        check_seconds(f"pipeline {self._run.plan.name!r}", "timeout", timeout)
        self._run.stop(timeout)

    @asynccontextmanager
    async def on_signals(self, drain_timeout: float | None = None) -> AsyncIterator[None]:
        """Let signals stop the run: ``async with pipeline as running, running.on_signals(): await running.wait()``.

        The first SIGINT or SIGTERM drains within ``drain_timeout`` seconds (default: the pipeline's), the second
        cancels now, the third has its default action. ``report.signal`` is the first one. Leaving the block drains the
        run, as leaving the pipeline's block does, with signals still handled; then it restores the handlers that were
        there before. Several runs may do this at once: each gets every signal.

        SIGUSR1 logs how the run is doing and where each of its workers is, unless the program has a handler for it.

        A handler of the program's own, such as that of a web server, is called too. Once the run has ended, a signal
        that comes inside the block is handled as if the block were not there.

        Raises ``StateError`` outside the main thread, where Python handles no signals, and in one of the run's own
        handlers. *Cancel safety*: as that of the pipeline's block.
        """
        check_seconds(f"pipeline {self._run.plan.name!r}", "drain_timeout", drain_timeout)
        if not can_handle_signals():
            raise StateError(
                "on_signals() works only in the main thread, where Python handles signals: "
                "leave it out here, and let the main thread call loop.call_soon_threadsafe(running.stop)"
            )
        if self._run.runs_here():
            raise StateError("on_signals() in a handler would wait for itself: enter it where the pipeline is entered")
        signals = Signals(self._run, drain_timeout, passed_on=True)
        with signals.handled():
            error: BaseException | None = None
            try:
                yield
            except BaseException as raised:
                error = raised
                raise
            finally:
                signals.awaits_end = True
                end_block(self._run, error)
                await wait_hastening(self._run, error)

    async def wait(self) -> Report:
        """Wait until the sources have ended and everything is handled; raises ``PipelineError`` if the run failed.

        Items left at the deadline of a stop raise nothing: see ``report.complete``. Raises ``StateError`` in one of the
        run's own handlers, which would wait for itself. (A task that a handler waits for would do the same, but cannot
        be recognized.) *Cancel safety*: waiting changes nothing.
        """
        if self._run.runs_here():
            raise StateError("wait() in a handler would wait for itself: call stop() instead")
        await self._run.ended.wait()
        self._run.outcome.is_delivered = True
        return self._run.outcome.result()

    def statistics(self, *, percentiles: bool = True) -> Statistics:
        """The counts of the run at this moment, frozen.

        Without ``percentiles`` the latencies are those of the last call with them; that takes a tenth of the time.
        """
        return self._run.statistics(percentiles)

    def workers(self) -> tuple[WorkerState, ...]:
        """What each worker of the run does at this moment, stage by stage; they start when there is work for them."""
        return workers_of(self._run.stages, self._run.looks.seconds)

    def where(self, worker: str) -> str:
        """Where the worker of that name, as :meth:`workers` gives it, is in your code: ``app.py:12 in fetch``.

        Empty if that is unknown, as in another process, or if the worker has ended.
        """
        for stage in self._run.stages:
            for one in tuple(stage.staff.workers):
                if one.name == worker:
                    return self._run.looks.place(one)
        return ""

    def bottleneck(self) -> str:
        """Say in words what is wrong with the run, or else which stage limits it, and which stages wait for it.

        It judges what has happened since the last look at the run at least ten seconds before, if somebody has looked
        with :meth:`health` or this.
        """
        return verdict(self._run.looks.look()).text

    def health(self, stalled_after: float = 60.0) -> Health:
        """Say whether the run is well: live, ready, which stages are stalled, and why; may be called in any thread.

        It compares each stage with the last call, so it has to be called now and then, as a probe does. A stage is
        stalled if it has work and nothing was done, failed or dropped for ``stalled_after`` seconds, and no generator
        gave a value; not while it waits for a slower stage behind it, for its rate, a breaker or a back-off, for
        :meth:`resume`, or for more items of a batch. In the loop the answer itself shows that the loop is alive.
        Another thread asks the loop, and waits for half a second; a loop that has not answered for ``stalled_after``
        seconds makes the run not live.
        """
        check_seconds(f"pipeline {self._run.plan.name!r}", "stalled_after", stalled_after)
        return judge(self._run.state, self._run.outcome, self._run.looks.look(), stalled_after)

    @property
    def report(self) -> Report | None:
        """The report, once the run has ended."""
        return self._run.outcome.report

    def __repr__(self) -> str:
        return f"<Running {self._run.plan.name} {self._run.state.value}>"


def _not_handled(name: str) -> QueueShutDown:
    return QueueShutDown(f"pipeline {name!r} ended before it handled this item")


@contextmanager
def signals_handled(
    running: Running[Any, Any], drain_timeout: float | None, tell: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Let signals stop a run whose end is all that the program waits for; outside the main thread there are none.

    SIGUSR1 is answered by ``tell``, by default the log, line by line.
    """
    if not can_handle_signals():
        yield
        return
    signals = Signals(running._run, drain_timeout, passed_on=False, tell=tell)
    signals.awaits_end = True
    with signals.handled():
        yield


def failing(running: Running[Any, Any]) -> bool:
    """Whether the run has an error that it will end with, or has ended with."""
    return not running._run.outcome.is_clean()


def look_at(running: Running[Any, Any]) -> Look:
    """What there is to see of a run, in any thread."""
    return running._run.looks.look()


def listen_to(running: Running[Any, Any], listener: Listener) -> None:
    """Tell ``listener`` what happens in a run from now on."""
    running._run.events.add(listener)


def limit_calls(running: Running[Any, Any], stage: str, calls: float, seconds: float) -> None:
    """:meth:`Running.set_rate`, for whoever has numbers only."""
    running.set_rate(stage, Rate(calls, seconds))


def loop_of(running: Running[Any, Any]) -> asyncio.AbstractEventLoop | None:
    """The loop that the run belongs to; None before its start."""
    return running._run.first.loop


def tell_where(running: Running[Any, Any], tell: Callable[[str], None]) -> None:
    """Tell the verdict and where each worker is, line by line; for any thread but that of the loop."""
    for line in where_all_are(running._run):
        tell(line)


def plan_followed(running: Running[Any, Any]) -> Plan:
    """What the run carries out."""
    return running._run.plan


def opening(running: Running[Any, Any], place: int) -> bool:
    """Whether workers of the stage at ``place`` are still opening their resources."""
    return bool(running._run.stages[place].staff.opening)
