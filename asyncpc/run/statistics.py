"""``Statistics``: what a run has done so far, for each source and stage; frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..core.seams import Depth, RemoteCounts
from .table import Table, table_of
from .verdict import bottleneck

__all__ = [
    "SourceStatistics",
    "StageStatistics",
    "Statistics",
    "known",
    "read_stage",
    "read_statistics",
    "remote_lines",
    "shown_counts",
    "stage_as_dict",
]


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
    maxsize: int = 0
    """Items that its queue holds at most; 0 if it has no bound."""
    is_fifo: bool = True
    """Whether items leave its queue in the order in which they came in: no ``key=``, no ``priority=``."""
    writes_to: tuple[str, ...] = ()
    """The stages that get its values, and then the one that gets its failures, if there is one."""
    is_connected: bool = True
    """Whether one of its workers has opened its ``context=``, if it has one; a remote queue has a connection.

    It may have lost that since.
    """
    remote: RemoteCounts | None = None
    """Of a remote queue that it puts items into, what that holds; what is counted of messages is 0. Else None."""


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
        return self._table().text()

    def _repr_html_(self) -> str:
        return self._table().html()

    def _table(self) -> Table:
        rows = [
            {
                "stage": s.name,
                **shown_counts(s),
                "in flight": s.in_flight,
                "queued": s.queued,
                "held back": s.held_back,
                "rate": f"{s.rate:,.0f}",
            }
            for s in self.stages
        ]
        fed = f", {self.fed} fed" if self.fed else ""
        line = f"{self.state}: {self.produced} produced{fed} in {self.elapsed:.3f} s"
        depths = _depth_lines((*self.sources, *self.stages))
        return table_of(self.sources, rows, [*remote_lines(self.sources), *depths, line])

    def as_dict(self) -> dict[str, Any]:
        """Return everything as dictionaries and lists, ready for JSON."""
        inner = {
            "sources": [each._asdict() | {"remote": _remote_as_dict(each.remote)} for each in self.sources],
            "stages": [stage_as_dict(each) for each in self.stages],
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

    @property
    def is_connected(self) -> bool:
        """Whether the run was connected to each of its remote queues, and each stage has opened its ``context=``.

        It may have lost a connection since.
        """
        reads_all = all(source.remote is None or source.remote.connections > 0 for source in self.sources)
        return reads_all and all(stage.is_connected for stage in self.stages)

    def since(self, earlier: Statistics) -> Statistics:
        """What the run has done after ``earlier``, statistics of the same run: counts, seconds and rates in between.

        What is said of a moment stays as it is now: the state, what is queued and in flight, latencies and peaks.
        """
        elapsed = self.elapsed - earlier.elapsed
        return self._replace(
            elapsed=elapsed,
            sources=tuple([_source_since(*both) for both in zip(self.sources, earlier.sources, strict=True)]),
            stages=tuple([_stage_since(*both, elapsed) for both in zip(self.stages, earlier.stages, strict=True)]),
            put=self.put - earlier.put,
            fed=self.fed - earlier.fed,
        )

    def bottleneck(self) -> str:
        """Say in words which stage limits the run, and which stages wait for it."""
        return bottleneck(self)


def _stage_since(now: StageStatistics, earlier: StageStatistics, elapsed: float) -> StageStatistics:
    before = dict(earlier.held_back)
    done = now.done - earlier.done
    return now._replace(
        received=now.received - earlier.received,
        done=done,
        failed=now.failed - earlier.failed,
        retried=now.retried - earlier.retried,
        dropped=now.dropped - earlier.dropped,
        emitted=now.emitted - earlier.emitted,
        put_waited=now.put_waited - earlier.put_waited,
        get_waited=now.get_waited - earlier.get_waited,
        out_waited=now.out_waited - earlier.out_waited,
        held_back=tuple([(words, seconds - before.get(words, 0.0)) for words, seconds in now.held_back]),
        loop_held=now.loop_held - earlier.loop_held,
        rate=done / elapsed if elapsed > 0 else 0.0,
    )


def _source_since(now: SourceStatistics, earlier: SourceStatistics) -> SourceStatistics:
    return now._replace(
        produced=now.produced - earlier.produced,
        restarts=now.restarts - earlier.restarts,
        loop_held=now.loop_held - earlier.loop_held,
    )


def shown_counts(stage: StageStatistics) -> dict[str, int]:
    """The columns of what became of its items."""
    return {
        "received": stage.received,
        "done": stage.done,
        "failed": stage.failed,
        "dropped": stage.dropped,
        "retried": stage.retried,
    }


def remote_lines(sources: Sequence[SourceStatistics]) -> list[str]:
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


def _depth_lines(parts: Sequence[SourceStatistics | StageStatistics]) -> list[str]:
    """A line for each remote queue that was looked at."""
    lines = []
    for part in parts:
        if part.remote is not None and part.remote.depth is not None:
            *counts, oldest = zip(part.remote.depth._fields, part.remote.depth, strict=True)
            waits = "" if oldest[1] is None else f", the oldest waits for {oldest[1]:.1f} s"
            lines.append(f"{part.name} holds {', '.join([f'{count} {what}' for what, count in counts])}{waits}")
    return lines


def stage_as_dict(stage: StageStatistics) -> dict[str, Any]:
    """Everything as dictionaries and lists, ready for JSON."""
    return stage._asdict() | {"remote": _remote_as_dict(stage.remote)}


def _remote_as_dict(counts: RemoteCounts | None) -> dict[str, Any] | None:
    if counts is None:
        return None
    return counts._asdict() | {"depth": None if counts.depth is None else counts.depth._asdict()}


def read_statistics(told: Mapping[str, Any]) -> Statistics:
    """The opposite of ``statistics.as_dict()`` and JSON; fields that are not known here are left out."""
    sources = [SourceStatistics(**known(SourceStatistics, one)) for one in told["sources"]]
    sources = [one._replace(remote=_read_remote(one.remote)) for one in sources]
    stages = [read_stage(one) for one in told["stages"]]
    whole = known(Statistics, told) | {"sources": tuple(sources), "stages": tuple(stages), "ends": tuple(told["ends"])}
    return Statistics(**whole)


def read_stage(told: Mapping[str, Any]) -> StageStatistics:
    """The same of one stage."""
    stage = StageStatistics(**known(StageStatistics, told))
    held_back = tuple([(words, seconds) for words, seconds in stage.held_back])
    return stage._replace(held_back=held_back, writes_to=tuple(stage.writes_to), remote=_read_remote(stage.remote))


def _read_remote(told: Any) -> RemoteCounts | None:
    if told is None:
        return None
    counts = RemoteCounts(**known(RemoteCounts, told))
    return counts if counts.depth is None else counts._replace(depth=Depth(**known(Depth, told["depth"])))


def known(kind: type[NamedTuple], told: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a named tuple among what was told by a program that may know others."""
    return {name: value for name, value in told.items() if name in kind._fields}
