"""Trace context (W3C): what is made of a message, and put into a queue, belongs to the same trace as the message.

Nothing is kept on the way: the headers are looked up when something is put, in the messages that the worker handles at
that moment. So a task that goes on after its handler has returned finds those of a later message, or none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from ..core.seams import Ticket
from ..core.tracked import JointTicket
from ..run.intake import tickets_in_flight
from .delivery import Delivery

__all__ = ["current_trace", "current_traces"]

Trace = Mapping[str, str]
"""``traceparent`` and, if there is one, ``tracestate``; empty without a trace."""

NO_TRACE: Final[Trace] = {}

_PARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""Of any other a receiver has to begin a trace of its own."""

_STATE: Final = re.compile(r"[\x20-\x7e]{1,512}")


def current_trace() -> Trace:
    """That of the message whose handler calls this; of several messages, the one that all share."""
    return _shared([_trace_of(ticket) for ticket in tickets_in_flight() if ticket is not None])


def current_traces() -> list[Trace]:
    """Those of the items that the calling handler has got, in their order; none outside a run that reads a queue."""
    return [_trace_of(ticket) for ticket in tickets_in_flight()]


def _trace_of(ticket: Ticket | None) -> Trace:
    if isinstance(ticket, Delivery):
        headers = ticket.message.headers
        return _checked(headers) if "traceparent" in headers else NO_TRACE
    if isinstance(ticket, JointTicket):  # of what a batch has given
        return _shared([_trace_of(one) for one in ticket.tickets])
    return NO_TRACE


def _shared(traces: list[Trace]) -> Trace:
    first = traces[0] if traces else NO_TRACE
    return first if all(one == first for one in traces) else NO_TRACE


def _checked(headers: Mapping[str, str]) -> Trace:
    """What is passed on of headers that anyone may have sent."""
    parent, state = headers["traceparent"], headers.get("tracestate", "")
    if not _PARENT.fullmatch(parent):
        return NO_TRACE
    return {"traceparent": parent, "tracestate": state} if _STATE.fullmatch(state) else {"traceparent": parent}
