"""Whether a run is well, for probes and for people."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from ..wording import place_of
from .looks import PATIENCE, Look
from .outcome import Outcome
from .state import State
from .verdict import NOTHING, verdict

__all__ = ["Health", "judge"]


class Health(NamedTuple):
    """Whether a run is well at one moment. A run that drains is live and not ready."""

    live: bool
    """Whether the run has not failed and its event loop answers. If not, restart the process."""
    ready: bool
    """Whether it is running and takes items.

    Neither before its start and the first connection to each of its remote queues, nor while it drains, nor after
    its end.
    """
    stalled: tuple[tuple[str, float], ...]
    """Each stage that has work and settles nothing, and for how many seconds that was seen."""
    why: str
    """The state of the run, and what is wrong with it or else what limits it; without items and messages of errors."""


def judge(state: State, outcome: Outcome, look: Look, stalled_after: float) -> Health:
    """Judge what was seen of a run; less than ``stalled_after`` seconds without progress may be a slow handler."""
    is_silent = look.silent >= PATIENCE
    is_dead = look.silent >= max(stalled_after, PATIENCE)
    stalled = tuple([one for one in look.unsettled if one[1] >= stalled_after])
    words = [_STATES[state] if state is not State.FAILED else _failure(outcome)]
    is_connected = look.statistics is None or look.statistics.is_connected
    waits_to_begin = state is State.RUNNING and not is_connected
    text, is_alarm = verdict(look) if state in _UNDER_WAY or look.silent == math.inf else (NOTHING, False)
    if is_alarm or not (waits_to_begin or text == NOTHING):
        words.append(text)
    if waits_to_begin:
        words.append("not connected yet to each of its queues")
    told = text if is_alarm or ": nothing settled " in text else ""
    stalls = [one for one in stalled if not told.startswith(f"{one[0]}: ")]
    words += [f"{name}: nothing settled for {seconds:.0f} s" for name, seconds in stalls]
    return Health(
        live=state is not State.FAILED and not is_dead,
        ready=state is State.RUNNING and not is_silent and is_connected,
        stalled=stalled,
        why="; ".join(words),
    )


_UNDER_WAY: Final = State.RUNNING, State.DRAINING

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
