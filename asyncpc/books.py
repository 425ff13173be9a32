"""The books of one run: what came in, what became of it, and whether the two agree (invariant 4).

What went into a queue is counted by those who wrote it, what came of it by those who took it. Reading the books sums up
both; nothing is counted twice while items move.
"""

from __future__ import annotations

from typing import Any

from .errors import ConservationError
from .queue import BoundedQueue
from .report import SourceStatistics, StageStatistics, Statistics
from .stage import Stage, plain
from .worker import ProducerWorker

__all__ = ["Books"]


class Books:
    """Reads the counts of a run's stages and sources, and keeps those that come from outside."""

    __slots__ = ("_producers", "_results", "_stages", "fed", "results_read")

    def __init__(self, producers: list[ProducerWorker], stages: list[Stage], results: BoundedQueue[Any] | None) -> None:
        self._producers = producers
        self._stages = stages
        self._results = results
        self.fed: int = 0
        """Items that handlers put back into the first stage."""
        self.results_read: int = 0

    def statistics(self, state: str, elapsed: float, now: float) -> Statistics:
        """The counts at this moment; what one stage emitted is what the next received."""
        stages: list[StageStatistics] = []
        received = self._stages[0].inbox._accepted + self.fed + sum([producer.produced for producer in self._producers])
        for stage in self._stages:
            stages.append(_stage_statistics(stage, received, elapsed, now))
            received = stages[-1].emitted
        sources = tuple([SourceStatistics(one.name, one.produced, one.restarts) for one in self._producers])
        return Statistics(state, elapsed, sources, tuple(stages), self.fed)

    def left(self) -> tuple[tuple[str, tuple[Any, ...]], ...]:
        """What is in hands and queues, by stage; stages without any are left out."""
        left = [
            (stage.handler.name, tuple(map(plain, (*stage.in_flight, *stage.inbox._queue)))) for stage in self._stages
        ]
        return tuple([(name, items) for name, items in left if items])

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
        emitted = statistics.stages[-1].emitted
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
        retried=stage.retried,
        dropped=stage.dropped,
        in_flight=len(stage.in_flight),
        queued=len(inbox._queue),
        peak_queued=inbox._peak,
        emitted=stage.emitted if stage.counts_emitted else done,
        put_waited=inbox._put_waited(now),
        get_waited=inbox._getters.seconds(now),
        out_waited=stage.outbox._put_waited(now) if stage.outbox is not None else 0.0,
        latency_p50=p50,
        latency_p90=p90,
        latency_p99=p99,
        rate=done / elapsed if elapsed > 0 else 0.0,
    )
