"""``Followed``: follows sampled items through the stages of a run, with a span for each item and stage.

A span lasts from when a worker takes the item until it has been handled, with all attempts, or has failed, or was let
go. Each attempt has a context of its own, in which the span is the current one, so the worker's own is not touched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from contextvars import copy_context
from typing import Any

from opentelemetry.context import Context, attach
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, set_span_in_context

from ..core.channel import Ended
from ..core.emit import Refused
from ..core.isolation import InContext
from ..core.seams import Call, Ticket
from ..core.stage import ConsumerWorker
from ..core.tracked import Tracked
from ..core.worker import attempt
from ..offload.carried import carried
from ..options.batch import Batched
from .carried import Carrying
from .sampling import Sampler
from .spans import Spans, context_of, span_context_of
from .tickets import MOST_LINKS, Step, Traced, traced_in

__all__ = ["Followed"]


class Followed:
    """What a pipeline's runs are followed with; it keeps nothing of a run."""

    def __init__(self, sampler: Sampler, spans: Spans) -> None:
        self._sampler = sampler
        self._spans = spans

    # -- where items come in ----------------------------------------------------------------------

    @property
    def looks_at_each(self) -> bool:
        """See ``Following``: a function of an item is asked about each."""
        return self._sampler.function is not None

    def gap(self) -> float:
        """See ``Following``."""
        return self._sampler.gap()

    def begin(self, item: Any) -> Tracked:
        """See ``Following``: it begins a trace."""
        return _begun(item, Context())

    def judge(self, item: Any) -> Any:
        """See ``Following``: it begins a trace, unless its message brings one."""
        headers = item.ticket.trace if type(item) is Tracked else {}
        return self._judged(item, context_of(headers) if headers else Context())

    def enter(self, item: Any) -> Any:
        """See ``Following``: an item that is put in belongs to the trace of the caller, if there is one."""
        current = span_context_of()
        if not current.is_valid:
            return self._judged(item, Context())
        return self._judged(item, set_span_in_context(NonRecordingSpan(current), Context()))

    def _judged(self, item: Any, parent: Context) -> Any:
        known = span_context_of(parent)
        plain = item.item if type(item) is Tracked else item
        sampled = known.trace_flags.sampled if known.is_valid else self._sampler.takes(plain)
        return _begun(item, parent) if sampled else item

    # -- in a stage -------------------------------------------------------------------------------

    def handling(self, call: Call, untracked: Call, worker: ConsumerWorker) -> Call:
        """See ``Following``."""

        def begin(item: Any) -> Awaitable[Any]:
            if type(item) is not Tracked:
                return untracked(item)
            return self._handle(worker, [item], item, call) if traced_in(item.ticket) else call(item)

        def begin_batch(taken: Any) -> Awaitable[Any]:
            traced = [one for one in taken if type(one) is Tracked and traced_in(one.ticket)]
            return self._handle(worker, traced, taken, call) if traced else untracked(taken)

        return begin_batch if worker.stage.handler.takes_lists else begin

    async def _handle(self, worker: ConsumerWorker, traced: Sequence[Tracked], taken: Any, call: Call) -> Any:
        step = _Step(self._spans, worker, traced, len(taken) if worker.stage.handler.takes_lists else 1)
        try:
            value = await attempt(worker, taken, call)
        except asyncio.CancelledError:
            step.end(None)
            raise
        except Exception as error:
            step.end(error)
            raise
        except BaseException as interrupt:
            step.end(interrupt)
            raise
        step.end(step.error)  # a policy may have dealt with it
        return value

    def has_handled(self, taken: Any) -> bool:
        """See ``Following``."""
        items = [taken] if type(taken) is Tracked else taken if isinstance(taken, Batched) else []
        tickets = [ticket for item in items if type(item) is Tracked for ticket in traced_in(item.ticket)]
        return bool(tickets) and all(ticket.step is None for ticket in tickets)

    def attempt(self, call: Call, worker: ConsumerWorker) -> Call:
        """See ``Following``."""
        several = worker.stage.handler.takes_lists

        def begin(taken: Any) -> Awaitable[Any]:
            step = _step_of(taken) if several else taken.ticket.step if _is_traced(taken) else None
            return call(taken) if step is None else step.attempt(call, taken)

        return begin


class _Step:
    """What a stage does with what it took at once; the first of the items that are traced stands for all."""

    __slots__ = ("_attempts", "_context", "_spans", "_tickets", "_worker", "error")

    def __init__(self, spans: Spans, worker: ConsumerWorker, traced: Sequence[Tracked], items: int) -> None:
        self._spans = spans
        self._worker = worker
        self._attempts = 0
        self.error: BaseException | None = None
        """What the last attempt failed with."""
        self._tickets: list[Traced] = []
        before = [traced_in(one.ticket) for one in traced]
        others = [one for more in before[1:] for one in more]  # the first item's trace has what the handler does
        for item, (parent, *joined) in zip(traced, before, strict=True):
            self._begin(item, parent, _links([*joined, *(others or self._tickets[:1])]), items)
            others = []
        self._context = self._tickets[0].context

    def _begin(self, item: Tracked, before: Traced, links: Sequence[SpanContext], items: int) -> None:
        span = self._spans.start(self._worker.stage.handler, before.context, links, items)
        behind: Ticket | None = item.ticket.ticket if type(item.ticket) is Traced else item.ticket
        item.ticket = ticket = Traced(behind, set_span_in_context(span, Context()))
        ticket.step, ticket.span = self, span
        self._tickets.append(ticket)

    async def attempt(self, call: Call, taken: Any) -> Any:
        """Make one attempt, in a context of its own."""
        self._attempts += 1
        if self.error is not None:
            for ticket in self._tickets:
                if ticket.step is not None:
                    self._spans.retry(ticket.span, self._attempts, self.error)
        context = copy_context()
        context.run(self._enter)
        self._worker.inside = context
        try:
            value = await InContext(call(taken), context)
        except BaseException as error:
            self.error = error.error if isinstance(error, (Refused, Ended)) else error
            raise
        self.error = None
        return value

    def _enter(self) -> None:
        attach(self._context)
        carried.set(Carrying(self._tickets[0]))

    def end(self, error: BaseException | None) -> None:
        """End the spans that have not ended yet."""
        for ticket in self._tickets:
            ticket.end(error)

    def over(self, span: Span, error: BaseException | None) -> None:
        """See ``Step``."""
        self._spans.end(span, error)


def _begun(item: Any, parent: Context) -> Tracked:
    if type(item) is Tracked:
        item.ticket = Traced(item.ticket, parent)
        return item
    return Tracked(item, Traced(None, parent))


def _links(tickets: Sequence[Traced]) -> list[SpanContext]:
    """To the spans before, as far as there are any."""
    return [known for one in tickets[:MOST_LINKS] if (known := span_context_of(one.context)).is_valid]


def _is_traced(taken: Any) -> bool:
    return type(taken) is Tracked and type(taken.ticket) is Traced


def _step_of(taken: Any) -> Step | None:
    """Of what a worker took at once, if any of it is traced."""
    return next((one.ticket.step for one in taken if _is_traced(one) and one.ticket.step is not None), None)
