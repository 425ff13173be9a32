"""The results of a run, as its user reads them one by one."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

from ..core.seams import Ticket
from ..core.tracked import Tracked
from ..errors import QueueShutDown, StateError
from .leaving import end_block, leave
from .report import Report
from .running import Running
from .supervisor import Supervisor

__all__ = ["Results"]

Out_co = TypeVar("Out_co", covariant=True)


class Results(Generic[Out_co]):
    """A run whose last stage's values are read; after the block nothing is left running."""

    __slots__ = ("_end", "_last", "_run", "_start")

    def __init__(self, start: Callable[[], Supervisor], end: Callable[[], None]) -> None:
        self._last: Ticket | None = None  # of the value that the reader has
        self._start = start
        self._end = end
        self._run: Supervisor | None = None

    async def __aenter__(self) -> Results[Out_co]:
        """Start the run; leaving the block cancels what still runs, and raises ``PipelineError`` if the run failed."""
        self._run = self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        run = self._entered()
        if self._last is not None:
            (self._last.settle if error is None else self._last.release)()
            self._last = None
        run.accounts.let_go_of_results()
        end_block(run, error)
        await leave(run, error, self._end, run.outcome.result)

    def __aiter__(self) -> Results[Out_co]:
        return self

    async def __anext__(self) -> Out_co:
        """Return the next value; the iteration ends with the run, and raises ``PipelineError`` if the run failed.

        A message of a remote queue is acknowledged when the reader asks for the value after the last one made of it.

        *Cancel safety*: all or nothing; no value is lost.
        """
        run = self._entered()
        assert run.results is not None
        if self._last is not None:  # the reader has done with it, as it asks for more
            self._last.settle()
            self._last = None
        try:
            value = await run.results.get()
        except QueueShutDown:
            pass  # and an error of the run comes out without this one as its context
        else:
            run.accounts.results_read += 1
            if type(value) is Tracked:
                self._last, value = value.ticket, value.item
            return cast(Out_co, value)
        await run.ended.wait()
        run.outcome.is_delivered = True
        run.outcome.complete_result()
        raise StopAsyncIteration

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
            raise StateError("read results inside 'async with pipeline.stream() as values:'")
        return self._run
