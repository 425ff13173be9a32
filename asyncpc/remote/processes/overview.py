"""``Overview``: what all processes have done and hold together, for the report, for metrics and for probes."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from time import monotonic

from ...run.health import Health
from ...run.statistics import Statistics
from ...watch.totals import PRESENT, Figures, Seen, counts_of, depths_of
from .place import Place
from .spawned import LATE, Child
from .sums import sum_of, without_present

__all__ = ["Overview", "health_of"]


class Overview:
    """See the module; counts never fall, whoever was replaced."""

    def __init__(self) -> None:
        self._began = monotonic()
        self._past: Statistics | None = None  # the counts of those that were replaced
        self._highest: dict[tuple[str, ...], float] = {}

    def keep(self, ended: Statistics) -> None:
        """Keep the counts of a process that was replaced."""
        past = [] if self._past is None else [self._past]
        self._past = sum_of([*past, without_present(ended)], "running", 0.0)

    def statistics(self, children: Sequence[Child], state: str) -> Statistics | None:
        """The counts of these and those that were replaced; None before the first."""
        parts = [one.statistics for one in children if one.statistics is not None]
        parts += [] if self._past is None else [self._past]
        return sum_of(parts, state, monotonic() - self._began) if parts else None

    def see(self, now: Statistics | None, running: Sequence[Child]) -> Seen:
        """All figures: the sums ``now``, of which counts never fall, and what those that run hold."""
        if now is None:
            return Seen(False, {}, {})
        for what, count in counts_of(now).items():
            self._highest[what] = max(count, self._highest.get(what, 0.0))
        return Seen(bool(running), dict(self._highest), _present(now, running))


def health_of(places: Sequence[Place], stalled_after: float, *, is_draining: bool, has_failed: bool) -> Health:
    """Whether all places have a process that runs and was connected, and how those are."""
    running = [place.child for place in places if place.child is not None and place.child.is_running]
    longest: dict[str, float] = {}
    for child in running:
        for stage, seconds in child.stalled:
            longest[stage] = max(seconds, longest.get(stage, 0.0))
    stalled = tuple([one for one in longest.items() if one[1] >= stalled_after])
    silent = max([child.silent for child in running], default=0.0)
    connected = [child for child in running if child.is_connected]
    words = [f"{len(running)} of {len(places)} processes running"]
    words += [f"{len(connected)} of them connected to queues and resources"] if len(connected) < len(running) else []
    words += ["draining"] if is_draining else []
    words += [f"an event loop has not answered for {silent:.1f} s"] if silent >= LATE else []
    words += [f"{stage}: nothing settled for {seconds:.0f} s" for stage, seconds in stalled]
    return Health(
        live=not has_failed and silent < max(stalled_after, LATE),
        ready=len(connected) == len(places) and not is_draining,
        stalled=stalled,
        why="; ".join(words),
    )


def _present(now: Statistics, running: Sequence[Child]) -> Figures:
    present: dict[tuple[str, ...], float] = {**depths_of(now)} if running else {}
    for stage in now.stages:
        bounds = [child.bounds.get(stage.name, 0) or inf for child in running]
        stalled = [seconds for child in running for name, seconds in child.stalled if name == stage.name]
        figures = stage.queued, stage.in_flight, stage.concurrency, sum(bounds), max(stalled, default=0.0)
        present |= {(what, stage.name): float(figure) for what, figure in zip(PRESENT, figures, strict=True)}
    return present
