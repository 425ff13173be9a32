"""``InTrace``: lets a call in another process or interpreter belong to the trace of its item."""

from __future__ import annotations

from typing import Any, NamedTuple

from opentelemetry.context import attach, detach

from ..core.seams import Ticket
from .spans import context_of

__all__ = ["Carrying", "InTrace"]


class Carrying:
    """What goes along with calls that belong to the trace of a ticket; its headers are made when one is sent."""

    __slots__ = ("_ticket",)

    def __init__(self, ticket: Ticket) -> None:
        self._ticket = ticket

    def __call__(self, function: Any, /, *args: Any) -> Any:
        """What the function returns; over there an :class:`InTrace` makes the call."""
        return function(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return InTrace, (dict(self._ticket.trace),)


class InTrace(NamedTuple):
    """Makes a call over there, where the span of the stage here is the current one."""

    headers: dict[str, str]

    def __call__(self, function: Any, /, *args: Any) -> Any:
        """What the function returns."""
        token = attach(context_of(self.headers))
        try:
            return function(*args)
        finally:
            detach(token)
