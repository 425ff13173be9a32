"""Trace context (W3C): what is made of a message, and put into a queue, belongs to the same trace as the message.

Nothing is kept on the way: tickets know the trace of their items, and are looked up when something is put, among those
that the worker handles at that moment. So a task that goes on after its handler has returned finds those of a later
item, or none.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..core.tracked import NO_TRACE, shared_trace
from ..run.intake import tickets_in_flight

__all__ = ["current_trace", "current_traces"]


def current_trace() -> Mapping[str, str]:
    """That of the item whose handler calls this; of several items, the one that all share that have tickets."""
    return shared_trace([ticket.trace for ticket in tickets_in_flight() if ticket is not None])


def current_traces() -> list[Mapping[str, str]]:
    """Those of the items that the calling handler has got, in their order; none outside a run that has tickets."""
    return [NO_TRACE if ticket is None else ticket.trace for ticket in tickets_in_flight()]
