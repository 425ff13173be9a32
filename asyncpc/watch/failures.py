"""The failures of a run as its screens show them: those alike together, so that thirty alike push no other out."""

from __future__ import annotations

import time
from threading import Lock
from typing import Any, Final, NamedTuple

from ..events import Event, ItemFailed
from ..run.running import Running, listen_to
from ..wording import beginning

__all__ = ["Failures", "FailuresAlike"]

KEPT: Final = 30
"""Kinds of failures that are kept: those seen last."""


class FailuresAlike(NamedTuple):
    """What failed in one stage with one kind of error, since somebody watches."""

    stage: str
    kind: str
    """The class of the error."""
    times: int
    at: float
    """When it was seen last: seconds since 1970."""
    place: str
    """Where the last one was raised: ``app.py:12 in fetch``; empty if unknown."""
    message: str
    """Of the last one, its beginning; it may tell of the item."""


class Failures:
    """Gathers the failures of one run from now on; may be asked in any thread."""

    def __init__(self, running: Running[Any, Any]) -> None:
        self._kinds: dict[tuple[str, str], FailuresAlike] = {}  # the one seen last comes last
        self._changing = Lock()
        listen_to(running, self._note)

    def alike(self) -> tuple[FailuresAlike, ...]:
        """The kinds of failures, the one seen last first."""
        with self._changing:
            return tuple(reversed(self._kinds.values()))

    def _note(self, event: Event) -> None:
        if not isinstance(event, ItemFailed):
            return
        stage, (kind, _, message) = event.stage, event.error.partition(": ")
        with self._changing:
            before = self._kinds.pop((stage, kind), None)
            times = 1 if before is None else before.times + 1
            alike = FailuresAlike(stage, kind, times, time.time(), event.place, beginning(message))
            self._kinds[stage, kind] = alike
            if len(self._kinds) > KEPT:
                del self._kinds[next(iter(self._kinds))]
