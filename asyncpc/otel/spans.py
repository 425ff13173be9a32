"""``Spans``: makes spans of what stages do, with the names and attributes of OpenTelemetry's messaging conventions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    get_current_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..core.plan import Handler
from ..logs import WARNING, log
from ..wording import described, summary, traceback_of

__all__ = ["Spans", "context_of", "headers_of", "span_context_of"]

_W3C: Final = TraceContextTextMapPropagator()


def context_of(headers: Mapping[str, str]) -> Context:
    """The context that the headers of a message name."""
    return _W3C.extract(headers, Context())


def headers_of(context: Context) -> dict[str, str]:
    """The headers for what is made in a context."""
    headers: dict[str, str] = {}
    _W3C.inject(headers, context)
    return headers


def span_context_of(context: Context | None = None) -> SpanContext:
    """That of the span in a context; by default the current one."""
    return get_current_span(context).get_span_context()


class Spans:
    """Makes the spans of one pipeline; ``errors`` says whether they show messages and tracebacks.

    A sampler or processor of the user that raises costs its spans, and nothing else.
    """

    def __init__(self, tracer: Tracer, pipeline: str, errors: bool) -> None:
        self._tracer = tracer
        self._pipeline = pipeline
        self._errors = errors
        self._has_failed = False

    def start(self, handler: Handler, parent: Context, links: Sequence[SpanContext], items: int) -> Span:
        """The span of a stage, for one item; ``items`` is how many its call gets."""
        operation, kind = ("send", SpanKind.PRODUCER) if handler.sends_to else ("process", SpanKind.CONSUMER)
        attributes: dict[str, str | int] = {
            "messaging.system": handler.sends_to or "asyncpc",
            "messaging.operation.name": operation,
            "messaging.operation.type": operation,
            "messaging.destination.name": handler.name,
            "asyncpc.pipeline": self._pipeline,
        }
        if handler.takes_lists:
            attributes["messaging.batch.message_count"] = items
        with self._harmless():
            return self._tracer.start_span(
                f"{operation} {handler.name}", parent, kind, attributes, [Link(one) for one in links]
            )
        return NonRecordingSpan(span_context_of(parent))  # so later spans still belong to the trace

    def retry(self, span: Span, attempt: int, error: BaseException) -> None:
        """Another call is made, after one that failed."""
        with self._harmless():
            span.add_event("retry", {"asyncpc.attempt": attempt, "error.type": _type_of(error)})

    def end(self, span: Span, error: BaseException | None) -> None:
        """End it, with the error that the item failed with if it has."""
        with self._harmless():
            if error is not None:
                self._show(span, error)
            span.end()

    def _show(self, span: Span, error: BaseException) -> None:
        kind = _type_of(error)
        span.set_attribute("error.type", kind)
        if self._errors:
            told: dict[str, Any] = {
                "exception.type": kind,
                "exception.message": described(error).partition(": ")[2],
                "exception.stacktrace": traceback_of(error),
            }
            span.add_event("exception", told)
        span.set_status(Status(StatusCode.ERROR, described(error) if self._errors else kind))

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        """What only looks on cannot disturb a run: what goes wrong is logged, once."""
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            if not self._has_failed:
                self._has_failed = True
                message = "a span is missing or not complete, as OpenTelemetry raised %s"
                log(WARNING, message, summary(error), error=error, pipeline=self._pipeline)


def _type_of(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
