"""What a run shows: frozen statistics while it runs, and a report at its end, or the error that carries it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from html import escape
from typing import Any, Final, NamedTuple

from ..core.seams import RemoteCounts
from ..failure import Failure, KeptFailure
from .verdict import bottleneck, loop_holders

__all__ = ["PipelineError", "Report", "SourceStatistics", "StageStatistics", "Statistics", "Unfinished"]


class Unfinished(NamedTuple):
    """An accepted item that was not handled to its end, and its stage."""

    item: Any
    """The item."""
    stage: str
    """The name of the stage that had it."""


class SourceStatistics(NamedTuple):
    """What one source has produced; counts are items."""

    name: str
    """Its name in the report."""
    produced: int
    """Items it produced."""
    restarts: int
    """How many times it was started again after it raised."""
    loop_held: float
    """Seconds for which making items blocked the event loop; less than half a millisecond at a time does not count."""
    remote: RemoteCounts | None = None
    """Of a remote queue, what became of its messages; else None."""


class StageStatistics(NamedTuple):
    """What one stage has done; counts are items, times are seconds."""

    name: str
    """Its name in the report."""
    concurrency: int
    """The most items it handles at once; workers start when there is work."""
    received: int
    """Items its queue accepted: ``done + failed + dropped + in_flight + queued``."""
    done: int
    """Items handled to their end."""
    failed: int
    """Items that failed for good: the last attempt raised."""
    last_failure: str
    """The last item that a policy gave up, its error, and where that was raised, on one line; empty if none was."""
    retried: int
    """Calls of the handler after the first one for an item."""
    dropped: int
    """Items dropped by a named policy."""
    in_flight: int
    """Items that workers are handling now."""
    queued: int
    """Items waiting in its queue now."""
    peak_queued: int
    """The most that ever waited in its queue at once."""
    emitted: int
    """Values it passed on; those of a last stage count too, and a broadcast counts one for each branch."""
    unread: bool
    """Whether it is a last stage that gave results which nobody read, with ``collect()`` or ``stream()``."""
    put_waited: float
    """Seconds that writers of its queue waited for room, summed over the writers."""
    get_waited: float
    """Seconds that its workers waited for items, summed over the workers, including those not started yet."""
    out_waited: float
    """Seconds that its workers waited for room in the queues they write to, summed over the workers."""
    held_back: tuple[tuple[str, float], ...]
    """What delayed calls, in words (a rate, a breaker, a back-off), and for how many seconds, summed over the calls."""
    loop_held: float
    """Seconds for which its calls held up the event loop; calls of less than half a millisecond do not count."""
    latency_p50: float
    """Half of the sampled calls took no longer (seconds; within 1 %); 0 before the first call."""
    latency_p90: float
    """Nine of ten took no longer."""
    latency_p99: float
    """All but one in a hundred took no longer."""
    rate: float
    """Items done per second of the run so far."""


class Statistics(NamedTuple):
    """A run at one moment."""

    state: str
    """``new``, ``running``, ``draining``, ``closed`` or ``failed``."""
    elapsed: float
    """Seconds since the run began."""
    sources: tuple[SourceStatistics, ...]
    """In the order in which they were composed."""
    stages: tuple[StageStatistics, ...]
    """Each stage comes before those it writes to."""
    put: int
    """Items that came in through ``put`` and its variants."""
    fed: int
    """Items that handlers put back into the first stage with ``feed``."""
    ends: tuple[str, ...]
    """The names of the stages whose values are the results: one, or one per branch."""
    stop_asked: bool
    """Whether somebody asked the run to stop; a run also drains when its sources have ended."""

    def __str__(self) -> str:
        """Format the counts as a table."""
        return self._shown().text()

    def _repr_html_(self) -> str:
        return self._shown().html()

    def _shown(self) -> _Shown:
        rows = [
            {
                "stage": s.name,
                **_counts(s),
                "in flight": s.in_flight,
                "queued": s.queued,
                "held back": s.held_back,
                "rate": f"{s.rate:,.0f}",
            }
            for s in self.stages
        ]
        fed = f", {self.fed} fed" if self.fed else ""
        line = f"{self.state}: {self.produced} produced{fed} in {self.elapsed:.3f} s"
        return _Shown(_cells(self.sources, rows), [*_remote_lines(self.sources), *_depth_lines(self.sources), line])

    def as_dict(self) -> dict[str, Any]:
        """Return everything as dictionaries and lists, ready for JSON."""
        inner = {
            "sources": [each._asdict() | {"remote": _remote_as_dict(each.remote)} for each in self.sources],
            "stages": [each._asdict() for each in self.stages],
        }
        return self._asdict() | inner

    @property
    def produced(self) -> int:
        """Items that came in from sources and through ``put``."""
        return self.put + sum(source.produced for source in self.sources)

    @property
    def done(self) -> int:
        """Items that the last stage, or the last stage of each branch, handled to their end."""
        return sum(stage.done for stage in self.stages if stage.name in self.ends)

    @property
    def failed(self) -> int:
        """Items that failed for good, in any stage."""
        return sum(stage.failed for stage in self.stages)

    @property
    def dropped(self) -> int:
        """Items dropped by a named policy, in any stage."""
        return sum(stage.dropped for stage in self.stages)

    @property
    def dead_letters(self) -> int:
        """Messages of remote queues that went to the dead letters; those that failed in a stage are ``failed`` too."""
        return sum(source.remote.dead_letters for source in self.sources if source.remote is not None)

    def bottleneck(self) -> str:
        """Say in words which stage limits the run, and which stages wait for it."""
        return bottleneck(self)


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
        return self._shown().text()

    def _repr_html_(self) -> str:
        return self._shown().html()

    def _shown(self) -> _Shown:
        left = self.left_by_stage()
        rows = [
            {
                "stage": s.name,
                **_counts(s),
                "unfinished": left.get(s.name, 0),
                "peak queued": s.peak_queued,
                "held back": s.held_back,
                "rate": f"{s.rate:,.0f}",
            }
            for s in self.stages
        ]
        lines = [f"{s.name}: {s.failed} failed, the last on {s.last_failure}" for s in self.stages if s.last_failure]
        lines += _remote_lines(self.sources)
        lines += [f"{s.name}: its results were not read: use .collect() or .stream()" for s in self.stages if s.unread]
        lines += loop_holders(self.statistics)
        lines += [f"abandoned: {name} could not be stopped" for name in self.abandoned]
        fed = f", {self.fed} fed" if self.fed else ""
        lines.append(f"{self.produced} produced{fed}, {self.done} done in {self.elapsed:.3f} s")
        return _Shown(_cells(self.sources, rows), lines)


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


class _Shown(NamedTuple):
    """A table of counts, and the lines below it."""

    cells: list[tuple[str, ...]]
    """The head, then a row for each source and stage."""
    lines: list[str]

    def text(self) -> str:
        """For a terminal."""
        widths = [max(map(len, column)) for column in zip(*self.cells, strict=True)]
        head, *rows = self.cells
        ruled = [head, tuple("-" * width for width in widths), *rows]
        padded = [[cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in ruled]
        table = ["  ".join([row[0].strip().ljust(widths[0]), *row[1:]]).rstrip() for row in padded]
        return "\n".join([*table, *self.lines])

    def html(self) -> str:
        """For a notebook."""
        head, *rows = [[escape(cell) for cell in row] for row in self.cells]
        first = "".join([f"<th>{cell}</th>" for cell in head])
        rest = [f"<tr><th>{name}</th>{''.join([f'<td>{cell}</td>' for cell in row])}</tr>" for name, *row in rows]
        lines = "".join([f"<div>{escape(line)}</div>" for line in self.lines])
        return f"<table><thead><tr>{first}</tr></thead><tbody>{''.join(rest)}</tbody></table>{lines}"


def _remote_lines(sources: Sequence[SourceStatistics]) -> list[str]:
    """A line for each remote queue with which not all went as it mostly does."""
    lines = []
    for source in sources:
        if source.remote is not None:
            counts = source.remote
            unusual = [
                (counts.dead_letters, "to the dead letters"),
                (counts.released, "given back"),
                (counts.overtaken, "overtaken (the lease ran out, so it may be handled twice)"),
                (counts.reconnects, "reconnects"),
            ]
            said = [f"{count} {what}" for count, what in unusual if count]
            if said:
                lines.append(f"{source.name}: {', '.join([f'{counts.acknowledged} acknowledged', *said])}")
    return lines


def _depth_lines(sources: Sequence[SourceStatistics]) -> list[str]:
    """A line for each remote queue that was looked at."""
    lines = []
    for source in sources:
        if source.remote is not None and source.remote.depth is not None:
            *counts, oldest = zip(source.remote.depth._fields, source.remote.depth, strict=True)
            waits = "" if oldest[1] is None else f", the oldest waits for {oldest[1]:.1f} s"
            lines.append(f"{source.name} holds {', '.join([f'{count} {what}' for what, count in counts])}{waits}")
    return lines


def _remote_as_dict(counts: RemoteCounts | None) -> dict[str, Any] | None:
    if counts is None:
        return None
    return counts._asdict() | {"depth": None if counts.depth is None else counts.depth._asdict()}


OPTIONAL: Final = ("failed", "dropped", "retried", "unfinished", "held back")
"""Columns that are left out where all of their counts are 0."""


def _counts(stage: StageStatistics) -> dict[str, int]:
    return {
        "received": stage.received,
        "done": stage.done,
        "failed": stage.failed,
        "dropped": stage.dropped,
        "retried": stage.retried,
    }


def _cells(sources: Sequence[SourceStatistics], stages: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A head, and a row for each source and stage; what a source produced is shown under ``done``."""
    head = [name for name in stages[0] if name not in OPTIONAL or any(row[name] for row in stages)]
    first = [{"stage": source.name, "done": source.produced} for source in sources]
    return [tuple(head), *[tuple([_cell(row.get(name, "")) for name in head]) for row in (*first, *stages)]]


def _cell(value: Any) -> str:
    """A cell; of what held calls back, the seconds in all."""
    return f"{sum([seconds for _, seconds in value]):.1f} s" if isinstance(value, tuple) else str(value)
