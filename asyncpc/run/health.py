"""Whether a run is well, for probes and for people, asked in any thread.

Nothing is measured per item: a look compares the counters of each stage with those at the look before. Only the thread
of the loop reads them, so the figures of a look fit together. In any other thread :meth:`Looks.look` asks the loop; if
the loop does not answer, something holds it up, and the result says so.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from threading import Event, get_ident
from time import monotonic
from typing import Any, Final, NamedTuple

from ..core.channel import Channel
from ..core.stage import NO_ITEM, Stage
from ..wording import place_of
from .outcome import Outcome
from .state import State
from .statistics import Statistics

__all__ = ["Health", "Look", "Looks", "judge"]

PATIENCE: Final = 0.5
"""Seconds that another thread waits for the loop to answer: half of what a probe usually gives."""


class Health(NamedTuple):
    """Whether a run is well at one moment. A run that drains is live and not ready."""

    live: bool
    """Whether the run has not failed and its event loop answers. If not, restart the process."""
    ready: bool
    """Whether it is running and takes items: neither before its start, nor while it drains, nor after its end."""
    stalled: tuple[tuple[str, float], ...]
    """Each stage that has work and settles nothing, and for how many seconds that was seen."""
    why: str
    """The state of the run and what is wrong with it, in words; without items and messages of errors."""


class Look(NamedTuple):
    """What was seen of a run."""

    statistics: Statistics | None
    """The counts; None before the start, and if the loop has never answered."""
    unsettled: tuple[tuple[str, float], ...]
    """Each stage that has had work since an earlier look and settled none of it, and for how many seconds."""
    silent: float
    """Seconds for which the loop has not answered; 0 if it has, infinite if it is closed."""


class _Mark(NamedTuple):
    """A stage at the first look at which it had the work that it has still not settled."""

    settled: int
    at: float
    """Loop time."""
    waited: float
    """Seconds that its workers had waited for room, or were held back, by then."""


class Looks:
    """Looks at one run on behalf of callers in any thread."""

    __slots__ = ("_asked", "_first", "_last", "_marks", "_outcome", "_stages", "_statistics")

    def __init__(
        self, first: Channel[Any], stages: Sequence[Stage], outcome: Outcome, statistics: Callable[[], Statistics]
    ) -> None:
        self._first = first
        self._stages = stages
        self._outcome = outcome
        self._statistics = statistics
        self._marks: dict[Stage, _Mark] = {}
        self._last = Look(None, (), 0.0)
        self._asked: tuple[Event, float] | None = None  # a question that the loop has not answered, and since when

    def look(self) -> Look:
        """What there is to see now; if the loop does not answer within half a second, what was seen last.

        Inside another loop it waits for no answer.
        """
        loop = self._first.loop
        if loop is None:
            return self._last
        if self._outcome.report is not None:
            return Look(self._statistics(), (), 0.0)
        if loop.is_closed():
            return self._last._replace(silent=math.inf)
        if get_ident() == self._first.thread:
            self._take()
            return self._last
        return self._ask(loop)

    def _ask(self, loop: asyncio.AbstractEventLoop) -> Look:
        asked = self._asked
        if asked is None:  # two threads may ask at once; that does no harm
            asked = self._asked = Event(), monotonic()
            try:
                loop.call_soon_threadsafe(self._answer, asked[0])
            except RuntimeError:
                return self._last._replace(silent=math.inf)
        answered, since = asked
        if answered.wait(0 if asyncio._get_running_loop() is not None else PATIENCE):
            return self._last
        return self._last._replace(silent=monotonic() - since)

    def _answer(self, answered: Event) -> None:
        try:
            self._take()
        finally:
            self._asked = None
            answered.set()

    def _take(self) -> None:
        assert self._first.loop is not None
        unsettled = tuple(self._unsettled(self._first.loop.time()))
        self._last = Look(self._statistics(), unsettled, 0.0)

    def _unsettled(self, now: float) -> Iterator[tuple[str, float]]:
        for stage in self._stages:
            busy = sum([worker.item is not NO_ITEM for worker in stage.staff.workers])
            settled = stage.done + stage.counts.failed + stage.counts.dropped
            waited = stage.out_waited(now) + sum([waits.seconds(now) for waits in stage.timing.held_back.values()])
            mark = self._marks.pop(stage, None)
            if not (busy or (stage.inbox.items and stage.staff.gate is None)):
                continue
            if mark is None or mark.settled != settled:
                mark = _Mark(settled, now, waited)
            self._marks[stage], seconds = mark, now - mark.at
            is_held = waited - mark.waited > seconds * max(1, busy) / 2  # by a stage behind it, a rate, a back-off
            if seconds > 0 and not is_held:
                yield stage.handler.name, seconds


def judge(state: State, outcome: Outcome, look: Look, stalled_after: float) -> Health:
    """Judge what was seen of a run; less than ``stalled_after`` seconds without progress may be a slow handler."""
    is_silent = look.silent >= PATIENCE
    is_dead = look.silent >= max(stalled_after, PATIENCE)
    stalled = tuple([one for one in look.unsettled if one[1] >= stalled_after])
    words = [_STATES[state] if state is not State.FAILED else _failure(outcome)]
    if look.silent == math.inf:
        words.append("its event loop is closed")
    elif is_silent:
        words.append(f"its event loop has not answered for {look.silent:.1f} s")
    words += [f"{name}: nothing settled for {seconds:.0f} s" for name, seconds in stalled]
    return Health(
        live=state is not State.FAILED and not is_dead,
        ready=state is State.RUNNING and not is_silent,
        stalled=stalled,
        why="; ".join(words),
    )


_STATES: Final = {
    State.NEW: "not started",
    State.RUNNING: "running",
    State.DRAINING: "draining",
    State.CLOSED: "ended",
}


def _failure(outcome: Outcome) -> str:
    """What a run failed with: no message, since that may tell of items."""
    errors = [*outcome.errors, *[one for one in (outcome.interrupt, outcome.breach) if one is not None]]
    if not errors:
        return "failed: it was stopped before it was done"
    place = place_of(errors[0])
    return f"failed: {type(errors[0]).__name__}" + (f" ({place})" if place else "")
