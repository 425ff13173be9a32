"""A run under way, as its user sees it: put items, read results, look at it, stop it; and how its end is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from ..checks import at_least_1, check_seconds
from ..core.tracked import CallTicket, Tracked
from ..errors import QueueShutDown, StateError
from ..options.rate import Rate, set_rate
from .report import Report, Statistics
from .supervisor import Supervisor

if TYPE_CHECKING:
    from ..offload.bridge import Bridge

__all__ = ["Results", "Running", "leave", "opening"]

In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)


class Running(Generic[In_contra, Out_co]):
    """A run under way: put items, look at it, stop it."""

    __slots__ = ("_bridge", "_run")

    def __init__(self, run: Supervisor) -> None:
        self._run = run
        self._bridge: Bridge | None = None

    async def put(self, item: In_contra, timeout: float | None = None) -> None:
        """Hand ``item`` to the first stage, waiting for room, at most ``timeout`` seconds (then ``TimeoutError``).

        Raises ``QueueShutDown`` when the run drains or has ended. *Cancel safety*: all or nothing; a ``put`` that
        raised was not accepted. A handler that puts into its own pipeline may wait for itself: use :func:`feed` there.
        """
        first = self._run.first
        if not first.try_put(item):
            await first.put(item, timeout)

    def put_nowait(self, item: In_contra) -> None:
        """Hand ``item`` to the first stage at once; raises ``asyncio.QueueFull`` without room (answer 503)."""
        self._run.first.put_nowait(item)

    def put_from_thread(self, item: In_contra, timeout: float | None = None) -> None:
        """:meth:`put` from any thread but the loop's own: blocks while full, at most ``timeout`` seconds.

        Raises ``TimeoutError`` when the time is up, ``QueueShutDown`` when the run drains or has ended or its loop is
        closed, ``StateError`` in the loop's own thread. A call that raised was not accepted. It counts against the
        bound at once; many calls wake the loop once.
        """
        if self._bridge is None:
            from ..offload.bridge import bridge_to  # here, since most programs have no threads

            self._bridge = bridge_to(self._run.first)
        self._bridge.put(item, timeout)

    def call_from_thread(self, item: In_contra, timeout: float | None = None) -> Out_co:
        """:meth:`call` from any thread but the loop's own: blocks until there is a result; raises what it raises.

        ``timeout`` (seconds) is for the room, then ``TimeoutError``. Raises ``QueueShutDown`` when the run drains or
        has ended or its loop is closed, also while it waits, and ``StateError`` in the loop's own thread, or where
        :meth:`call` does. What was not accepted left nothing behind.
        """
        from concurrent.futures import Future

        from ..offload.bridge import bridge_to

        self._check_call()
        result: Future[Out_co] = Future()
        bridge = bridge_to(self._run.first)
        bridge.put(Tracked(item, self._ticket(cast(Any, result))), timeout)
        return cast(Out_co, bridge.result_of(result, "the result of this item is lost"))

    async def call(self, item: In_contra, timeout: float | None = None) -> Out_co:
        """Put ``item`` and return what the last stage gives for it; raises what its handler raised.

        ``timeout`` (seconds) is for the room, as with :meth:`put`. A handler that fails for a ``call`` fails for its
        caller alone, after its attempts; the run goes on, whatever ``on_error`` says. Raises ``QueueShutDown`` when the
        run ends before it comes to the item, ``StateError`` when a stage gives more than one value per item, or batches
        without a limit of time.

        *Cancel safety*: before the item was accepted, all or nothing; then it is handled, and its result dropped.
        """
        self._check_call()
        result: asyncio.Future[Out_co] = asyncio.get_running_loop().create_future()
        await self.put(cast(In_contra, Tracked(item, self._ticket(result))), timeout)
        return await result

    def _ticket(self, result: asyncio.Future[Out_co]) -> CallTicket:
        name = self._run.plan.name
        return CallTicket(result, lambda: QueueShutDown(f"pipeline {name!r} ended before it came to this item"))

    def _check_call(self) -> None:
        """Refuse a ``call`` that could not be answered; from the first on, items are looked at."""
        self._run.accounts.tracked = True
        for stage in self._run.stages[: self._run.plan.main]:
            if not stage.run.tracks:
                raise StateError("call() works on a pipeline that was entered: 'async with pipeline as running:'")
            if stage.handler.no_calls:
                raise StateError(f"call() cannot be answered: stage {stage.handler.name!r} {stage.handler.no_calls}")

    def scale(self, stage: str, concurrency: int) -> None:
        """Let the stage of that name handle so many items at once from now on, at least 1.

        New workers start as they are needed; those too many leave after the item they are at. Raises ``StateError``
        for a stage that is not there, ``DefinitionError`` for what is no such number.
        """
        self._run.first.check_caller()
        found = self._run.scaling.stage(stage)
        self._run.scaling.scale(found, at_least_1(f"stage {stage!r}", "concurrency", concurrency))

    def set_rate(self, stage: str, rate: Rate) -> None:
        """Let the calls of the stage of that name begin at this :class:`~asyncpc.Rate` from now on.

        Raises ``StateError`` for a stage that is not there, ``DefinitionError`` for what is no rate.
        """
        self._run.first.check_caller()
        set_rate(self._run.scaling.stage(stage), rate)

    def pause(self) -> None:
        """Let the handlers finish what they are at, and take no more items before :meth:`resume`.

        Sources and callers go on until the first queue is full. A drain resumes.
        """
        self._run.first.check_caller()
        self._run.scaling.pause()

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        self._run.first.check_caller()
        self._run.scaling.resume()

    async def drain(self, timeout: float | None = None) -> Report:
        """Stop the intake, finish what is queued; at the deadline cancel what is left, and list it in the report.

        ``timeout`` in seconds, by default the pipeline's ``drain_timeout``; returns within that plus 100 ms (to cancel
        tens of thousands of workers, or to list millions of items by key or priority, takes longer). Raises
        ``PipelineError`` if the run failed. Inside one of the run's own handlers, which cannot wait for itself, it
        starts the drain and returns the report so far. *Cancel safety*: the drain goes on.
        """
        self.stop(timeout)
        if self._run.runs_here():
            return self._run.report_so_far()
        return await self.wait()

    def stop(self, timeout: float | None = None) -> None:
        """Begin to drain, without waiting; callable from anywhere in the loop, any number of times.

        Raises ``StateError`` in another thread: there, ``loop.call_soon_threadsafe(running.stop)``.
        """
        check_seconds(f"pipeline {self._run.plan.name!r}", "timeout", timeout)
        self._run.stop(timeout)

    async def wait(self) -> Report:
        """Wait until the sources have ended and everything is handled; raises ``PipelineError`` if the run failed.

        Raises ``StateError`` in one of the run's own handlers, which would wait for itself (a task that the handler
        waits for would, too, and cannot be told apart). *Cancel safety*: waiting changes nothing.
        """
        if self._run.runs_here():
            raise StateError("wait() in a handler would wait for itself: call stop(), or feed() what is left to do")
        await self._run.wait()
        self._run.outcome.is_told = True
        return self._run.outcome.result()

    def statistics(self) -> Statistics:
        """The books of the run at this moment, frozen."""
        return self._run.statistics()

    def bottleneck(self) -> str:
        """Which stage limits the run and who waits for it, in words."""
        return self._run.statistics().bottleneck()

    @property
    def report(self) -> Report | None:
        """The report, once the run has ended."""
        return self._run.outcome.report

    def __repr__(self) -> str:
        return f"<Running {self._run.plan.name} {self._run.state.value}>"


class Results(Generic[Out_co]):
    """A run whose last stage's values are read; leaving the block leaves nothing running."""

    __slots__ = ("_end", "_run", "_start")

    def __init__(self, start: Callable[[], Supervisor], end: Callable[[], None]) -> None:
        self._start = start
        self._end = end
        self._run: Supervisor | None = None

    async def __aenter__(self) -> Results[Out_co]:
        """Start it here; leaving the block cancels what still runs, and raises ``PipelineError`` if the run failed."""
        self._run = self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        run = self._entered()
        run.abort()
        await leave(run, error, self._end, run.outcome.result)

    def __aiter__(self) -> Results[Out_co]:
        return self

    async def __anext__(self) -> Out_co:
        """The next value; the loop ends with the run, and raises ``PipelineError`` if that failed.

        *Cancel safety*: all or nothing, no value is lost.
        """
        run = self._entered()
        assert run.results is not None
        try:
            value = await run.results.get()
        except QueueShutDown:
            await run.wait()
            run.outcome.is_told = True
            run.outcome.complete_result()
            raise StopAsyncIteration from None
        run.accounts.results_read += 1
        return cast(Out_co, value)

    @property
    def running(self) -> Running[Any, Out_co]:
        """The handle of the run: statistics, drain, report."""
        return Running(self._entered())

    @property
    def report(self) -> Report | None:
        """The report, once the run has ended."""
        return self._entered().outcome.report

    def _entered(self) -> Supervisor:
        if self._run is None:
            raise StateError("results are read inside 'async with pipeline.stream() as values:'")
        return self._run


async def leave(
    run: Supervisor, error: BaseException | None, end: Callable[[], None], outcome: Callable[[], object]
) -> None:
    """Leave the block of a run, with what the block raised, and call ``end``; unless it was given, ``outcome`` is."""
    try:
        await run.wait_hastening(error)
    finally:
        end()
    if error is None and not run.outcome.is_told:
        outcome()
    elif isinstance(error, Exception) and not run.outcome.is_told:
        run.outcome.raise_with(error)


def opening(running: Running[Any, Any], place: int) -> bool:
    """Whether workers of the stage at ``place`` still open their resources."""
    return bool(running._run.stages[place].staff.opening)
