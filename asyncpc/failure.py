"""``Failure``: what is known of an item that failed."""

from __future__ import annotations

from collections.abc import Sequence
from traceback import TracebackException
from typing import Any, Final, NamedTuple

from .wording import described, leave_out_ours, place_in, redacted

__all__ = ["FAILURES_KEPT", "HISTORY_KEPT", "LONGEST_EARLIER", "Failure", "KeptFailure"]

FAILURES_KEPT: Final = 100
"""How many failures a report keeps: the last ones."""

HISTORY_KEPT: Final = 20
"""How many earlier errors of an item its failure keeps: the last ones."""

LONGEST_EARLIER: Final = 1000
"""Characters that are kept of each of them."""


class Failure(NamedTuple):
    """An item that failed, for ``on_error=`` and the report; its error is kept as text, so nothing else stays alive."""

    item: Any
    """The item as the stage got it."""
    error: str
    """Type and message."""
    attempts: int
    """How many calls were made with the item."""
    stage: str
    """The name of the stage in which it failed."""
    traceback: str
    """The traceback of the last call, from your own code on."""
    history: tuple[str, ...] = ()
    """What the earlier calls with the item failed with, the oldest first: type and message of at most the last 20."""


class KeptFailure(NamedTuple):
    """A failure for the report. Its traceback becomes text only when somebody reads it, since that reads files."""

    item: Any
    error: str
    attempts: int
    stage: str
    trace: TracebackException | None
    history: tuple[str, ...] = ()

    @classmethod
    def of(cls, item: Any, error: BaseException, attempts: int, stage: str, history: Sequence[str] = ()) -> KeptFailure:
        """Keep what there is to say of a failed item; neither the error nor its frames are kept alive."""
        try:
            trace = TracebackException.from_exception(error, lookup_lines=False)
            leave_out_ours(trace)
        except Exception:  # its class may forbid that
            trace = None
        return cls(item, described(error), attempts, stage, trace, tuple(history))

    @property
    def place(self) -> str:
        """Where the error was raised: ``app.py:12 in fetch``; empty if unknown."""
        return "" if self.trace is None else place_in(self.trace)

    def failure(self) -> Failure:
        """As the report shows it."""
        traceback = "" if self.trace is None else redacted("".join(self.trace.format()))
        return Failure(*self[:4], traceback, self.history)
