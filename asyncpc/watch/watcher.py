"""``Watcher``: looks at a run now and then, and keeps what it saw for a while; nothing is added to an item's way.

From two looks come rates, and the share of time for which workers were at work or waited. From many come the ages of
what waits: in a queue that is first in, first out, the item at its head is the one that came in as number
``entered - queued + 1``, and when that was, the looks before tell to within the time between two of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from itertools import pairwise
from typing import Any, Final, NamedTuple

from ..core.plan import Handler
from ..options.overflow import Overflowing
from ..run.running import Running, failing, look_at, plan_followed
from ..run.statistics import StageStatistics, Statistics
from ..run.verdict import Held, Verdict, verdict
from .extent import Journey, Standing
from .failures import Failures, FailuresAlike

__all__ = ["StageView", "View", "Watcher"]

KEPT: Final = 600
"""Looks at one stage that are kept for its rates, at most."""

EXACT: Final = 50
"""An age is told to within one part of so many, or the time between two looks."""

THIN_EVERY: Final = 200
"""Looks, before those that are not needed for that are let go."""

MINUTE: Final = 60
"""Seconds of the past that a view tells, and the parts in which it does."""

SECOND: Final = 0.99
"""Seconds after which another second of it begins: a look may come a little too early."""

LATELY: Final = 5.0
"""Seconds over which rates are told."""


class StageView(NamedTuple):
    """One stage as it is shown: what it has done, what it is doing, and how it was lately; times are seconds."""

    now: StageStatistics
    busy: int
    """How many of its workers have an item, or a batch."""
    rate: float
    """Items done per second lately."""
    failing: float
    """Items failed per second lately."""
    oldest: float | None
    """For how long the first item of its queue has waited; if it came before the first look, since that look.

    Its error is less than the time between two looks, or a fiftieth of it. None if the queue is empty, or not first in,
    first out, so that nobody knows.
    """
    at_work: float
    """The share of its workers' time, lately, in which handlers were at work: 0 to 1."""
    waits_for_room: float
    waits_for_items: float
    held_back: float
    """As ``at_work``: the four add up to 1."""
    held: Held | None
    """Its workers that have had one item for a while."""
    rates: tuple[float, ...] = ()
    """Items done per second in each second of the last minute that was watched, the oldest first."""
    fills: tuple[float, ...] = ()
    """The items in its queue at the end of each of these seconds."""


class View(NamedTuple):
    """A run as it is shown."""

    statistics: Statistics
    verdict: Verdict
    silent: float
    """Seconds for which the event loop has not answered."""
    stages: tuple[StageView, ...]
    pipeline: str = ""
    """Its name."""
    standing: Standing | None = None
    """How far it has come; None if nobody knows."""
    failures: tuple[FailuresAlike, ...] = ()
    """What failed since somebody watches, those alike together, the last ones first."""

    @property
    def rate(self) -> float:
        """Items per second, lately, that the last stages handled to their end."""
        return sum([stage.rate for stage in self.stages if stage.now.name in self.statistics.ends])


class _Point(NamedTuple):
    """A stage at one look."""

    at: float
    """Seconds after the start of the run."""
    done: int
    failed: int
    queued: int
    waited: tuple[float, float, float]
    """Seconds that its workers have waited for items, for room, and were held back."""


class _Minute:
    """The last minute of a stage, second by second, so that a look need not read all points of it."""

    def __init__(self, begin: _Point) -> None:
        self._begin = begin  # of the second that is under way
        self.rates: deque[float] = deque(maxlen=MINUTE)
        self.fills: deque[float] = deque(maxlen=MINUTE)

    def note(self, now: _Point) -> None:
        """Count what was done until now; a time in which nobody looked is as many seconds of its mean."""
        seconds = now.at - self._begin.at
        if seconds >= SECOND:
            for _ in range(min(MINUTE, max(1, round(seconds)))):
                self.rates.append((now.done - self._begin.done) / seconds)
                self.fills.append(now.queued)
            self._begin = now


class _Arrivals:
    """How many items had come into a queue at each look, as far back as one of them still waits."""

    def __init__(self) -> None:
        self._looks: list[tuple[float, int]] = []

    def note(self, at: float, entered: int, head: int) -> None:
        """So many had; number ``head`` is the next one that leaves the queue, or that comes in."""
        looks = self._looks
        if len(looks) > 1 and looks[-2][1] == entered:
            looks.pop()  # the begin and the end of a time in which none came are enough
        looks.append((at, entered))
        del looks[: max(0, self._place(head) - 1)]
        if len(looks) % THIN_EVERY == 0:
            self._thin()

    def age(self, head: int) -> float:
        """Seconds from the arrival of item number ``head`` to the last look; if it came before the first, from that."""
        looks, place = self._looks, self._place(head)
        if place == 0:
            return looks[-1][0] - looks[0][0]
        (before, fewer), (after, more) = looks[place - 1], looks[min(place, len(looks) - 1)]
        return looks[-1][0] - (before + (head - fewer) / max(1, more - fewer) * (after - before))

    def _thin(self) -> None:
        kept, now = self._looks[:1], self._looks[-1][0]
        for look, following in pairwise(self._looks[1:]):
            if following[0] - kept[-1][0] > (now - following[0]) / EXACT:
                kept.append(look)
        self._looks = [*kept, self._looks[-1]]

    def _place(self, head: int) -> int:
        """Of the first look that saw it."""
        return bisect_left(self._looks, head, key=lambda look: look[1])


class _Past:
    """What was seen of one stage."""

    def __init__(self, begin: _Point) -> None:
        self.points: deque[_Point] = deque([begin], maxlen=KEPT)  # the last seconds
        self.minute = _Minute(begin)
        self.arrivals = _Arrivals()

    def note(self, now: _Point) -> None:
        """Keep what rates and shares are made of."""
        self.points.append(now)
        while now.at - self.points[1].at >= LATELY:
            self.points.popleft()
        self.minute.note(now)


class Watcher:
    """Watches one run; may be asked in any thread, by one at a time."""

    def __init__(self, running: Running[Any, Any]) -> None:
        self._running = running
        self._plan = plan_followed(running)
        self._drops_newest = {node.handler.name for node in self._plan.nodes if _drops_newest(node.handler)}
        self._journey = Journey(self._plan)
        self._failures = Failures(running)
        self._pasts: dict[str, _Past] = {}

    def look(self) -> View | None:
        """What there is to see now; None before the start.

        If the event loop does not answer, that is what it says, with the figures of the look before.
        """
        look = look_at(self._running)
        if look.statistics is None:
            return None
        said, held = verdict(look), {one.stage: one for one in look.held}
        busy = look.busy or [0] * len(look.statistics.stages)  # after the end there are none
        for stage in look.statistics.stages:
            self._note(look.statistics.elapsed, stage)
        stages = tuple(
            [
                self._stage(stage, busy, held.get(stage.name))
                for stage, busy in zip(look.statistics.stages, busy, strict=True)
            ]
        )
        standing = self._journey.standing(look.statistics, has_failed=failing(self._running))
        return View(look.statistics, said, look.silent, stages, self._plan.name, standing, self._failures.alike())

    def _note(self, at: float, stage: StageStatistics) -> None:
        waited = stage.get_waited, stage.out_waited, sum([seconds for _, seconds in stage.held_back])
        now = _Point(at, stage.done, stage.failed, stage.queued, waited)
        past = self._pasts.setdefault(stage.name, _Past(now))
        if past.points[-1].at < at:  # else the loop has not answered since
            past.note(now)
        past.arrivals.note(at, self._entered(stage), self._head(stage))

    def _head(self, stage: StageStatistics) -> int:
        return self._entered(stage) - stage.queued + 1

    def _entered(self, stage: StageStatistics) -> int:
        """How many items came into its queue: an oldest one that is dropped later did, a newest one did not."""
        return stage.received - (stage.dropped if stage.name in self._drops_newest else 0)

    def _stage(self, now: StageStatistics, busy: int, held: Held | None) -> StageView:
        past = self._pasts[now.name]
        before, last = past.points[0], past.points[-1]
        elapsed = last.at - before.at
        shares = [
            min(1.0, max(0.0, (then - earlier) / (elapsed * now.concurrency))) if elapsed and now.concurrency else 0.0
            for then, earlier in zip(last.waited, before.waited, strict=True)
        ]
        return StageView(
            now,
            busy,
            rate=(last.done - before.done) / elapsed if elapsed else now.rate,
            failing=(last.failed - before.failed) / elapsed if elapsed else 0.0,
            oldest=past.arrivals.age(self._head(now)) if now.is_fifo and now.queued else None,
            at_work=max(0.0, 1.0 - sum(shares)) if elapsed else 0.0,
            waits_for_items=shares[0],
            waits_for_room=shares[1],
            held_back=shares[2],
            held=held,
            rates=tuple(past.minute.rates),
            fills=tuple(past.minute.fills),
        )


def _drops_newest(handler: Handler) -> bool:
    return any(isinstance(one, Overflowing) and one.overflow == "drop_newest" for one in handler.options)
