"""Looks at a run, in any thread; each one is compared with those before it.

Nothing is measured per item: a look compares the counters of each stage, and what each worker has settled and its
generators gave, with those at the look before. Only the thread of the loop reads them, so the figures of a look fit
together. In any other thread :meth:`Looks.look` asks the loop; if the loop does not answer, something holds it up, and
the look says what.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from threading import Event, get_ident
from time import monotonic
from typing import Any, Final, NamedTuple

from ..core.channel import Channel
from ..core.stage import NO_ITEM, ConsumerWorker, Stage
from ..wording import place_of_thread
from .outcome import Outcome
from .statistics import Statistics
from .turns import let_in
from .verdict import LONG, Held
from .workers import place_of_worker

__all__ = ["PATIENCE", "Look", "Looks"]

PATIENCE: Final = 0.5
"""Seconds that another thread waits for the loop to answer: half of what a probe usually gives."""

WINDOW: Final = 10.0
"""Seconds over which the figures of a look are judged, if there was a look so long before."""

APART: Final = 1.0
"""Seconds between two looks that are kept for that."""

PERCENTILES_EVERY: Final = 2.0
"""Seconds in which the percentiles of all stages are computed once; they take longer than all the rest of a look."""

THAN_USUAL: Final = 5
"""How many times as long as 99 of 100 calls."""

THAN_LONGEST: Final = 4
"""How many times as long as the longest wait after which a worker came further: it may be slow now and then."""

ENOUGH: Final = 20
"""Items that a stage has settled before anybody knows how long they usually take."""


class Look(NamedTuple):
    """What was seen of a run."""

    statistics: Statistics | None
    """The counts; None before the start, and if the loop has never answered."""
    before: Statistics | None = None
    """Those of the last look at least ten seconds before, or else of the first one; None at the first."""
    unsettled: tuple[tuple[str, float], ...] = ()
    """Each stage that has had work since an earlier look and has come no further with it, and for how many seconds."""
    held: tuple[Held, ...] = ()
    """The stages whose workers have had the same item at work, and given no value of it, since an earlier look."""
    busy: tuple[int, ...] = ()
    """How many workers of each stage have an item, or a batch."""
    is_paused: bool = False
    silent: float = 0.0
    """Seconds for which the loop has not answered; 0 if it has, infinite if it is closed."""
    blocked_by: str = ""
    """What holds up the loop that does not answer: ``fetch (app.py:12 in parse)``; empty if unknown."""

    @property
    def window(self) -> Statistics | None:
        """What the run has done since the look before; all of it at the first look."""
        if self.statistics is None or self.before is None:
            return self.statistics
        return self.statistics.since(self.before)

    @property
    def lost(self) -> list[tuple[str, float]]:
        """The remote queues to which there is no connection, and for how many seconds."""
        sources = () if self.statistics is None else self.statistics.sources
        return [(one.name, one.remote.disconnected) for one in sources if one.remote and one.remote.disconnected]


class _Mark(NamedTuple):
    """A stage, or a worker, at the first look since which it has come no further with its work."""

    progress: int
    at: float
    """Loop time."""
    waited: float = 0.0
    """Of a stage: seconds that its workers had waited for room, or were held back, by then."""
    seen: float = 0.0
    """Of a worker: loop time of the last look at which it was at work on it."""


class _Asked(NamedTuple):
    """A question of another thread to the loop."""

    is_answered: Event
    is_heard: Event
    """Whether who asked goes on, with the answer or without it."""
    since: float
    """Seconds of the monotonic clock."""


class Looks:
    """Looks at one run on behalf of callers in any thread."""

    __slots__ = (
        "_asked", "_computed", "_computed_at", "_doing", "_first", "_items", "_kept", "_last", "_longest", "_marks",
        "_outcome", "_stages", "_statistics",
    )  # fmt: skip

    def __init__(
        self, first: Channel[Any], stages: Sequence[Stage], outcome: Outcome, statistics: Callable[[bool], Statistics]
    ) -> None:
        """``statistics`` gives those of the run, with percentiles or without."""
        self._first = first
        self._stages = stages
        self._outcome = outcome
        self._statistics = statistics
        self._marks: dict[Stage, _Mark] = {}
        self._items: dict[ConsumerWorker, _Mark] = {}
        self._longest: dict[Stage, float] = {}  # seconds after which a worker was seen to come further
        self._doing: dict[ConsumerWorker, tuple[tuple[object, ...], float]] = {}  # since what loop time it does what
        self._kept: deque[Statistics] = deque(maxlen=math.ceil(WINDOW / APART) + 1)
        self._computed = 0  # the stage whose percentiles are computed next
        self._computed_at = -math.inf  # loop time at which some were
        self._last = Look(None)
        self._asked: _Asked | None = None  # a question that the loop has not answered

    def look(self) -> Look:
        """What there is to see now; if the loop does not answer within half a second, what was seen last.

        Inside another loop it waits for no answer.
        """
        loop = self._first.loop
        if loop is None:
            return self._last
        if self._outcome.report is not None:
            return Look(self._statistics(True))
        if loop.is_closed():
            return self._last._replace(silent=math.inf)
        if get_ident() == self._first.thread:
            self._take()
            return self._last
        return self._ask(loop)

    def seconds(self, worker: ConsumerWorker) -> float:
        """For how long a worker has done what it does, as far as looks have seen; 0 if only one has."""
        loop, (_, since) = self._first.loop, self._doing.get(worker, ((), math.inf))
        return 0.0 if loop is None else max(0.0, loop.time() - since)

    def place(self, worker: ConsumerWorker) -> str:
        """Where a worker is in the user's code, also the one that holds up the loop."""
        loop = self._first.loop
        if loop is not None and worker.task is not None and asyncio.current_task(loop) is worker.task:
            return place_of_thread(self._first.thread)
        return place_of_worker(worker)

    def _ask(self, loop: asyncio.AbstractEventLoop) -> Look:
        asked = self._asked
        if asked is None:  # two threads may ask at once; that does no harm
            asked = self._asked = _Asked(Event(), Event(), monotonic())
            try:
                loop.call_soon_threadsafe(self._answer, asked)
            except RuntimeError:
                return self._last._replace(silent=math.inf)
        is_answered = asked.is_answered.wait(0 if asyncio._get_running_loop() is not None else PATIENCE)
        asked.is_heard.set()
        if is_answered:
            return self._last
        return self._last._replace(silent=monotonic() - asked.since, blocked_by=self._blocker(loop))

    def _blocker(self, loop: asyncio.AbstractEventLoop) -> str:
        """The stage whose worker the loop is busy with, if it is one, and where."""
        place, task = place_of_thread(self._first.thread), asyncio.current_task(loop)
        for stage in self._stages:
            if task is not None and any(worker.task is task for worker in tuple(stage.staff.workers)):
                return f"{stage.handler.name} ({place})" if place else stage.handler.name
        return place

    def _answer(self, asked: _Asked) -> None:
        try:
            self._take()
        finally:
            self._asked = None
            asked.is_answered.set()
            let_in(asked.is_heard)

    def _take(self) -> None:
        assert self._first.loop is not None
        now = self._first.loop.time()
        self._compute_some(now)
        statistics = self._statistics(False)
        self._note_doing(now)
        busy = tuple([sum([one.item is not NO_ITEM for one in stage.staff.workers]) for stage in self._stages])
        self._last = Look(
            statistics,
            before=self._before(statistics),
            unsettled=tuple(self._unsettled(now, busy)),
            held=tuple(self._held(now)),
            busy=busy,
            is_paused=any(stage.staff.gate is not None for stage in self._stages),
        )

    def _compute_some(self, now: float) -> None:
        """Compute the percentiles of as many stages, in turn, as are due since the last look."""
        due = min(1.0, (now - self._computed_at) / PERCENTILES_EVERY)
        for _ in range(math.ceil(due * len(self._stages))):
            self._stages[self._computed].timing.latency.compute()
            self._computed = (self._computed + 1) % len(self._stages)
        self._computed_at = now

    def _note_doing(self, now: float) -> None:
        before, self._doing = self._doing, {}
        for stage in self._stages:
            for worker in stage.staff.workers:
                does = worker.settled, worker.waits_for, worker.item is NO_ITEM
                known = before.get(worker)
                self._doing[worker] = known if known is not None and known[0] == does else (does, now)

    def _before(self, now: Statistics) -> Statistics | None:
        kept = self._kept
        while len(kept) > 1 and now.elapsed - kept[1].elapsed >= WINDOW:
            kept.popleft()
        before = kept[0] if kept and kept[0].elapsed < now.elapsed else None
        if not kept or now.elapsed - kept[-1].elapsed >= APART:
            kept.append(now)
        return before

    def _unsettled(self, now: float, busy_ones: Sequence[int]) -> Iterator[tuple[str, float]]:
        for stage, busy in zip(self._stages, busy_ones, strict=True):
            progress = _settled(stage) + sum([worker.given for worker in stage.staff.workers])
            waited = stage.out_waited(now) + sum([waits.seconds(now) for waits in stage.timing.held_back.values()])
            mark = self._marks.pop(stage, None)
            if not (busy or (stage.inbox.items and stage.staff.gate is None)):
                continue
            if mark is None or mark.progress != progress:
                mark = _Mark(progress, now, waited)
            self._marks[stage], seconds = mark, now - mark.at
            is_held = waited - mark.waited > seconds * max(1, busy) / 2  # by a stage behind it, a rate, a back-off
            if seconds > 0 and not is_held:
                yield stage.handler.name, seconds

    def _held(self, now: float) -> Iterator[Held]:
        items, self._items = self._items, {}
        for stage in self._stages:
            found: list[tuple[float, ConsumerWorker]] = []
            for worker in stage.staff.workers:
                mark, progress = items.get(worker), worker.settled + worker.given
                if mark is not None and mark.progress != progress:
                    self._longest[stage] = max(self._longest.get(stage, 0.0), mark.seen - mark.at)
                    mark = None
                if worker.item is not NO_ITEM and worker.waits_for is None:
                    mark = _Mark(progress, now, seen=now) if mark is None else mark._replace(seen=now)
                    self._items[worker] = mark
                    if now > mark.at:
                        found.append((now - mark.at, worker))
            if found:
                yield self._held_in(stage, found)

    def _held_in(self, stage: Stage, found: list[tuple[float, ConsumerWorker]]) -> Held:
        seconds, worker = max(found, key=lambda one: one[0])
        stuck, usual, place = 0, LONG, ""
        if seconds >= LONG:
            place = place_of_worker(worker)
            p99 = stage.timing.latency.percentiles(0.99)[0]
            usual = max(LONG, THAN_USUAL * p99, THAN_LONGEST * self._longest.get(stage, 0.0))
            if _settled(stage) >= ENOUGH:
                stuck = sum([one >= usual for one, _ in found])
        busy = sum([worker.item is not NO_ITEM for worker in stage.staff.workers])
        is_all = len(found) == busy and self._marks[stage].at <= self._items[worker].at
        of = max(stage.staff.concurrency, busy)  # fewer may be wanted than are still at work
        return Held(stage.handler.name, len(found), of, stuck, seconds, place, is_all, usual)


def _settled(stage: Stage) -> int:
    return stage.done + stage.counts.failed + stage.counts.dropped
