"""What a pipeline has done in all of its runs so far, for whoever asks now and then, in any thread.

Counts only rise, as monitoring systems expect: a run adds to what those before it have counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from ..core.plan import Plan
from ..core.seams import Depth, RemoteCounts
from ..run.health import Health
from ..run.looks import Look
from ..run.running import Running, look_at
from ..run.statistics import Statistics
from .watcher import View, Watcher

__all__ = ["PRESENT", "Figures", "Seen", "Totals", "counts_of", "depths_of"]

COUNTED: Final = ("received", "done", "failed", "dropped", "retried")
"""What is counted of each stage."""

REMOTE: Final = ("messages_received", "acknowledged", "released", "overtaken", "dead_letters", "reconnects")
"""What is counted of each remote queue."""

PRESENT: Final = ("queued", "in_flight", "workers", "maxsize", "stalled")
"""What is told of each stage as it is now."""

PUT: Final = "put()"
"""Stands for a source where items are put in from outside."""

Figures = Mapping[tuple[str, ...], float]
"""Figures, each by what it is and where: ``("received", "fetch")``, ``("held_back", "fetch", "its rate")``."""


class Seen(NamedTuple):
    """A pipeline at one moment."""

    running: bool
    """Whether a run is under way."""
    counts: Figures
    present: Figures


class _Run:
    """The run that is under way, and the highest counts seen of it."""

    def __init__(self, running: Running[Any, Any]) -> None:
        self.running = running
        self.watcher: Watcher | None = None
        self.counts: dict[tuple[str, ...], float] = {}

    def look(self) -> Look:
        """What there is to see of the run; its counts are noted."""
        look = look_at(self.running)
        if look.statistics is not None:
            for what, count in counts_of(look.statistics).items():
                self.counts[what] = max(count, self.counts.get(what, 0))  # sums of seconds are rounded either way
        return look


class Totals:
    """The counts of one pipeline; :meth:`beside` is entered for each of its runs."""

    def __init__(self, plan: Plan) -> None:
        self._stages = [node.handler.name for node in plan.nodes]
        self._bounds = [float(plan.bound(node.handler)) or math.inf for node in plan.nodes]
        sources = [origin.name for origin in plan.origins] or [PUT]
        whats = [("produced", name) for name in sources] + [(what, name) for name in self._stages for what in COUNTED]
        whats += [(what, one.name) for one in plan.origins if one.attended is not None for what in REMOTE]
        # The counts of all runs before, and the run that is under way; in one place, since other threads read them.
        self._now: tuple[Figures, _Run | None] = dict.fromkeys(whats, 0.0), None
        self._health = Health(live=True, ready=False, stalled=(), why="not started")
        self.ended: int = 0
        """How many runs have ended, for whoever keeps figures for a while."""

    @contextmanager
    def beside(self, running: Running[Any, Any]) -> Iterator[None]:
        """Count a run, and keep nothing of it afterwards but its counts and how it ended."""
        self._end(self._now[1])  # a run whose loop was closed under it did not end
        run = _Run(running)
        self._now = self._now[0], run
        try:
            yield
        finally:
            self._end(run)

    def _end(self, run: _Run | None) -> None:
        if run is not None and run is self._now[1]:
            run.look()
            self._health = run.running.health()
            self._now = _sum(self._now[0], run.counts), None
            self.ended += 1

    def health(self, stalled_after: float) -> Health:
        """The health of the run that is under way, or of the last one at its end."""
        run = self._now[1]
        return self._health if run is None else run.running.health(stalled_after)

    def see(self) -> Seen:
        """All figures, as they are now."""
        before, run = self._now
        if run is None:
            return Seen(False, before, self._present(None))
        look = run.look()
        is_under_way = look.statistics is not None and run.running.report is None
        return Seen(is_under_way, _sum(before, run.counts), self._present(look if is_under_way else None))

    def view(self) -> View | None:
        """The run that is under way as a screen shows it, watched from the first call on; None if there is none."""
        run = self._now[1]
        if run is None:
            return None
        if run.watcher is None:
            run.watcher = Watcher(run.running)
        return run.watcher.look()

    def _present(self, look: Look | None) -> Figures:
        present: dict[tuple[str, ...], float] = dict.fromkeys(
            [(what, name) for name in self._stages for what in PRESENT], 0.0
        )
        for name, bound in zip(self._stages, self._bounds, strict=True):
            present["maxsize", name] = bound
        if look is not None and look.statistics is not None:
            for stage in look.statistics.stages:
                present["queued", stage.name] = stage.queued
                present["in_flight", stage.name] = stage.in_flight
                present["workers", stage.name] = stage.concurrency
            for name, seconds in look.unsettled:
                present["stalled", name] = seconds
            present |= depths_of(look.statistics)
        return present


def depths_of(now: Statistics) -> Figures:
    """What is told of remote queues that have been looked at; a 0 would not be true of one that has not."""
    found: dict[tuple[str, ...], float] = {}
    queues = {stage.name: stage.remote for stage in now.stages}
    # of two of one name, the one that is read counts
    queues |= {source.name: source.remote for source in now.sources if source.remote is not None}
    for name, remote in queues.items():
        if remote is not None and remote.depth is not None:
            found |= _depth(name, remote, remote.depth)
    return found


def _depth(name: str, remote: RemoteCounts, depth: Depth) -> Figures:
    found: dict[tuple[str, ...], float] = {
        ("ready", name): depth.ready,
        ("unacknowledged", name): depth.unacknowledged,
        ("delayed", name): depth.delayed,
        ("dead", name): depth.dead,
    }
    return found if remote.lag is None else found | {("lag", name): remote.lag}


def counts_of(now: Statistics) -> Figures:
    """What is counted of a run, as monitoring systems ask for it."""
    counts: dict[tuple[str, ...], float] = {("produced", source.name): source.produced for source in now.sources}
    if now.put or not now.sources:
        counts["produced", PUT] = now.put
    for source in now.sources:
        if (remote := source.remote) is not None:
            figures = remote.received, remote.acknowledged, remote.released, remote.overtaken
            told = *figures, remote.dead_letters, remote.reconnects
            counts |= {(what, source.name): number for what, number in zip(REMOTE, told, strict=True)}
    for stage in now.stages:
        numbers = stage.received, stage.done, stage.failed, stage.dropped, stage.retried
        counts |= {(what, stage.name): number for what, number in zip(COUNTED, numbers, strict=True)}
        for words, seconds in stage.held_back:
            held_back = "held_back", stage.name, words.partition(" of ")[0]  # its rate, of which the rest may change
            counts[held_back] = counts.get(held_back, 0.0) + seconds
    return counts


def _sum(one: Figures, other: Figures) -> Figures:
    return {what: one.get(what, 0.0) + other.get(what, 0.0) for what in (*one, *(set(other) - set(one)))}
