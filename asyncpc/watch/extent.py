"""How far a run has come: how many items are through, how fast, and how long the rest will take."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from ..core.plan import Node, Origin, Plan
from ..logs import WARNING, log
from ..run.statistics import Statistics
from ..wording import summary
from .drawing import meetings

__all__ = ["Extent", "Journey", "Pace", "Standing", "total_of"]

MEMORY: Final = 10.0
"""Seconds after which a look at the rate counts for a third: long enough to be calm, short enough to follow."""

LONGEST: Final = 100 * 86400.0
"""Seconds; a longer time left says nothing."""

SLOWEST: Final = 0.001
"""Items per second; a lower rate counts as none."""

ALMOST: Final = 0.99
"""The share that is shown while not all is done."""


class Standing(NamedTuple):
    """How far a run has come at one moment; counts are items of its sources and fed ones, times are seconds."""

    through: int
    """Items that were handled to their end, failed, or were dropped."""
    total: int | None
    """Items that there will be, if that is known: never less than are through."""
    waiting: int | None
    """Items that came in and are not through, in a run that feeds itself: all that is known of its end. Else None."""
    rate: float
    """Items through per second, lately."""
    elapsed: float
    left: float | None
    """Until all is through at this rate, if anybody can tell."""
    failed: int
    behind: int
    """Values of later stages, made of items that are through, that are not handled yet."""
    word: str
    """``draining`` after a stop, ``finishing`` when only values behind are left, ``stopped`` or ``failed`` before all
    was done; empty otherwise."""
    queue: str
    """The fullest queue, such as ``fetch queue 100/128``."""

    @property
    def share(self) -> float | None:
        """What part of the items is through, from 0 to 1; None if the total is not known. At 1 all is done."""
        if self.total is None:
            return None
        share = self.through / self.total if self.total else 1.0
        return min(share, ALMOST) if self.behind else share

    def __str__(self) -> str:
        """One line: ``45 % · 450/1,000 · 120/s · 0:04 · 0:05 left · fetch queue 100/128``.

        In a run that feeds itself it begins with ``1,234 done, 56 waiting``.
        """
        count = f"{self.through:,}" + ("" if self.total is None else f"/{self.total:,}")
        if self.waiting is not None and self.total is None:
            count += f" done, {self.waiting:,} waiting"
        rate = f"{self.rate:,.0f}/s" if self.rate >= 10 or self.rate < SLOWEST else f"{self.rate:.2g}/s"
        is_over = self.word in ("stopped", "failed")
        parts = [
            "" if self.share is None else f"{math.floor(100 * self.share)} %",
            count,
            rate,
            clock(self.elapsed),
            "" if self.left is None else f"{clock(math.ceil(self.left))} left",
            "" if is_over else self.word,
            f"{self.failed:,} failed" if self.failed else "",
            self.queue,
        ]
        line = " · ".join([part for part in parts if part])
        return f"{self.word} at {line}" if is_over else line


class Journey:
    """Follows one run; each look at its statistics gives a :class:`Standing`."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._extent = Extent(plan)
        self._pace = Pace()
        self._expected = total_of(plan)

    def standing(self, now: Statistics, *, has_failed: bool = False) -> Standing:
        """How far the run has come at this look; looks come in the order of time.

        ``has_failed`` says whether an error is known that the run will end with.
        """
        through, behind, total = self._extent.through(now), self._extent.behind(now), self._total(now, has_failed)
        rate = self._pace.rate(through, now.elapsed)
        left = self._coming(now, through, behind, total) / rate if rate > 0 else math.inf
        return Standing(
            through=through,
            total=total,
            waiting=now.produced + now.fed - through if now.fed else None,
            rate=rate,
            elapsed=now.elapsed,
            left=left if left < LONGEST else None,
            failed=now.failed,
            behind=behind,
            word=self._word(now, total, is_all=through == total, behind=behind, has_failed=has_failed),
            queue=_fullest_queue(self._plan, now) if _is_under_way(now) else "",
        )

    def _total(self, now: Statistics, has_failed: bool) -> int | None:
        """How many items there will be: as the sources say, or as they have given once they have ended by themselves.

        With ``feed`` nobody can tell before the end. A source that has given more than it said was wrong, so its word
        is dropped.
        """
        may_feed = now.fed and _is_under_way(now)
        if now.state != "running" and not may_feed and not self._is_cut_short(now, has_failed):
            return now.produced + now.fed
        return None if now.fed or self._expected is None or now.produced > self._expected else self._expected

    def _is_cut_short(self, now: Statistics, has_failed: bool) -> bool:
        """Whether the sources might have given more; what is put in has no other end than a stop."""
        return bool(self._plan.origins) and (now.stop_asked or has_failed)

    def _coming(self, now: Statistics, through: int, behind: int, total: int | None) -> float:
        """How many items will still come through, after a stop those that are in; infinite if that says nothing.

        If more values than that wait behind the stages that count, it says nothing of the time that those take.
        """
        goal = now.produced if now.state == "draining" else total
        if goal is None or now.fed or not _is_under_way(now):
            return math.inf
        return math.inf if behind > goal - through else goal - through

    def _word(self, now: Statistics, total: int | None, *, is_all: bool, behind: int, has_failed: bool) -> str:
        if _is_under_way(now):
            if now.stop_asked and now.state == "draining":
                return "draining"
            return "finishing" if is_all and behind else ""
        if has_failed:
            return "failed"
        if total is None:
            return "stopped" if now.state == "failed" or self._is_cut_short(now, has_failed) else ""
        return "" if is_all and not behind else "stopped"


class Extent:
    """How many items, of the sources and fed ones, are through: past the first stages that emit any number of values.

    Beyond those stages nobody can say which items a value was made of. An item that failed or was dropped is through.
    """

    def __init__(self, plan: Plan) -> None:
        self.nodes: tuple[Node, ...] = plan.nodes[: plan.main]
        self.meeting: list[int] = meetings(plan)
        self.counted: set[int] = set(plan.entries)
        """The stages whose items count."""
        for place, node in enumerate(self.nodes):
            if place in self.counted and (node.handler.branches is not None or not node.handler.generates):
                self.counted.update(node.following)
        self.trunk: set[int] = set()
        """The stages outside all branches: all items of some source reach them."""
        for place in plan.entries:
            while place < len(self.nodes) and place not in self.trunk:
                self.trunk.add(place)
                place = self.meeting[place]

    def through(self, now: Statistics) -> int:
        """How many items are through: all that came in, less those on their way.

        Of a broadcast's branches, the one with the most items on its way counts: an item is through when it is through
        all of them. After the stage where branches meet, an item counts once for each, so the result may be too low,
        but never too high.
        """
        within = [0] * len(self.nodes)  # items on their way at a stage, and in its branches until they meet
        until_the_end = [0] * (len(self.meeting) + 1)  # the same from a stage to the end
        for place in reversed(range(len(self.nodes))):
            node, stage, meeting = self.nodes[place], now.stages[place], self.meeting[place]
            branches = [until_the_end[first] - until_the_end[meeting] for first in node.following]
            within[place] = max(branches, default=0) if node.handler.generates else sum(branches)
            if place in self.counted:
                within[place] += stage.queued + stage.in_flight
            until_the_end[place] = within[place] + until_the_end[meeting]
        return max(0, now.produced + now.fed - sum(within[place] for place in self.trunk))

    def behind(self, now: Statistics) -> int:
        """How many values are on their way beyond the stages that count; failures that are reported are among them."""
        others = [stage for place, stage in enumerate(now.stages) if place not in self.counted]
        return sum([stage.queued + stage.in_flight for stage in others])


class Pace:
    """A rate that follows the last ten seconds or so, and is calm: looks count less the older they are."""

    def __init__(self) -> None:
        self._through, self._elapsed = 0, 0.0
        self._items, self._seconds = 0.0, 0.0  # both fade at the same speed

    def rate(self, through: int, elapsed: float) -> float:
        """Items per second lately; ``elapsed`` seconds after the start, ``through`` items are through."""
        faded = math.exp((self._elapsed - elapsed) / MEMORY)
        self._items = self._items * faded + max(0, through - self._through)
        self._seconds = self._seconds * faded + elapsed - self._elapsed
        self._through, self._elapsed = through, elapsed
        return self._items / self._seconds if self._seconds > 0 else 0.0


def total_of(plan: Plan) -> int | None:
    """How many items the sources will produce, if each of them knows."""
    if not plan.origins:
        return None
    totals = [_total_of(origin, plan.name) for origin in plan.origins]
    return sum([total for total in totals if total is not None]) if None not in totals else None


def _total_of(origin: Origin, pipeline: str) -> int | None:
    """How many items a source will produce; a ``total=`` of the user's that fails is logged, and the run goes on."""
    if origin.total is None or isinstance(origin.total, int):
        return origin.total
    try:
        total = origin.total()
    except Exception as error:
        message = "source %r: total= raised, so its progress has no total: %s"
        log(WARNING, message, origin.name, summary(error), pipeline=pipeline, stage=origin.name)
        return None
    if isinstance(total, int) and total >= 0:
        return total
    message = "source %r: total= did not return a number of items, so its progress has no total"
    log(WARNING, message, origin.name, pipeline=pipeline, stage=origin.name)
    return None


def _is_under_way(now: Statistics) -> bool:
    return now.state in ("running", "draining")


def clock(seconds: float) -> str:
    """Seconds as ``0:07``, ``1:02:03`` or ``3 d 04:05:06``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02}:{minutes:02}:{rest:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _fullest_queue(plan: Plan, now: Statistics) -> str:
    """The queue that is fullest for its bound, such as ``fetch queue 100/128``."""
    queues = [(stage, plan.bound(node.handler)) for node, stage in zip(plan.nodes, now.stages, strict=True)]
    stage, most = max(queues, key=lambda queue: (queue[0].queued / queue[1] if queue[1] else 0.0, queue[0].queued))
    return f"{stage.name} queue {stage.queued:,}" + (f"/{most:,}" if most else "")
