"""Who looks on in a scenario: a tracer that counts, and a listener that may meddle. Neither may change what happens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import count
from random import Random
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    TraceFlags,
    Tracer,
    TracerProvider,
    get_current_span,
)

from asyncpc import Pipeline, Report
from asyncpc.events import (
    Event,
    ItemDropped,
    ItemFailed,
    ItemRetried,
    StateChanged,
    WorkerEnded,
    WorkerLeft,
    WorkerStarted,
)
from asyncpc.graph.pipeline import follow
from asyncpc.otel.following import Followed
from asyncpc.otel.sampling import Sampler
from asyncpc.otel.spans import Spans
from asyncpc.run.state import ADVANCES, State

from .spec import Scenario

__all__ = ["Counting", "Ears", "follow_with"]


class _Counted(NonRecordingSpan):
    def __init__(self, name: str, context: SpanContext, counting: Counting) -> None:
        super().__init__(context)
        self.name = name
        self.ends = 0
        self._counting = counting

    def end(self, end_time: int | None = None) -> None:
        self.ends += 1
        if self.ends > 1:
            self._counting.problems.append(f"the span {self.name!r} ended {self.ends} times")


class Counting(TracerProvider, Tracer):
    """Makes spans that know how often they were ended."""

    def __init__(self, problems: list[str]) -> None:
        self.spans: list[_Counted] = []
        self.problems = problems
        self._traces: dict[Any, int] = {}
        self._ids: Any = count(1)

    def get_tracer(self, *args: Any, **kwargs: Any) -> Tracer:
        return self

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        *args: Any,
        **kwargs: Any,
    ) -> Span:
        before = get_current_span(context).get_span_context()
        trace = before.trace_id if before.is_valid else next(self._ids)
        span = _Counted(name, SpanContext(trace, next(self._ids), False, TraceFlags(TraceFlags.SAMPLED)), self)
        self.spans.append(span)
        return span

    def start_as_current_span(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    @property
    def open(self) -> list[str]:
        """The names of the spans that have not ended."""
        return [span.name for span in self.spans if not span.ends]

    def look(self, where: str, item: Any, every: bool) -> None:
        """The handler of a stage has the item: what was made of one item is in one trace; ``every`` one has one."""
        trace = get_current_span().get_span_context().trace_id
        known = self._traces.setdefault(item, trace)
        if trace != known or (every and not trace):
            self.problems.append(f"{where} has {item} in the trace {trace}, and before it was {known}")


def follow_with(counting: Counting, pipeline: Pipeline[Any, Any], scenario: Scenario) -> None:
    """As ``trace()`` does, with a share that repeats."""
    sample = {"all": 1.0, "share": 0.5, "odd": _is_odd}[scenario.traced]
    sampler = Sampler(sample, Random(scenario.seed))  # type: ignore[arg-type]  # what is no bool is for the user to see
    follow(pipeline, Followed(sampler, Spans(counting, "scenario", False)))


def _is_odd(item: Any) -> Any:
    """No bool; for some items it raises."""
    return 2 // (sum(item.path) % 3) - 1


class Ears:
    """Listens to a run, and at one of its events does what was drawn."""

    def __init__(self, at: int, deed: Callable[[Event], None]) -> None:
        self.counts: Counter[type[Event]] = Counter()
        self.states: list[str] = []
        self.problems: list[str] = []
        self._at = at
        self._deed = deed

    def __call__(self, event: Event) -> None:
        self.counts[type(event)] += 1
        if isinstance(event, StateChanged):
            if State(event.state) not in ADVANCES[State(event.before)]:
                self.problems.append(f"a listener was told of {event}")
            if self.states and self.states[-1] != event.before:
                self.problems.append(f"a listener was told of {event} after {self.states}")
            self.states.append(event.state)
        if sum(self.counts.values()) == self._at:
            self._deed(event)

    def compare(self, report: Report) -> list[str]:
        """What it was told, and what the report says."""
        told = {
            "failed": (self.counts[ItemFailed], report.failed),
            "dropped": (self.counts[ItemDropped], sum(stage.dropped for stage in report.stages)),
            "retried": (self.counts[ItemRetried], sum(stage.retried for stage in report.stages)),
            "ended": (self.counts[WorkerEnded] + self.counts[WorkerLeft], self.counts[WorkerStarted]),
        }
        return [
            *self.problems,
            *(
                f"a listener was told of {heard} {what}, should be {so}"
                for what, (heard, so) in told.items()
                if heard != so
            ),
        ]
