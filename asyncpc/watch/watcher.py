"""``Watcher``: looks at a run now and then, and keeps what it saw for a while; nothing is added to an item's way.

From two looks come rates, and the share of time for which workers were at work or waited. From many come the ages of
what waits: in a queue that is first in, first out, the item at its head is the one that came in as number
``entered - queued + 1``, and when that was, the looks before tell to within the time between two of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from itertools import islice
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
"""Looks that are kept: five minutes, at two a second."""

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
    """For how long the first item of its queue has waited: within the time between two looks.

    None if the queue is empty, or not first in, first out, so that nobody knows.
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
    entered: int
    """Items that came into its queue; those that it had no room for did not."""
    done: int
    failed: int
    queued: int
    put_waited: float
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


class Watcher:
    """Watches one run; may be asked in any thread, by one at a time."""

    def __init__(self, running: Running[Any, Any]) -> None:
        self._running = running
        self._plan = plan_followed(running)
        self._drops_newest = {node.handler.name for node in self._plan.nodes if _drops_newest(node.handler)}
        self._journey = Journey(self._plan)
        self._failures = Failures(running)
        self._points: dict[str, deque[_Point]] = {}
        self._minutes: dict[str, _Minute] = {}

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

    def rates(self, stage: str, seconds: float = 60.0, parts: int = 60) -> list[float]:
        """Items done by the stage per second, in each of so many equal parts of the last ``seconds``, oldest first.

        Fewer if nobody has looked for so long.
        """
        return [rate for rate, _ in self._parts(stage, seconds, parts)]

    def fills(self, stage: str, seconds: float = 60.0, parts: int = 60) -> list[float]:
        """The items in the stage's queue in each of these parts, at their end."""
        return [queued for _, queued in self._parts(stage, seconds, parts)]

    def _parts(self, stage: str, seconds: float, parts: int) -> list[tuple[float, float]]:
        points = self._points.get(stage, deque())
        if len(points) < 2:
            return []
        length, end = seconds / parts, points[-1].at
        found: list[tuple[float, float]] = []
        begin = points[-1]
        for point in islice(reversed(points), 1, None):
            if begin.at - point.at >= length or point is points[0]:
                found.append(((begin.done - point.done) / max(begin.at - point.at, 1e-9), begin.queued))
                begin = point
            if end - point.at >= seconds:
                break
        return found[::-1]

    def _note(self, at: float, stage: StageStatistics) -> None:
        points = self._points.setdefault(stage.name, deque(maxlen=KEPT))
        waited = stage.get_waited, stage.out_waited, sum([seconds for _, seconds in stage.held_back])
        if not points or points[-1].at < at:  # else the loop has not answered since
            entered = self._entered(stage)
            points.append(_Point(at, entered, stage.done, stage.failed, stage.queued, stage.put_waited, waited))
            self._minutes.setdefault(stage.name, _Minute(points[0])).note(points[-1])

    def _entered(self, stage: StageStatistics) -> int:
        """How many items came into its queue: an oldest one that is dropped later did, a newest one did not."""
        return stage.received - (stage.dropped if stage.name in self._drops_newest else 0)

    def _stage(self, now: StageStatistics, busy: int, held: Held | None) -> StageView:
        points = self._points.get(now.name, deque())
        last = points[-1]
        before = next((one for one in reversed(points) if last.at - one.at >= LATELY), points[0])
        elapsed = last.at - before.at
        minute = self._minutes[now.name]
        shares = [
            min(1.0, max(0.0, (then - earlier) / (elapsed * now.concurrency))) if elapsed and now.concurrency else 0.0
            for then, earlier in zip(last.waited, before.waited, strict=True)
        ]
        return StageView(
            now,
            busy,
            rate=(last.done - before.done) / elapsed if elapsed else now.rate,
            failing=(last.failed - before.failed) / elapsed if elapsed else 0.0,
            oldest=_age(points, self._entered(now) - now.queued + 1) if now.is_fifo and now.queued else None,
            at_work=max(0.0, 1.0 - sum(shares)) if elapsed else 0.0,
            waits_for_items=shares[0],
            waits_for_room=shares[1],
            held_back=shares[2],
            held=held,
            rates=tuple(minute.rates),
            fills=tuple(minute.fills),
        )


def _drops_newest(handler: Handler) -> bool:
    return any(isinstance(one, Overflowing) and one.overflow == "drop_newest" for one in handler.options)


def _age(points: Sequence[_Point], head: int) -> float:
    """Seconds since the item that came in as number ``head`` did; those of all looks kept, if it came before them."""
    last = points[-1]
    place = bisect_left(points, head, key=lambda point: point.entered)
    if place == 0:
        return last.at - points[0].at
    before, after = points[place - 1], points[min(place, len(points) - 1)]
    part = (head - before.entered) / max(1, after.entered - before.entered)
    return last.at - (before.at + part * (after.at - before.at))
