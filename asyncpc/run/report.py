"""What a run tells: statistics while it runs, which are frozen, and a report at its end; both plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

from .verdict import bottleneck

__all__ = ["PipelineError", "Report", "SourceStatistics", "StageStatistics", "Statistics", "Unfinished"]


class Unfinished(NamedTuple):
    """An accepted item that was not handled to its end, and the stage that had it."""

    item: Any
    """The item."""
    stage: str
    """The stage that had it, by name."""


class SourceStatistics(NamedTuple):
    """What one source has given; counts are items."""

    name: str
    """What the report calls it."""
    produced: int
    """Items it gave."""
    restarts: int
    """How often it was started again after it raised."""
    loop_held: float
    """Seconds in which it let nothing else run while it made an item, if that took half a millisecond or more."""


class StageStatistics(NamedTuple):
    """What one stage has done; counts are items, times are seconds."""

    name: str
    """What the report calls it."""
    concurrency: int
    """The most workers it may have at once; they start when there is work."""
    received: int
    """Items its queue accepted: ``done + failed + dropped + in_flight + queued``."""
    done: int
    """Items handled to their end."""
    failed: int
    """Items whose handler raised, at last."""
    last_failure: str
    """What the last item failed with that did not end the run, and where: one line; empty if none did."""
    retried: int
    """Calls of the handler after the first for an item."""
    dropped: int
    """Items given up by a named policy."""
    in_flight: int
    """Items that workers have now."""
    queued: int
    """Items waiting in its queue now."""
    peak_queued: int
    """The most that ever waited in its queue at once."""
    emitted: int
    """Values it passed on to the next stage, or would have; a broadcast counts one for each branch."""
    put_waited: float
    """Seconds that writers of its queue waited for room, summed over the writers."""
    get_waited: float
    """Seconds that its workers waited for items, summed over the workers, those not started included."""
    out_waited: float
    """Seconds that its workers waited for room in the queues they give to, summed over the workers."""
    held_back: tuple[tuple[str, float], ...]
    """What kept calls from beginning, in words (a rate, a breaker, a back-off), and for how many seconds, summed."""
    loop_held: float
    """Seconds in which calls of half a millisecond or more let nothing else run, from their beginning to their end."""
    latency_p50: float
    """Half of the handler calls sampled took no longer (seconds; within 1 %); 0 before the first."""
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
    """In the order they were written."""
    stages: tuple[StageStatistics, ...]
    """Each before those it gives to."""
    put: int
    """Items that came from outside, by ``put`` and its kind."""
    fed: int
    """Items that handlers put back into the first stage with ``feed``."""
    ends: tuple[str, ...]
    """The stages whose values are the results, by name: one, or one per branch."""

    def __str__(self) -> str:
        """A table that people can read."""
        head = ("stage", "received", "done", "failed", "dropped", "in flight", "queued", "rate")
        rows = [
            (s.name, s.received, s.done, s.failed, s.dropped, s.in_flight, s.queued, f"{s.rate:,.0f}")
            for s in self.stages
        ]
        fed = f", {self.fed} fed" if self.fed else ""
        return (
            f"{_table(head, self.sources, rows)}\n{self.state}: {self.produced} produced{fed} in {self.elapsed:.3f} s"
        )

    def as_dict(self) -> dict[str, Any]:
        """All of it as dictionaries and lists, ready for JSON."""
        inner = {
            "sources": [each._asdict() for each in self.sources],
            "stages": [each._asdict() for each in self.stages],
        }
        return self._asdict() | inner

    @property
    def produced(self) -> int:
        """Items that came in from outside: from sources and ``put``."""
        return self.put + sum(source.produced for source in self.sources)

    @property
    def done(self) -> int:
        """Items that the last stage, or the last of each branch, handled to their end."""
        return sum(stage.done for stage in self.stages if stage.name in self.ends)

    @property
    def failed(self) -> int:
        """Items whose handler raised, in any stage."""
        return sum(stage.failed for stage in self.stages)

    @property
    def dropped(self) -> int:
        """Items given up by a named policy, in any stage."""
        return sum(stage.dropped for stage in self.stages)

    def bottleneck(self) -> str:
        """Which stage limits the run, and who waits for it, in words."""
        return bottleneck(self)


class Report:
    """The end of a run: the books, which balance, and what was left.

    In each stage ``received == done + failed + dropped + unfinished``; what is given to a stage is what it received.
    """

    def __init__(
        self,
        statistics: Statistics,
        left: tuple[tuple[str, tuple[Any, ...]], ...] = (),
        abandoned: tuple[str, ...] = (),
        signal: int | None = None,
    ) -> None:
        self.statistics: Statistics = statistics
        """The last statistics; the properties below read them."""
        self.left: tuple[tuple[str, tuple[Any, ...]], ...] = left
        """The accepted items that were not handled to their end, by stage; stages that left none are left out."""
        self.abandoned: tuple[str, ...] = abandoned
        """Workers that ignored two cancellations, or have a call in a thread that goes on, by name."""
        self.signal: int | None = signal
        """The signal that ended the run under :func:`asyncpc.run`, if one did."""

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
        """How many items each stage left unfinished; empty if none did."""
        return {stage: len(items) for stage, items in self.left}

    @property
    def produced(self) -> int:
        """Items that came in from outside: from sources and ``put``."""
        return self.statistics.produced

    @property
    def fed(self) -> int:
        """Items that handlers put back into the first stage with ``feed``."""
        return self.statistics.fed

    @property
    def done(self) -> int:
        """Items that the last stage, or the last of each branch, handled to their end."""
        return self.statistics.done

    @property
    def failed(self) -> int:
        """Items whose handler raised, in any stage."""
        return self.statistics.failed

    @property
    def dropped(self) -> int:
        """Items given up by a named policy, in any stage."""
        return self.statistics.dropped

    @property
    def elapsed(self) -> float:
        """Seconds from the start of the run to its end."""
        return self.statistics.elapsed

    @property
    def stages(self) -> tuple[StageStatistics, ...]:
        """A line per stage."""
        return self.statistics.stages

    @property
    def sources(self) -> tuple[SourceStatistics, ...]:
        """A line per source."""
        return self.statistics.sources

    @property
    def complete(self) -> bool:
        """Whether every accepted item was handled or counted as failed or dropped, and no worker was left behind."""
        return not self.left and not self.abandoned

    @property
    def exit_status(self) -> int:
        """For ``sys.exit``: 0 all done; 1 the run or an item failed, or items were left; 128 + a signal (130, 143).

        After a signal and a full drain it is that of the signal, also when items failed whose policy said to go on.
        """
        if self.statistics.state == "failed" or not self.complete:
            return 1
        return 128 + self.signal if self.signal else min(self.failed, 1)

    def __str__(self) -> str:
        """A table that people can read."""
        left = self.left_by_stage()
        head = ("stage", "received", "done", "failed", "dropped", "unfinished", "peak queued", "rate")
        rows = [
            (s.name, s.received, s.done, s.failed, s.dropped, left.get(s.name, 0), s.peak_queued, f"{s.rate:,.0f}")
            for s in self.stages
        ]
        lines = [_table(head, self.sources, rows)]
        lines += [f"{s.name}: {s.failed} failed, the last with {s.last_failure}" for s in self.stages if s.last_failure]
        lines += [f"abandoned: {name} could not be stopped" for name in self.abandoned]
        fed = f", {self.fed} fed" if self.fed else ""
        lines.append(f"{self.produced} produced{fed}, {self.done} done in {self.elapsed:.3f} s")
        return "\n".join(lines)


class PipelineError(ExceptionGroup[Exception]):
    """A run failed: a group of the original exceptions, so that ``except*`` works.

    ``report`` is the :class:`~asyncpc.Report` of the run, with what was not handled.
    """

    report: Report

    def __new__(cls, message: str, exceptions: Sequence[Exception], report: Report) -> PipelineError:
        """Make the group; ``report`` belongs to the failed run."""
        self = super().__new__(cls, message, exceptions)
        self.report = report
        return self

    def __init__(self, message: str, exceptions: Sequence[Exception], report: Report) -> None:
        super().__init__(message, exceptions)

    def __reduce__(self) -> tuple[type[PipelineError], tuple[str, Sequence[Exception], Report]]:
        """Pickle with the report, so that a run in another process can fail in full."""
        return type(self), (self.message, self.exceptions, self.report)

    # typeshed lets derive() take BaseExceptions too, so narrowing it is an unsound override in general. Not here:
    # split() and except* call it only with a part of what this group holds, and an ExceptionGroup holds Exceptions.
    def derive(self, excs: Sequence[Exception], /) -> PipelineError:  # type: ignore[override]
        """Keep the class and the report when ``except*`` splits the group."""
        return PipelineError(self.message, excs, self.report)


def _table(head: tuple[str, ...], sources: Sequence[SourceStatistics], stages: list[tuple[Any, ...]]) -> str:
    """A line for each source and stage; what a source has produced stands under ``done``."""
    given = [(source.name, "", source.produced, *[""] * (len(head) - 3)) for source in sources]
    rows = [head, *[tuple(map(str, row)) for row in (*given, *stages)]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    padded = [[cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return "\n".join("  ".join([row[0].strip().ljust(widths[0]), *row[1:]]).rstrip() for row in padded)
