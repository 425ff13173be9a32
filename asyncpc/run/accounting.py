"""The books of one run: what came in, what became of it, and whether the two agree (invariant 4).

What went into a queue is counted by those who wrote it, what came of it by those who took it. Reading the books sums up
both; nothing is counted twice while items move.
"""

from __future__ import annotations

from typing import Any

from ..errors import ConservationError
from ..core.channel import Channel
from .report import SourceStatistics, StageStatistics, Statistics
from ..core.stage import Stage, plain
from ..core.worker import ProducerWorker

__all__ = ["Books"]


class Books:
    """Reads the counts of a run's stages and sources, and keeps those that come from outside."""

    __slots__ = ("_ends", "_producers", "_results", "_stages", "asked", "fed", "results_read")

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
        self.fed: int = 0
        """Items that handlers put back into the first stage."""
        self.results_read: int = 0
        self.asked: bool = False
        """Whether items may have come by ``call``."""

    def statistics(self, state: str, elapsed: float, now: float) -> Statistics:
        """The counts at this moment; what came into a stage is counted by those who gave it."""
        stages = tuple([_stage_statistics(stage, self._received(stage), elapsed, now) for stage in self._stages])
        sources = tuple([SourceStatistics(one.name, one.produced, one.restarts) for one in self._producers])
        ends = tuple([self._stages[place].handler.name for place in self._ends])
        return Statistics(state, elapsed, sources, stages, self._stages[0].inbox.accepted, self.fed, ends)

    def _received(self, stage: Stage) -> int:
        """What came into a stage, as those counted it who gave it."""
        received = stage.inbox.accepted + self.fed if stage is self._stages[0] else 0
        for before in stage.before:
            received += before.given_to(stage.inbox)
        for producer in self._producers:
            if producer.outbox is stage.inbox:
                received += producer.produced
        return received

    def left(self) -> tuple[tuple[str, tuple[Any, ...]], ...]:
        """What is in hands and queues, by stage; stages without any are left out."""
        left = [(stage, (*stage.in_flight, *stage.inbox.items)) for stage in self._stages]
        return tuple(
            [(stage.handler.name, tuple(map(plain, items)) if self.asked else items) for stage, items in left if items]
        )

    def breach(self, statistics: Statistics) -> ConservationError | None:
        """The conservation law: what was counted going in came out, is in hand, or lies in the queue."""
        for one in statistics.stages:
            kept = one.done + one.failed + one.dropped + one.in_flight + one.queued
            if one.received != kept:
                return ConservationError(
                    f"stage {one.name!r}: {one.received} received, {kept} accounted for "
                    f"({one.done} done, {one.failed} failed, {one.dropped} dropped, {one.in_flight} in hand, "
                    f"{one.queued} queued); this is a bug in asyncpc, please report it"
                )
        emitted = sum([statistics.stages[place].emitted for place in self._ends])
        if self._results is not None and emitted != self.results_read + len(self._results._queue):
            return ConservationError(
                f"{emitted} results were given, {self.results_read} read and {len(self._results._queue)} queued; "
                "this is a bug in asyncpc, please report it"
            )
        return None


def _stage_statistics(stage: Stage, received: int, elapsed: float, now: float) -> StageStatistics:
    inbox, handler = stage.inbox, stage.handler
    done = stage.settled - stage.failed
    p50, p90, p99 = stage.latency.percentiles(0.50, 0.90, 0.99)
    return StageStatistics(
        name=handler.name,
        concurrency=stage.concurrency,
        received=received,
        done=done,
        failed=stage.failed,
        last_failure=stage.last_failure,
        retried=stage.retried,
        dropped=stage.dropped,
        in_flight=len(stage.in_flight),
        queued=len(inbox.items),
        peak_queued=inbox.peak,
        emitted=stage.emitted if stage.counts_emitted else done,
        put_waited=inbox.put_waited(now),
        get_waited=inbox.getters.seconds(now) / handler.depth,
        out_waited=stage.out_waited(now) / handler.depth,
        loop_held=stage.loop_held,
        latency_p50=p50,
        latency_p90=p90,
        latency_p99=p99,
        rate=done / elapsed if elapsed > 0 else 0.0,
    )
