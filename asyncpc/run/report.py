"""``Report``: what a run shows at its end; and the error that carries it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

from ..failure import Failure, KeptFailure
from .statistics import SourceStatistics, StageStatistics, Statistics, remote_lines, shown_counts
from .table import Table, table_of
from .verdict import loop_holders

__all__ = ["PipelineError", "Report", "Unfinished"]


class Unfinished(NamedTuple):
    """An accepted item that was not handled to its end, and its stage."""

    item: Any
    """The item."""
    stage: str
    """The name of the stage that had it."""


class Report:
    """The end of a run: its final counts, which balance, and the items that were left.

    In each stage ``received == done + failed + dropped + unfinished``, and a stage receives what others emit to it.
    """

    def __init__(
        self,
        statistics: Statistics,
        left: tuple[tuple[str, tuple[Any, ...]], ...] = (),
        abandoned: tuple[str, ...] = (),
        signal: int | None = None,
        failures: Sequence[KeptFailure] = (),
    ) -> None:
        self.statistics: Statistics = statistics
        """The final statistics; the properties below read them."""
        self.left: tuple[tuple[str, tuple[Any, ...]], ...] = left
        """The accepted items that were not handled to their end, for each stage that left any."""
        self.abandoned: tuple[str, ...] = abandoned
        """The names of workers that ignored two cancellations, or left a call running in a thread; and of remote queues
        that had no time left to settle their messages, which come again."""
        self.signal: int | None = signal
        """The first signal that asked the run to stop: under :func:`asyncpc.run`, or with ``running.on_signals()``."""

        self._kept: Sequence[KeptFailure] = failures

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the failures as texts."""
        return {**vars(self), "failures": self.failures, "_kept": ()}

    @cached_property
    def failures(self) -> tuple[Failure, ...]:
        """The last 100 items that failed, wherever they went, in the order in which they failed."""
        return tuple([kept.failure() for kept in self._kept])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Report) and self._all() == other._all()

    def __hash__(self) -> int:
        return hash(self.statistics)

    def __repr__(self) -> str:
        left = f", left={self.left_by_stage()}" if self.left else ""
        return f"<Report {self.statistics.state}, {self.produced} produced, {self.done} done{left}>"

    def _all(self) -> tuple[Any, ...]:
        return self.statistics, self.left, self.abandoned, self.signal

    @cached_property
    def unfinished(self) -> tuple[Unfinished, ...]:
        """Every accepted item that was not handled to its end, with its stage."""
        return tuple(Unfinished(item, stage) for stage, items in self.left for item in items)

    def left_by_stage(self) -> dict[str, int]:
        """Return how many items each stage left unfinished, for each stage that left any."""
        return {stage: len(items) for stage, items in self.left}

    @property
    def produced(self) -> int:
        """Items that came in from sources and through ``put``."""
        return self.statistics.produced

    @property
    def fed(self) -> int:
        """Items that handlers put back into the first stage with ``feed``."""
        return self.statistics.fed

    @property
    def done(self) -> int:
        """Items that the last stage, or the last stage of each branch, handled to their end."""
        return self.statistics.done

    @property
    def failed(self) -> int:
        """Items that failed for good, in any stage."""
        return self.statistics.failed

    @property
    def dropped(self) -> int:
        """Items dropped by a named policy, in any stage."""
        return self.statistics.dropped

    @property
    def dead_letters(self) -> int:
        """Messages of remote queues that went to the dead letters; those that failed in a stage are ``failed`` too."""
        return self.statistics.dead_letters

    @property
    def elapsed(self) -> float:
        """Seconds from the start of the run to its end."""
        return self.statistics.elapsed

    @property
    def stages(self) -> tuple[StageStatistics, ...]:
        """The statistics of each stage."""
        return self.statistics.stages

    @property
    def sources(self) -> tuple[SourceStatistics, ...]:
        """The statistics of each source."""
        return self.statistics.sources

    @property
    def complete(self) -> bool:
        """Whether every accepted item was handled or counted as failed or dropped, and no worker was left behind."""
        return not self.left and not self.abandoned

    @property
    def exit_status(self) -> int:
        """For ``sys.exit``: 0 all done; 1 the run or an item failed, or items were left; 128 + a signal (130, 143).

        After a signal and a full drain it is that of the signal, even if items failed under a policy that goes on. A
        message that became a dead letter has failed, also where no stage saw it.
        """
        if self.statistics.state == "failed" or not self.complete:
            return 1
        return 128 + self.signal if self.signal else min(self.failed + self.dead_letters, 1)

    def __str__(self) -> str:
        """Format the counts as a table."""
        return self._table().text()

    def _repr_html_(self) -> str:
        return self._table().html()

    def _table(self) -> Table:
        left = self.left_by_stage()
        rows = [
            {
                "stage": s.name,
                **shown_counts(s),
                "unfinished": left.get(s.name, 0),
                "peak queued": s.peak_queued,
                "held back": s.held_back,
                "rate": f"{s.rate:,.0f}",
            }
            for s in self.stages
        ]
        lines = [f"{s.name}: {s.failed} failed, the last on {s.last_failure}" for s in self.stages if s.last_failure]
        lines += remote_lines(self.sources)
        unread = [s for s in self.stages if s.unread]
        lines += [f"{s.name}: {_results(s.emitted)}, not read: use .collect() or .stream()" for s in unread]
        lines += loop_holders(self.statistics)
        lines += [f"abandoned: {name} could not be stopped" for name in self.abandoned]
        fed = f", {self.fed} fed" if self.fed else ""
        lines.append(f"{self.produced} produced{fed}, {self.done} done in {self.elapsed:.3f} s")
        return table_of(self.sources, rows, lines)


def _results(count: int) -> str:
    return "1 result" if count == 1 else f"{count:,} results"


class PipelineError(ExceptionGroup[Exception]):
    """A run failed: a group of the original exceptions, so that ``except*`` works.

    ``report`` is the :class:`~asyncpc.Report` of the run, with what was not handled. ``results`` are those that
    ``collect()`` had before the failure; for other ways to run, an empty list.
    """

    report: Report
    results: list[Any]

    def __new__(cls, message: str, exceptions: Sequence[Exception], report: Report) -> PipelineError:
        """Make the group; ``report`` belongs to the failed run."""
        self = super().__new__(cls, message, exceptions)
        self.report = report
        self.results = []
        return self

    def __init__(self, message: str, exceptions: Sequence[Exception], report: Report) -> None:
        super().__init__(message, exceptions)

    def __reduce__(self) -> tuple[type[PipelineError], tuple[str, Sequence[Exception], Report], dict[str, Any]]:
        """Pickle with the report, the results and the notes, so that a run in another process can fail in full."""
        return type(self), (self.message, self.exceptions, self.report), vars(self)

    # typeshed lets derive() take BaseExceptions too, so narrowing it is an unsound override in general. Not here:
    # split() and except* call it only with a part of what this group holds, and an ExceptionGroup holds Exceptions.
    def derive(self, excs: Sequence[Exception], /) -> PipelineError:  # type: ignore[override]  # sound, as said above
        """Keep the class, the report and the results when ``except*`` splits the group."""
        part = PipelineError(self.message, excs, self.report)
        part.results = self.results
        return part
