"""One sentence that says how a run is doing: what is wrong with it, or else what limits it.

``bottleneck()``, ``health()``, the terminal and the page all say this one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

__all__ = ["LONG", "NOTHING", "Held", "Seen", "Verdict", "bottleneck", "loop_holders", "verdict"]

MOST: Final = 0.5
"""What holds up the event loop for at least this share of a run is named."""

TOLD_FROM: Final = 0.1
"""Seconds: a shorter time is not worth a line of the report."""


SILENT: Final = 0.5
"""Seconds without an answer of the event loop after which it counts as blocked."""

LONG: Final = 10.0
"""Seconds for which a worker has one item before that is told; before, nobody calls it stuck."""

JUST_BEGUN: Final = 0.5
"""Seconds of a run in which it is no news that no item has come."""

NOTHING: Final = "nothing has happened yet"

STALLED: Final = 60.0
"""Seconds after which that is an alarm, unless items of the stage were seen to take longer."""


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
    @property
    def in_flight(self) -> int: ...
    @property
    def queued(self) -> int: ...


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
    @property
    def ends(self) -> Sequence[str]: ...


class Held(NamedTuple):
    """Workers of a stage that have had the same item at work, and given no value of it, since an earlier look."""

    stage: str
    workers: int
    """How many of them."""
    of: int
    """How many items the stage handles at once, or still has in work after it was asked to handle fewer."""
    stuck: int
    """How many of them for far longer than usual in this stage."""
    seconds: float
    """The longest time."""
    place: str
    """Where that one is, in the user's code: ``app.py:12 in fetch``; empty if unknown."""
    is_all: bool
    """Whether nobody else of the stage is at work, and the stage has settled nothing meanwhile."""
    usual: float
    """Seconds that an item takes at most, as far as was seen."""


class Seen(Protocol):
    """What the sentence needs of a look at a run."""

    @property
    def window(self) -> Figures | None:
        """What the run has done lately; None if nobody knows."""
        ...

    @property
    def held(self) -> Sequence[Held]:
        """The stages with workers that have had one item for a while."""
        ...

    @property
    def is_paused(self) -> bool:
        """Whether no worker takes an item."""
        ...

    @property
    def lost(self) -> Sequence[tuple[str, float]]:
        """The remote queues without a connection, and for how many seconds."""
        ...

    @property
    def silent(self) -> float:
        """Seconds for which the event loop has not answered."""
        ...

    @property
    def blocked_by(self) -> str:
        """What the event loop is busy with, if it does not answer."""
        ...


class Verdict(NamedTuple):
    """How a run is doing."""

    text: str
    is_alarm: bool
    """Whether something is wrong, so that somebody should look after it; else the text says what limits the run."""


def verdict(seen: Seen) -> Verdict:
    """What is wrong with a run, the worst first; or else what limits it."""
    if seen.silent == math.inf:
        return Verdict("its event loop is closed", True)
    if seen.silent >= SILENT:
        by = f" by {seen.blocked_by}" if seen.blocked_by else ""
        return Verdict(f"the event loop has not answered for {_seconds(seen.silent)}: it is blocked{by}", True)
    if seen.is_paused:
        return Verdict("paused: no handler takes an item before resume()", True)
    for name, seconds in seen.lost:
        return Verdict(f"{name}: no connection to the queue for {_seconds(seconds)}", True)
    stuck = max(seen.held, key=lambda one: (one.stuck, one.seconds), default=None)
    if stuck is not None and stuck.stuck:
        who = f"{stuck.stuck} of {stuck.of} workers are" if stuck.of > 1 else "its worker is"
        longest = "the longest on one item" if stuck.stuck > 1 else "on one item"
        return Verdict(f"{stuck.stage}: {who} stuck, {longest} for {_seconds(stuck.seconds)}{_at(stuck.place)}", True)
    for one in seen.held:
        if one.is_all and one.seconds >= LONG:
            who = f"its {one.workers} workers are on one item each" if one.workers > 1 else "its worker is on one item"
            text = f"{one.stage}: nothing settled for {_seconds(one.seconds)}; {who}{_at(one.place)}"
            return Verdict(text, is_alarm=one.seconds >= max(STALLED, one.usual))
    return Verdict(NOTHING if seen.window is None else bottleneck(seen.window), False)


def _at(place: str) -> str:
    return f" ({place})" if place else ""


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


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
    if run.elapsed <= JUST_BEGUN and not (limit.received or limit.in_flight or limit.queued):
        return NOTHING
    waits = {s.name: _share(s.get_waited + s.out_waited, s.concurrency * run.elapsed) for s in run.stages}
    others = "".join(f"; {s.name} waits {waits[s.name]:.0%} of its time" for s in run.stages if s is not limit)
    if busy[limit.name] < 0.5:  # every stage waits more than it works
        for stage in run.stages:
            if stage.name in run.ends and _share(stage.out_waited, stage.concurrency * run.elapsed) > 0.5:
                return f"the reader of the results is slow: {stage.name} waits {waits[stage.name]:.0%} of its time"
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
