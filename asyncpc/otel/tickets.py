"""``Traced``: the ticket of an item that is traced, in one stage after the other.

It stands before the ticket of whoever else waits for the item, and passes everything on to that. What a stage makes of
the item travels with its ticket, so the next stage knows which span comes before its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any, Final, Protocol

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span

from ..core.seams import Call, Takes, Ticket
from ..core.tracked import JointTicket
from ..failure import KeptFailure
from .spans import headers_of

__all__ = ["MOST_LINKS", "Step", "Traced", "traced_in"]

MOST_LINKS: Final = 128
"""As many as OpenTelemetry keeps of a span by default."""


class Step(Protocol):
    """What a stage does with what it took at once."""

    def attempt(self, call: Call, taken: Any, /) -> Awaitable[Any]:
        """Make one attempt, with the span as the current one."""
        ...

    def over(self, span: Span, error: BaseException | None, /) -> None:
        """The span of one item has to end, with the error that the item failed with if it has."""


class Traced:
    """See the module."""

    __slots__ = ("_headers", "context", "span", "step", "ticket")

    def __init__(self, ticket: Ticket | None, context: Context) -> None:
        self.ticket: Ticket | None = ticket
        """Of whoever else waits for the item."""
        self.context: Context = context
        """What spans of what is made of the item are children of."""
        self.step: Step | None = None
        """What the stage does with the item now, maybe with others; None once that is over."""
        self.span: Span = INVALID_SPAN
        """That of the stage, while there is such a step."""
        self._headers: Mapping[str, str] | None = None

    @property
    def takes_failures(self) -> Takes:
        """As whoever else waits for the item says."""
        return "none" if self.ticket is None else self.ticket.takes_failures

    @property
    def wants_value(self) -> bool:
        """If whoever else waits does."""
        return self.ticket is not None and self.ticket.wants_value

    @property
    def trace(self) -> Mapping[str, str]:
        """The span of the stage."""
        if self._headers is None:
            self._headers = headers_of(self.context)
        return self._headers

    def end(self, error: BaseException | None) -> None:
        """End the span of the stage, once."""
        step, self.step = self.step, None
        if step is not None:
            step.over(self.span, error)

    def hold(self, more: int = 1) -> None:
        """Pass it on, as the following."""
        if self.ticket is not None:
            self.ticket.hold(more)

    def for_fed(self) -> Traced:
        """What is fed belongs to the same trace."""
        return Traced(None if self.ticket is None else self.ticket.for_fed(), self.context)

    def settle(self, value: Any = None) -> None:
        """See hold. It may be told of one of several values, so the stage itself ends the span."""
        if self.ticket is not None:
            self.ticket.settle(value)

    def skip(self, error: Exception) -> None:
        """See settle: a value that the next queue has dropped, say, while the handler still gives others."""
        if self.ticket is not None:
            self.ticket.skip(error)

    def fail(self, error: Exception, failure: KeptFailure) -> None:
        """See skip."""
        if self.ticket is not None:
            self.ticket.fail(error, failure)

    def stop(self, error: Exception) -> None:
        """See skip."""
        if self.ticket is not None:
            self.ticket.stop(error)

    def release(self) -> None:
        """See hold; the run is over, and its worker may have been left behind."""
        self.end(None)
        if self.ticket is not None:
            self.ticket.release()


def traced_in(ticket: Ticket) -> list[Traced]:
    """Those of a ticket, which may be of several items: as many of them as a span is linked with."""
    if type(ticket) is Traced:
        return [ticket]
    found: list[Traced] = []
    if type(ticket) is JointTicket:
        for one in ticket.tickets:
            found += traced_in(one)
            if len(found) > MOST_LINKS:
                break
    return found
