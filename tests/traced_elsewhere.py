"""A handler for a process, which makes a span of its own there, as a library in it would."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

TRACER = TracerProvider().get_tracer("elsewhere")


def traced_there(n: int) -> int:
    return n


def span_there(n: int) -> tuple[int, int, int]:
    """The item, and the trace and parent of a span that is begun here; zeros if there is none."""
    with TRACER.start_as_current_span("there") as span:
        assert isinstance(span, ReadableSpan)
        return n, span.get_span_context().trace_id if span.parent else 0, span.parent.span_id if span.parent else 0


def current_here(n: int) -> int:
    """The trace that is current in a handler."""
    return trace.get_current_span().get_span_context().trace_id
