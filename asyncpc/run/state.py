"""The states of a run, which only advance (invariant 8)."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

__all__ = ["ADVANCES", "State"]


class State(StrEnum):
    """The state of a run; see :data:`ADVANCES`."""

    NEW = "new"
    RUNNING = "running"
    DRAINING = "draining"
    CLOSED = "closed"
    FAILED = "failed"


ADVANCES: Final[dict[State, set[State]]] = {
    State.NEW: {State.RUNNING, State.CLOSED},
    State.RUNNING: {State.DRAINING, State.FAILED},
    State.DRAINING: {State.CLOSED, State.FAILED},
    State.CLOSED: set(),
    State.FAILED: set(),
}
"""The states that may follow each state."""
