"""One sentence that says what limits a run, from its statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

__all__ = ["bottleneck", "loop_holders"]

MOST: Final = 0.5
"""What holds up the event loop for at least this share of a run is named."""

TOLD_FROM: Final = 0.1
"""Seconds: a shorter time is not worth a line of the report."""


class StageFigures(Protocol):
    """What the sentence needs of a :class:`~asyncpc.StageStatistics`."""

    @property
    def name(self) -> str: ...
    @property
    def concurrency(self) -> int: ...
    @property
    def received(self) -> int: ...
    @property
    def get_waited(self) -> float: ...
    @property
    def out_waited(self) -> float: ...
    @property
    def held_back(self) -> Sequence[tuple[str, float]]: ...
    @property
    def loop_held(self) -> float: ...


class SourceFigures(Protocol):
    """What the sentence needs of a :class:`~asyncpc.SourceStatistics`."""

    @property
    def name(self) -> str: ...
    @property
    def loop_held(self) -> float: ...


class Figures(Protocol):
    """What the sentence needs of a run's :class:`~asyncpc.Statistics`."""

    @property
    def elapsed(self) -> float: ...
    @property
    def sources(self) -> Sequence[SourceFigures]: ...
    @property
    def stages(self) -> Sequence[StageFigures]: ...


def bottleneck(run: Figures) -> str:
    """Which stage limits the run, by what, and who waits for it."""
    blocking = max(run.stages, key=lambda stage: stage.loop_held)
    if blocking.loop_held > MOST * run.elapsed:
        share = _share(blocking.loop_held, run.elapsed)
        return f"{blocking.name}: holds up the event loop {share:.0%} of the time; without 'async' it runs in threads"
    slow = max(run.sources, key=lambda source: source.loop_held, default=None)
    if slow is not None and slow.loop_held > MOST * run.elapsed:
        share = _share(slow.loop_held, run.elapsed)
        advice = "read it in a thread: source(…, run_in='thread')"
        return f"{slow.name}: holds up the event loop {share:.0%} of the time; {advice}"
    busy = {stage.name: _busy_share(stage, run.elapsed) for stage in run.stages}
    limit = max(run.stages, key=lambda stage: busy[stage.name])
    if run.elapsed <= 0 or limit.received == 0:
        return "nothing has happened yet"
    waits = {s.name: _share(s.get_waited + s.out_waited, s.concurrency * run.elapsed) for s in run.stages}
    others = "".join(f"; {s.name} waits {waits[s.name]:.0%} of its time" for s in run.stages if s is not limit)
    if busy[limit.name] < 0.5:  # every stage waits more than it works: too few items come in
        names = ", ".join(source.name for source in run.sources) or "the callers of put()"
        idle = f"{limit.name} waits {waits[limit.name]:.0%} of its time"
        return f"{names}: too slow to keep the stages busy; {idle}{others}"
    workers = "1 worker" if limit.concurrency == 1 else f"{limit.concurrency} workers"
    why, seconds = max(limit.held_back, key=lambda one: one[1], default=("", 0.0))
    held = _share(seconds, limit.concurrency * run.elapsed)
    if held > 0.5 * busy[limit.name]:
        return f"{limit.name}: held back {held:.0%} of the time of {workers} by {why}{others}"
    return f"{limit.name}: busy {busy[limit.name]:.0%} of {workers}{others}"


def loop_holders(run: Figures) -> list[str]:
    """A line for each stage and source that held up the event loop for most of a run, with advice."""
    held = [(one.name, one.loop_held, "write it without async") for one in run.stages]
    held += [(one.name, one.loop_held, "read it in a thread, as a plain generator is") for one in run.sources]
    return [
        f"{name!r} held the event loop {100 * _share(seconds, run.elapsed):.0f} % of the time: {advice}"
        for name, seconds, advice in held
        if seconds > max(TOLD_FROM, MOST * run.elapsed)
    ]


def _share(part: float, whole: float) -> float:
    return min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0


def _busy_share(stage: StageFigures, elapsed: float) -> float:
    return 1.0 - _share(stage.get_waited + stage.out_waited, stage.concurrency * elapsed)
