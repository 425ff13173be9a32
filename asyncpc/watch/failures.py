"""The failures of a run as its screens show them: those alike together, so that thirty alike push no other out."""

from __future__ import annotations

import time
from threading import Lock
from traceback import TracebackException
from typing import Any, Final, NamedTuple

from ..failure import KeptFailure
from ..run.running import Running, on_failure
from ..wording import beginning, place_in

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


class _Last(NamedTuple):
    """The last failure of a kind; neither its item nor its error stays alive."""

    times: int
    at: float
    message: str
    trace: TracebackException | None


class Failures:
    """Gathers the failures of one run from now on; may be asked in any thread."""

    def __init__(self, running: Running[Any, Any]) -> None:
        self._kinds: dict[tuple[str, str], _Last] = {}  # the one seen last comes last
        self._changing = Lock()
        on_failure(running, self._note)

    def alike(self) -> tuple[FailuresAlike, ...]:
        """The kinds of failures, the one seen last first."""
        with self._changing:
            kinds = list(self._kinds.items())
        return tuple(
            [
                FailuresAlike(
                    stage, kind, last.times, last.at, "" if last.trace is None else place_in(last.trace), last.message
                )
                for (stage, kind), last in reversed(kinds)
            ]
        )

    def _note(self, failure: KeptFailure) -> None:
        kind, _, message = failure.error.partition(": ")
        with self._changing:
            before = self._kinds.pop((failure.stage, kind), None)
            times = 1 if before is None else before.times + 1
            self._kinds[failure.stage, kind] = _Last(times, time.time(), beginning(message), failure.trace)
            if len(self._kinds) > KEPT:
                del self._kinds[next(iter(self._kinds))]
