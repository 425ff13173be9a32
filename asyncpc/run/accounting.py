"""The accounts of one run: what came in, what became of it, and whether the two balance (invariant 4).

The writers of a channel count what went in, the workers that take from it count what became of it. The accounts sum up
both when somebody reads them.
"""

from __future__ import annotations

import math
from typing import Any

from ..core.channel import Channel
from ..core.source import ProducerWorker
from ..core.stage import Stage
from ..core.tracked import plain, release_all
from ..errors import ConservationError
from ..failure import KeptFailure
from .report import Report
from .statistics import SourceStatistics, StageStatistics, Statistics

__all__ = ["Accounts"]


class Accounts:
    """Reads the counts of a run's stages and sources, and keeps those of ``feed`` and of the reader of results."""

    __slots__ = ("_ends", "_producers", "_results", "_stages", "_writes_to", "fed", "results_read", "tracked")

    def __init__(
        self,
        producers: list[ProducerWorker],
        stages: list[Stage],
        ends: tuple[int, ...],
        results: Channel[Any] | None,
    ) -> None:
        self._producers = producers
        self._stages = stages
        self._ends = ends
        self._results = results
        self._writes_to = [tuple([one.handler.name for one in stages if stage in one.before]) for stage in stages]
        self.fed: int = 0
        """Items that handlers put back into the first stage."""
        self.results_read: int = 0
        self.tracked: bool = False
        """Whether items may have come with tickets."""

    def statistics(self, state: str, elapsed: float, now: float, stop_asked: bool, percentiles: bool) -> Statistics:
        """The counts at this moment; without ``percentiles`` the latencies are those computed last."""
        stages = []
        for place, (stage, writes_to) in enumerate(zip(self._stages, self._writes_to, strict=True)):
            if percentiles:
                stage.timing.latency.compute()
            is_last = place in self._ends
            stages.append(_stage_statistics(stage, self._received(stage), is_last, elapsed, now, writes_to))
        ends = tuple([self._stages[place].handler.name for place in self._ends])
        return Statistics(
            state, elapsed, self._sources(), tuple(stages), self._stages[0].inbox.accepted, self.fed, ends, stop_asked
        )

    def _sources(self) -> tuple[SourceStatistics, ...]:
        return tuple([_source_statistics(one) for one in self._producers])

    def _received(self, stage: Stage) -> int:
        """How many items came into a stage, as its writers counted them."""
        received = stage.inbox.accepted + self.fed if stage is self._stages[0] else 0
        for before in stage.before:
            received += before.emitted_to(stage.inbox)
        for producer in self._producers:
            if producer.outbox is stage.inbox:
                received += producer.produced
        return received

    @property
    def failures(self) -> tuple[KeptFailure, ...]:
        """The last items that failed, in any stage."""
        return tuple(self._stages[0].run.failures)

    def left(self) -> tuple[tuple[str, tuple[Any, ...]], ...]:
        """The items in flight and queued, for each stage that has any."""
        left = [(stage.handler.name, items) for stage in self._stages if (items := _items_of(stage))]
        return tuple([(name, tuple(map(plain, items))) for name, items in left] if self.tracked else left)

    def conclude(self, report: Report, state: str) -> None:
        """Tell in the report how the run has ended, and what has become of the sources' items since it was written."""
        report.statistics = report.statistics._replace(state=state, sources=self._sources())

    def let_go(self) -> None:
        """Let go of the items that are left; whoever waits for one of them gets to know that it was not handled."""
        for stage in self._stages:
            if self.tracked:
                release_all(_items_of(stage))
            stage.inbox.items.clear()

    def let_go_of_results(self) -> None:
        """Release the values that nobody will read."""
        if self._results is not None and self.tracked:
            release_all(self._results.items)

    def breach(self, statistics: Statistics) -> ConservationError | None:
        """Check conservation: what went in has come out, is in flight, or is queued."""
        for one in statistics.stages:
            kept = one.done + one.failed + one.dropped + one.in_flight + one.queued
            if one.received != kept:
                return ConservationError(
                    f"stage {one.name!r}: {one.received} received, {kept} accounted for "
                    f"({one.done} done, {one.failed} failed, {one.dropped} dropped, {one.in_flight} in flight, "
                    f"{one.queued} queued); this is a bug in asyncpc, please report it"
                )
        if self._results is None:
            return None
        emitted = sum([statistics.stages[place].emitted for place in self._ends])
        if emitted != self.results_read + len(self._results.items):
            return ConservationError(
                f"{emitted} results were emitted, {self.results_read} read and {len(self._results.items)} queued; "
                "this is a bug in asyncpc, please report it"
            )
        return None


def _items_of(stage: Stage) -> tuple[Any, ...]:
    """The items that a stage has in flight and queued; some may be tracked."""
    return (*stage.in_flight, *stage.inbox.items)


def _source_statistics(producer: ProducerWorker) -> SourceStatistics:
    return SourceStatistics(
        name=producer.name,
        produced=producer.produced,
        restarts=producer.restarts,
        loop_held=producer.probe.held,
        remote=None if producer.attendant is None else producer.attendant.look(),
    )


def _stage_statistics(
    stage: Stage, received: int, is_last: bool, elapsed: float, now: float, writes_to: tuple[str, ...]
) -> StageStatistics:
    inbox, counts, timing, depth = stage.inbox, stage.counts, stage.timing, stage.handler.depth
    done = stage.done
    p50, p90, p99 = timing.latency.computed
    return StageStatistics(
        name=stage.handler.name,
        concurrency=stage.staff.concurrency,
        received=received,
        done=done,
        failed=counts.failed,
        last_failure=counts.last_failure,
        retried=counts.retried,
        dropped=counts.dropped,
        in_flight=len(stage.in_flight),
        queued=len(inbox.items),
        peak_queued=inbox.peak,
        emitted=done if stage.emits_one_each else stage.emitted,
        unread=is_last and counts.unread,
        put_waited=inbox.put_waited(now),
        get_waited=inbox.getters.seconds(now) / depth,
        out_waited=stage.out_waited(now) / depth,
        held_back=tuple([(str(why), waits.seconds(now) / depth) for why, waits in timing.held_back.items()]),
        loop_held=timing.loop.held,
        latency_p50=p50,
        latency_p90=p90,
        latency_p99=p99,
        rate=done / elapsed if elapsed > 0 else 0.0,
        maxsize=0 if inbox.limit == math.inf else int(inbox.limit),
        is_fifo=stage.handler.kept_by in ("", "batch"),
        writes_to=writes_to,
        is_connected=stage.handler.context is None or stage.staff.has_opened,
        remote=None if stage.staff.look is None else stage.staff.look(),
    )
