"""``Failures``: the last items that failed, those alike together, for whoever shows them to people."""

from __future__ import annotations

import time
from typing import Final, NamedTuple

from ..events import Event, ItemFailed
from ..wording import redacted, shown

__all__ = ["Alike", "Failures"]

MOST: Final = 100
"""Kinds of failures that are kept: those seen last."""


class Alike(NamedTuple):
    """Failures of one kind in one stage."""

    stage: str
    kind: str
    """The type of the error."""
    times: int
    first: float
    """When it was seen first: seconds since 1970."""
    last: float
    """When it was seen last."""
    error: str
    """Type and message of the last one, which may tell of the item."""
    item: str
    """The last item, as far as a line shows it."""


class Failures:
    """A listener that keeps failures by stage and kind, so that many alike push no other one out."""

    def __init__(self) -> None:
        self._alike: dict[tuple[str, str], Alike] = {}

    def __call__(self, event: Event) -> None:
        """Keep a failure; forget the kind that was not seen for the longest time if there are too many."""
        if not isinstance(event, ItemFailed):
            return
        kind, now = event.error.partition(":")[0], time.time()
        before = self._alike.pop((event.stage, kind), None)
        times, first = (1, now) if before is None else (before.times + 1, before.first)
        error, item = redacted(event.error), shown(event.item)
        self._alike[event.stage, kind] = Alike(event.stage, kind, times, first, now, error, item)
        if len(self._alike) > MOST:
            del self._alike[next(iter(self._alike))]

    def latest(self) -> tuple[Alike, ...]:
        """The kinds of failures, the one seen last first."""
        return tuple(reversed(self._alike.values()))
