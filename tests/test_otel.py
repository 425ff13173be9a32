"""Traces: a span for each sampled item and stage, in one trace wherever the item goes; none is left open."""

from __future__ import annotations

import asyncio
import gc
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from select import select
from threading import Thread, get_ident
from typing import Any

import pytest
from opentelemetry import trace as otel
from opentelemetry._logs import SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import CollectorRegistry
from remote import servers
from spy import Flaky, Sink
from support import both
from traced_elsewhere import span_there

from asyncpc import (
    Batch,
    DefinitionError,
    Pipeline,
    PipelineError,
    QueueShutDown,
    Retry,
    broadcast,
    consumer,
    feed,
    producer,
    remote_queue,
    route,
    run,
    source,
    testing,
)
from asyncpc.core.stage import RunLinks, Staff
from asyncpc.core.tracked import Tracked
from asyncpc.core.waiting import nobody
from asyncpc.metrics import Metrics as Prometheus
from asyncpc.otel import Metrics, OtelListener, trace
from asyncpc.otel.metrics import TOGETHER
from asyncpc.run import looks
from asyncpc.run.events import Events
from asyncpc.watch.kinds import KINDS


class Seen(SpanProcessor):
    """The spans that have begun, and those that have ended, each in its order."""

    def __init__(self) -> None:
        self.open: list[Span] = []
        self.ended: list[ReadableSpan] = []
        self.provider = TracerProvider()
        self.provider.add_span_processor(self)
        self.tracer = self.provider.get_tracer("test")

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        self.open.append(span)

    def on_end(self, span: ReadableSpan) -> None:
        self.open = [one for one in self.open if one.context.span_id != known(span).span_id]
        self.ended.append(span)

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.ended if span.name == name]

    def only(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span

    @property
    def traces(self) -> dict[int, list[str]]:
        """The names of the spans of each trace, in the order of their ends."""
        found: dict[int, list[str]] = {}
        for span in self.ended:
            found.setdefault(known(span).trace_id, []).append(span.name)
        return found


def known(span: ReadableSpan) -> otel.SpanContext:
    context = span.get_span_context()
    assert context is not None
    return context


def follows(span: ReadableSpan, before: ReadableSpan) -> bool:
    """Whether it is a child of the other, and in its trace."""
    own, other = known(span), known(before)
    return span.parent is not None and (own.trace_id, span.parent.span_id) == (other.trace_id, other.span_id)


def linked(span: ReadableSpan) -> set[int]:
    """The spans that it is linked with."""
    return {link.context.span_id for link in span.links}


@pytest.fixture
def seen() -> Iterator[Seen]:
    """What was traced; no span is left open at the end of any test."""
    seen = Seen()
    yield seen
    assert [span.name for span in seen.open] == []


def traced(pipeline: Pipeline[Any, Any], seen: Seen, sample: Any = 1.0, **options: Any) -> Pipeline[Any, Any]:
    trace(pipeline, sample=sample, tracer_provider=seen.provider, **options)
    return pipeline


def double(**options: Any) -> Any:
    @consumer(name="double", **options)  # type: ignore[untyped-decorator]  # which options, only the test knows
    async def double(n: int) -> int:
        return 2 * n

    return double


# -- spans of stages ------------------------------------------------------------------------------


@both
def test_ten_items_give_ten_traces(seen: Seen, eager: bool) -> None:
    """Protects the shape of a trace: one for each item, and the span of a stage is a child of the one before."""
    sink = Sink("end")
    report = testing.run(traced(source(range(10)) >> double() >> sink.consumer, seen), eager=eager)
    assert report.done == 10
    assert sink.items == [2 * n for n in range(10)]
    assert list(seen.traces.values()) == [["process double", "process end"]] * 10
    for first, second in zip(seen.named("process double"), seen.named("process end"), strict=True):
        assert first.parent is None
        assert follows(second, first)


def test_spans_have_the_names_and_attributes_of_the_conventions(seen: Seen) -> None:
    """Protects dashboards: OpenTelemetry's conventions for messaging, and what came from which pipeline."""
    batch = consumer(name="double", batch=Batch(5, within=0))(_rows)
    testing.run(traced(Pipeline(source([1]), batch, name="orders"), seen))
    (span,) = seen.ended
    assert (span.name, span.kind, span.status.status_code) == ("process double", SpanKind.CONSUMER, StatusCode.UNSET)
    assert span.attributes == {
        "messaging.system": "asyncpc",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "double",
        "messaging.batch.message_count": 1,
        "asyncpc.pipeline": "orders",
    }


def test_a_retry_is_an_event_and_a_failure_the_status(seen: Seen) -> None:
    """Protects who looks for what an item cost; what it failed with is told by its type, without the payload in it."""
    flaky = consumer(name="flaky", retry=Retry(3, wait=lambda _: 60.0), on_error="skip")(Flaky(times=2))
    testing.run(traced(source(["fine"]) >> flaky, seen))
    (span,) = seen.ended
    assert span.status.status_code is StatusCode.UNSET
    assert [(event.name, event.attributes) for event in span.events] == [
        ("retry", {"asyncpc.attempt": 2, "error.type": "ValueError"}),
        ("retry", {"asyncpc.attempt": 3, "error.type": "ValueError"}),
    ]
    assert span.end_time is not None

    @consumer(name="fails", on_error="skip")
    async def fails(item: str) -> None:
        raise ValueError(item)

    testing.run(traced(source(["secret"]) >> fails, seen))
    told = seen.only("process fails")
    assert (told.status.status_code, told.status.description) == (StatusCode.ERROR, "ValueError")
    assert told.attributes is not None
    assert told.attributes["error.type"] == "ValueError"
    assert "secret" not in told.to_json()


def test_errors_are_shown_on_request_without_passwords(seen: Seen) -> None:
    """Protects who debugs: message and traceback are there when asked for, but no password in a URL."""

    @consumer(name="fails", on_error="skip")
    async def fails(item: str) -> None:
        raise ValueError(f"cannot reach {item}")

    testing.run(traced(source(["https://me:secret@host"]) >> fails, seen, errors=True))
    (span,) = seen.ended
    assert span.status.description == "ValueError: cannot reach https://me:***@host"
    (event,) = span.events
    assert event.attributes is not None
    assert event.attributes["exception.message"] == "cannot reach https://me:***@host"
    assert "in fails" in str(event.attributes["exception.stacktrace"])
    assert "secret" not in span.to_json()


@pytest.mark.parametrize("options", [{}, {"concurrency": 3}, {"ordered": True}, {"key": lambda n: n % 2}])
@both
def test_each_way_of_keeping_order_keeps_traces_apart(seen: Seen, options: Any, eager: bool) -> None:
    """Protects items that overtake each other: each goes on in its own trace."""
    last: ContextVar[int] = ContextVar("last", default=-1)
    found: dict[int, int] = {}

    @consumer(name="slow", **options)  # type: ignore[untyped-decorator]  # which options, only the test knows
    async def slow(n: int) -> int:
        assert last.get() == -1  # what a handler sets is gone with its item
        last.set(n)
        await asyncio.sleep(n % 3)
        found[n] = otel.get_current_span().get_span_context().trace_id
        return n

    @consumer(name="end")
    async def end(n: int) -> None:
        assert otel.get_current_span().get_span_context().trace_id == found[n]

    testing.run(traced(source(range(9)) >> slow >> end, seen), eager=eager)
    assert list(seen.traces.values()) == [["process slow", "process end"]] * 9
    assert otel.get_current_span() is otel.INVALID_SPAN


def test_values_of_a_generator_follow_their_item(seen: Seen) -> None:
    """Protects fan-out: all that was made of an item is in its trace, in order or not."""

    async def many(n: int) -> Any:
        for value in range(n):
            yield value

    for ordered in (False, True):
        testing.run(
            traced(source([0, 2, 3]) >> consumer(name="many", ordered=ordered)(many) >> Sink("end").consumer, seen)
        )
    assert sorted(names.count("process end") for names in seen.traces.values()) == [0, 0, 2, 2, 3, 3]
    assert all(names.count("process many") == 1 for names in seen.traces.values())


def test_branches_belong_to_the_trace(seen: Seen) -> None:
    """Protects broadcasts and routes: the span of the branching is followed by that of each branch it chose."""
    left, right = Sink("left"), Sink("right")
    testing.run(
        traced(source([1]) >> double() >> broadcast(left.consumer, right.consumer) >> Sink("end").consumer, seen)
    )
    (names,) = seen.traces.values()
    assert Counter(names)["process end"] == 2
    for branch in "left", "right":
        assert follows(seen.only(f"process {branch}"), seen.only("process broadcast"))
    seen.ended.clear()
    testing.run(traced(source([1, 2]) >> route(lambda n: n == 1, {True: left.consumer, False: right.consumer}), seen))
    assert sorted(seen.traces.values()) == [["process route", "process left"], ["process route", "process right"]]


def test_a_batch_links_the_traces_of_its_items(seen: Seen) -> None:
    """Protects batches: each item keeps its trace; the first one's has what the handler does, the others lead to it."""
    inner: list[otel.SpanContext] = []

    @consumer(name="batch", batch=Batch(3, within=1.0))
    async def batch(rows: list[int]) -> list[int]:
        inner.append(otel.get_current_span().get_span_context())
        return rows

    testing.run(traced(source(range(3)) >> double() >> batch >> Sink("end").consumer, seen))
    assert list(map(sorted, seen.traces.values())) == [["process batch", "process double", "process end"]] * 3
    doubles, batches, ends = (seen.named(f"process {name}") for name in ("double", "batch", "end"))
    assert known(batches[0]).span_id == inner[0].span_id
    assert linked(batches[0]) == {known(one).span_id for one in doubles[1:]}
    assert linked(batches[1]) == linked(batches[2]) == {known(batches[0]).span_id}
    assert all(map(follows, batches, doubles))
    assert all(map(follows, ends, batches))
    assert all(one.attributes is not None and one.attributes["messaging.batch.message_count"] == 3 for one in batches)


def test_what_a_batch_generates_is_linked_with_all_its_items(seen: Seen) -> None:
    """Protects joins: a value made of several items belongs to the trace of the first, with links to the others."""

    @consumer(name="sums", batch=Batch(3, within=1.0))
    async def sums(rows: list[int]) -> Any:
        yield sum(rows)

    testing.run(traced(source(range(3)) >> sums >> Sink("end").consumer, seen))
    end, made = seen.only("process end"), seen.named("process sums")
    assert follows(end, made[0])
    assert linked(end) == {known(one).span_id for one in made[1:]}


def test_only_the_sampled_items_of_a_batch_have_spans(seen: Seen) -> None:
    """Protects the ordinary case, one of a hundred: it is followed through the batch, the others are not."""
    batch = consumer(name="batch", batch=Batch(10, within=1.0))(_rows)
    testing.run(traced(source(range(20)) >> batch >> Sink("end").consumer, seen, lambda n: n == 13))
    assert list(seen.traces.values()) == [["process batch", "process end"]]


async def _rows(rows: list[int]) -> list[int]:
    return rows


def test_what_the_last_batch_returns_matters_as_little_as_untraced(seen: Seen) -> None:
    """Protects a handler that returns how many rows it wrote: tracing asks for nothing that the run does not."""

    @consumer(name="count", batch=Batch(3, within=1.0))
    async def count(rows: list[int]) -> Any:
        return rows * 2

    assert testing.run(traced(source(range(3)) >> count, seen)).done == 3


def test_who_is_told_of_a_refused_value_sees_the_context_of_its_item(seen: Seen) -> None:
    """Protects on_error= where a batch gives values to a stage that refuses one: its call has not returned yet."""
    found: list[int] = []

    def told(failure: object) -> None:
        found.append(otel.get_current_span().get_span_context().trace_id)

    batch = consumer(name="batch", batch=Batch(3, within=1.0), on_error=told)(_rows)
    keyed = consumer(name="keyed", key=lambda n: 1 / n)(_nothing_at_all)
    assert testing.run(traced(source(range(3)) >> batch >> keyed, seen)).failed == 1
    assert found == [next(iter(seen.traces))]


def test_a_batch_that_fails_ends_all_spans(seen: Seen) -> None:
    """Protects split batches: each item's first span has failed, and the item that is fine has another one."""

    @consumer(name="batch", batch=Batch(3, within=1.0, split_on_error=True), on_error="skip")
    async def batch(rows: list[int]) -> None:
        if 1 in rows:
            raise ValueError

    testing.run(traced(source(range(3)) >> batch, seen))
    status = Counter(span.status.status_code for span in seen.ended)
    assert status == {StatusCode.ERROR: 4, StatusCode.UNSET: 2}
    assert len(seen.traces) == 3


def test_dead_letters_and_what_is_fed_belong_to_the_trace(seen: Seen) -> None:
    """Protects who asks what became of a failed item: its trace goes on where its failure is handled."""
    letters = Sink("letters")

    @consumer(name="step", on_error=letters.consumer)
    async def step(n: int) -> None:
        if n == 3:
            raise ValueError
        feed(n + 1)

    testing.run(traced(source([1]) >> step, seen))
    assert list(seen.traces.values()) == [["process step"] * 3 + ["process letters"]]
    failed = seen.named("process step")[-1]
    assert failed.status.status_code is StatusCode.ERROR
    assert follows(seen.only("process letters"), failed)


@pytest.mark.parametrize("options", [{"retry": Retry(3, wait=lambda _: 0.0)}, {}])
@pytest.mark.parametrize("batch", [None, Batch(1)])
def test_what_becomes_of_a_value_is_no_end_of_the_item_it_was_made_of(seen: Seen, options: Any, batch: Any) -> None:
    """Protects a generator whose next queue drops a value: its span goes on, and so do its retries and its policy."""
    calls: list[object] = []

    @consumer(name="many", on_error="skip", batch=batch, **options)
    async def many(given: object) -> Any:
        calls.append(given)
        for value in range(5):
            yield value
        await asyncio.sleep(1.0)
        if len(calls) == 1:
            raise ValueError

    slow = consumer(name="slow", maxsize=1, overflow="drop_newest")(_nothing_at_all)
    report = testing.run(traced(source([1]) >> many >> slow, seen))
    assert (len(calls), report.failed) == ((2, 0) if options else (1, 1))
    span = seen.only("process many")
    assert span.end_time is not None
    assert span.start_time is not None
    assert [event.name for event in span.events] == ["retry"] * len(options)
    assert span.status.status_code is (StatusCode.UNSET if options else StatusCode.ERROR)
    assert span.status.description == (None if options else "ValueError")


# -- where items come in --------------------------------------------------------------------------


@both
def test_items_that_are_not_sampled_carry_nothing(seen: Seen, eager: bool) -> None:
    """Protects the others: no ticket, no span, no context; the sampled one in the middle changes nothing for them."""
    kept: list[Any] = []
    found: list[otel.Span] = []

    @consumer(name="look", maxsize=100, concurrency=3)
    async def look(n: int) -> int:
        found.append(otel.get_current_span())
        await asyncio.sleep(0)
        return n

    pipeline = traced(source(range(50)) >> look >> Sink("end").consumer, seen, lambda n: n == 25)

    async def main() -> None:
        async with pipeline as running:
            run = running._run
            while running.statistics().stages[1].done < 50:
                kept.extend(item for stage in run.stages for item in stage.inbox.items)
                await asyncio.sleep(0)

    testing.run(main(), eager=eager)
    tracked = {item.item for item in kept if type(item) is Tracked}
    assert tracked <= {25}
    assert len(kept) > 20
    assert sum(span is not otel.INVALID_SPAN for span in found) == 1
    assert list(seen.traces.values()) == [["process look", "process end"]]


@both
def test_a_share_of_the_items_is_sampled(seen: Seen, eager: bool) -> None:
    """Protects the bill of whoever keeps the traces: a share is a share, from a source of each kind and by put()."""

    @producer
    async def numbers() -> Any:
        for n in range(20_000):
            yield n

    for first in (source(range(20_000)), numbers):
        seen.ended.clear()
        testing.run(traced(first >> double(), seen, 0.01), eager=eager)
        assert 120 <= len(seen.ended) <= 290
    seen.ended.clear()

    async def main() -> None:
        async with traced(double() >> Sink("end").consumer, seen, 0.1) as running:
            for n in range(2_000):
                await running.put(n)

    testing.run(main(), eager=eager)
    assert 130 <= len(seen.named("process end")) <= 280


@pytest.mark.parametrize("maxsize", [0, 1, 2, 128])
def test_every_item_or_none_is_sampled_whatever_the_bound(seen: Seen, maxsize: int) -> None:
    """Protects the source's two ways, with room and without: none is passed over, and none without being asked for."""
    for sample, spans in ((0.0, 0), (1.0, 300), (lambda n: n % 3 == 0, 100)):
        seen.ended.clear()
        testing.run(traced(Pipeline(source(range(300)), double(), maxsize=maxsize), seen, sample))
        assert len(seen.ended) == spans


def test_the_caller_of_put_decides_if_it_is_traced(seen: Seen) -> None:
    """Protects a web handler: what it puts belongs to the trace of its request, if that one is sampled."""

    async def main() -> None:
        async with traced(double() >> Sink("end").consumer, seen, 0.0) as running:
            with seen.tracer.start_as_current_span("request"):
                await running.put(1)
                running.put_nowait(2)
                assert await running.call(3) == ("end", 6)
            ignored = otel.SpanContext(5, 6, is_remote=False)  # its flag says that it is not sampled
            with otel.use_span(otel.NonRecordingSpan(ignored)):
                await running.put(4)
            await running.put(5)
        assert running.report is not None
        assert running.report.done == 5

    testing.run(main())
    (names,) = seen.traces.values()
    assert Counter(names) == {"process double": 3, "process end": 3, "request": 1}


def test_an_item_that_is_put_from_a_thread_is_sampled(seen: Seen) -> None:
    """Protects put_from_thread and call_from_thread, which look at the context of their own thread."""

    async def main() -> None:
        async with traced(double() >> Sink("end").consumer, seen, 0.0) as running:

            def work() -> None:
                with seen.tracer.start_as_current_span("thread"):
                    running.put_from_thread(1)
                    running.call_from_thread(2)

            await asyncio.to_thread(work)

    asyncio.run(main())
    (names,) = seen.traces.values()
    assert Counter(names) == {"process double": 2, "process end": 2, "thread": 1}


def test_the_first_item_that_is_followed_may_come_from_a_thread() -> None:
    """Protects put_from_thread: while it looks for the workers that are to look for tickets, others may start."""
    staff, seen = Staff(1), list[object]()

    class Worker:
        def __setattr__(self, name: str, value: bool) -> None:
            seen.append(self)
            staff.workers[Worker()] = None  # type: ignore[index]  # as the loop does at any moment

    workers = [Worker(), Worker()]
    staff.workers.update(dict.fromkeys(workers))  # type: ignore[arg-type]
    staff.interrupt()
    assert seen == workers


def test_a_worker_in_the_midst_of_items_looks_for_the_first_that_is_followed(seen: Seen) -> None:
    """Protects its handler, which would get the ticket: a worker takes several items before it looks at anything."""
    items: list[object] = []
    second_came, third_comes = asyncio.Event(), asyncio.Event()

    async def numbers() -> AsyncIterator[int]:
        yield 0
        yield 1
        await second_came.wait()
        yield 2
        third_comes.set()

    @consumer
    async def end(n: int) -> None:
        items.append(n)
        if n == 1:
            second_came.set()
            await third_comes.wait()

    assert testing.run(traced(source(numbers()) >> end, seen, lambda n: n == 2)).done == 3
    assert items == [0, 1, 2]
    assert len(seen.traces) == 1


def test_no_thread_puts_an_item_that_is_followed_before_all_workers_know() -> None:
    """Protects two threads that put at once: a worker that does not look would hand the ticket to the handler."""
    links = RunLinks(False, nobody, nobody, Events("p", (), nobody))
    seen: list[int] = []

    class First(Staff):
        def interrupt(self) -> None:
            if get_ident() == main:  # the other thread comes while this one is at work
                other = Thread(target=links.track)
                other.start()
                other.join()
                seen.append(last.changes)

    main, last = get_ident(), Staff(1)
    links.staffs += [First(1), last]
    links.track()
    assert seen == [1]
    before = last.changes
    links.track()
    assert last.changes == before  # and nothing is made anew for each item


def test_collecting_pairs_and_streaming_give_plain_values(seen: Seen) -> None:
    """Protects readers of results: whatever is traced, they get their own values."""

    async def main() -> None:
        assert await traced(source(range(3)) >> double(), seen).collect(pairs=True) == [(0, 0), (1, 2), (2, 4)]
        async with traced(source(range(3)) >> double(), seen).stream() as values:
            assert [value async for value in values] == [0, 2, 4]

    testing.run(main())
    assert len(seen.traces) == 6


@pytest.mark.parametrize("sample", [-0.1, 1.1, 10**400, float("nan"), True, "0.1", None, lambda: True])
def test_a_share_is_a_share(sample: Any) -> None:
    """Protects who writes 10 for ten per cent."""
    with pytest.raises(DefinitionError, match="sample="):
        trace(source([1]) >> double(), sample=sample)


def test_a_function_that_raises_samples_nothing_and_breaks_nothing(
    seen: Seen, caplog: pytest.LogCaptureFixture
) -> None:
    """Protects the run from who only looks on: its items are handled, and one line says what is wrong."""

    def sample(n: int) -> bool:
        if n < 0:
            raise asyncio.CancelledError  # as the result of a cancelled future does
        return 1 / n > 0

    assert testing.run(traced(source([1, 0, 2, -1, 0]) >> double(), seen, sample)).done == 5
    assert len(seen.ended) == 2
    assert [line for line in caplog.messages if "sample= raised ZeroDivisionError" in line] == caplog.messages[:1]


@pytest.mark.parametrize("options", [{}, {"batch": Batch(2)}], ids=["items", "batches"])
@pytest.mark.parametrize("where", ["on_start", "on_end"])
def test_a_processor_of_spans_that_raises_costs_spans_and_breaks_nothing(
    where: str, options: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Protects the counts: OpenTelemetry passes on what a processor raises, and the handler has done its work."""

    class Broken(SpanProcessor):
        """Knows no span."""

    def fail(*told: Any, **more: Any) -> None:
        raise LookupError("no span")

    setattr(Broken, where, fail)
    provider = TracerProvider()
    provider.add_span_processor(Broken())

    async def handle(taken: Any) -> None:
        if 3 in (taken if options else [taken]):
            raise ValueError

    pipeline = source(range(4)) >> consumer(retry=Retry(2, wait=lambda _: 0.0), on_error="skip", **options)(handle)
    trace(pipeline, sample=1.0, tracer_provider=provider)
    report = testing.run(pipeline)
    assert (report.done, report.failed) == ((2, 2) if options else (3, 1))
    assert [line for line in caplog.messages if "as OpenTelemetry raised LookupError" in line] == caplog.messages[:1]


def test_a_message_with_a_false_trace_is_handled_without_a_word(seen: Seen, caplog: pytest.LogCaptureFixture) -> None:
    """Protects the log from whoever can send a message: OpenTelemetry would print what is wrong with a tracestate."""
    jobs = remote_queue("memory://false-traces", int, name="jobs")
    parent = f"00-{1:032x}-{2:016x}-01"
    headers = [{"traceparent": "secret"}, {"traceparent": parent, "tracestate": "secret"}, {"tracestate": "secret=1"}]

    async def main() -> None:
        async with jobs.open() as opened:
            for n, one in enumerate(headers):
                await opened.put(n, headers=one)
        async with traced(jobs >> double(), seen, 0.0):
            await asyncio.sleep(1.0)

    testing.run(main())
    (span,) = seen.ended
    assert known(span).trace_id == 1
    assert not known(span).trace_state
    assert "secret" not in caplog.text


# -- ends -----------------------------------------------------------------------------------------


@consumer(name="stuck", concurrency=3)
async def stuck(n: int) -> None:
    await asyncio.sleep(1000)


@pytest.mark.parametrize("how", ["cancel", "drain", "stop at once", "failure", "interrupt"])
@both
def test_every_end_of_a_run_ends_its_spans(seen: Seen, how: str, eager: bool) -> None:
    """Protects whoever keeps the traces: no span is left open, whatever ends the run; the fixture looks."""

    @consumer(name="first", concurrency=2, retry=Retry(2, wait=lambda _: 5.0))
    async def first(n: int) -> int:
        if n == 8 and how in ("failure", "interrupt"):
            await asyncio.sleep(1)
            raise KeyboardInterrupt if how == "interrupt" else ValueError
        return n

    pipeline = traced(source(range(9)) >> first >> double(ordered=True) >> stuck, seen)

    async def enter() -> None:
        task = asyncio.current_task()
        assert task is not None
        async with pipeline as running:
            await asyncio.sleep(3)
            if how == "cancel":
                task.cancel()
                await asyncio.sleep(100)
            elif how in ("drain", "stop at once"):
                running.stop(2.0 if how == "drain" else 0.0)
            else:
                await running.wait()

    async def main() -> None:
        with pytest.raises((PipelineError, KeyboardInterrupt, asyncio.CancelledError)):
            await enter()

    testing.run(main(), eager=eager)
    assert len(seen.named("process stuck")) == 3


def test_the_span_of_an_abandoned_worker_is_ended(seen: Seen) -> None:
    """Protects a handler that ignores every cancel: its span ends with the run, and no later call ends it again."""
    over = asyncio.Event()

    @consumer(name="deaf")
    async def deaf(n: int) -> int:
        while not over.is_set():
            with suppress(asyncio.CancelledError):
                await over.wait()
        return n

    async def main() -> None:
        pipeline = traced(source([1]) >> deaf >> double(), seen)
        async with pipeline as running:
            await asyncio.sleep(1)
            report = await running.drain(0.1)
            assert report.abandoned
        assert [span.name for span in seen.ended] == ["process deaf"]
        over.set()
        await asyncio.sleep(1)

    testing.run(main())


def test_a_call_that_is_lost_gets_its_error_and_its_span_an_end(seen: Seen) -> None:
    """Protects callers: the ticket of the trace passes on whatever it is told."""

    async def main() -> None:
        async with traced(stuck >> double(), seen) as running:
            call = asyncio.ensure_future(running.call(1))
            await asyncio.sleep(1)
            await running.drain(0.5)
            with pytest.raises(QueueShutDown):
                await call

    testing.run(main())
    assert [span.name for span in seen.ended] == ["process stuck"]


# -- outside the loop -----------------------------------------------------------------------------


def test_a_thread_sees_the_span_of_its_item(seen: Seen) -> None:
    """Protects libraries in a thread: what they trace is part of the item's trace, in generators too."""
    found: list[int] = []

    @consumer(name="thread", run_in="thread", concurrency=2)
    def in_thread(n: int) -> int:
        with seen.tracer.start_as_current_span("library"):
            return n

    @consumer(name="values", run_in="thread")
    def values(n: int) -> Iterator[int]:
        found.append(otel.get_current_span().get_span_context().trace_id)
        yield n
        found.append(otel.get_current_span().get_span_context().trace_id)

    asyncio.run(_complete(traced(source(range(4)) >> in_thread >> values >> Sink("end").consumer, seen)))
    names = ["library", "process thread", "process values", "process end"]
    assert list(map(sorted, seen.traces.values())) == [sorted(names)] * 4
    assert sorted(found) == sorted([*seen.traces] * 2)


async def _complete(pipeline: Pipeline[Any, Any]) -> list[Any]:
    return await pipeline.collect()


@pytest.mark.processes
@pytest.mark.parametrize(
    "run_in",
    [
        "process",
        pytest.param("interpreter", marks=pytest.mark.skipif(sys.version_info < (3, 13), reason="needs Python 3.13")),
    ],
)
def test_a_span_in_a_process_is_a_child(seen: Seen, run_in: Any) -> None:
    """Protects what a process traces by itself: it is a child of the stage's span, and of none where none is traced."""
    there = consumer(name="there", run_in=run_in)(span_there)
    found = asyncio.run(_complete(traced(source(range(4)) >> there, seen, lambda n: n % 2 == 1)))
    by_item = {item: (trace_id, parent) for item, trace_id, parent in found}
    spans = seen.named("process there")
    assert {by_item[n] for n in (1, 3)} == {(known(one).trace_id, known(one).span_id) for one in spans}
    assert by_item[0] == by_item[2] == (0, 0)


# -- all of it ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = servers.Redis(tmp_path_factory.mktemp("redis"))
    try:
        server.start()
        yield server.url()
    finally:
        server.kill()


@pytest.mark.processes
@pytest.mark.parametrize("engine", ["sqlite", pytest.param("redis", marks=pytest.mark.thorough)])
def test_one_item_through_everything_is_one_trace(
    seen: Seen, engine: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Protects the promise: three stages, a generator, a retry, a batch, a thread, a process and a queue: one trace."""
    url = f"sqlite:///{tmp_path}/jobs.db?queue=jobs" if engine == "sqlite" else request.getfixturevalue("redis_url")
    jobs = remote_queue(url, int, name="jobs")

    @consumer(name="many")
    async def many(n: int) -> Any:
        yield n
        yield n + 1

    @consumer(name="batch", batch=Batch(2, within=5.0))
    async def batch(rows: list[int]) -> list[int]:
        return rows

    @consumer(name="thread", run_in="thread")
    def in_thread(n: int) -> int:
        return n

    flaky = consumer(name="flaky", retry=Retry(2, wait=lambda _: 0.0))(Flaky(times=1))
    there = consumer(name="there", run_in="process")(span_there)
    found: list[Any] = []

    async def main() -> None:
        await traced(source([1]) >> many >> flaky >> jobs, seen)
        done = asyncio.Event()

        @consumer(name="end")
        async def end(given: Any) -> None:
            found.append(given)
            if len(found) == 2:
                done.set()

        async with traced(jobs >> batch >> in_thread >> there >> end, seen, 0.0):
            await done.wait()

    asyncio.run(main())
    (names,) = seen.traces.values()
    stages = ("flaky", "batch", "thread", "there", "end")
    assert Counter(names) == {"process many": 1, "send jobs": 2} | {f"process {name}": 2 for name in stages}
    assert [event.name for span in seen.named("process flaky") for event in span.events] == ["retry"] * 2
    for before, after in (("many", "flaky"), ("batch", "thread"), ("thread", "there"), ("there", "end")):
        parents = {known(span).span_id for span in seen.named(f"process {before}")}
        assert {span.parent.span_id for span in seen.named(f"process {after}") if span.parent} == parents
    sent = {known(span).span_id for span in seen.named("send jobs")}
    assert {span.parent.span_id for span in seen.named("process batch") if span.parent} == sent
    assert sum(len(span.links) for span in seen.named("process batch")) == 2
    assert {(trace_id, parent) for _, trace_id, parent in found} == {
        (known(span).trace_id, known(span).span_id) for span in seen.named("process there")
    }
    for span in seen.named("send jobs"):
        assert span.kind is SpanKind.PRODUCER
        assert span.attributes is not None
        assert span.attributes["messaging.system"] == engine


def bytecodes(sample: float | None, items: int) -> int:
    """Instructions of Python's interpreter that a run takes; in virtual time they repeat."""
    counted, before = 0, sys.gettrace()

    def count(frame: Any, event: str, arg: Any) -> Any:
        nonlocal counted
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        counted += event == "opcode"
        return count

    pipeline = source(range(items)) >> double() >> consumer(name="end")(_nothing_at_all)
    pipeline.listen(lambda event: None)
    if sample is not None:
        trace(pipeline, sample=sample, tracer_provider=TracerProvider(shutdown_on_exit=False))
    sys.settrace(count)
    try:
        testing.run(pipeline)
    finally:
        sys.settrace(before)
    return counted


@pytest.mark.skipif(sys.version_info[:2] == (3, 12), reason="CPython 3.12 tells a tracer of some instructions only")
def test_listening_takes_few_instructions_where_none_is_followed() -> None:
    """Protects everybody who has tracing on: what an item takes more, by count, on the busiest machine too."""
    off, on = (bytecodes(sample, 2_500) - bytecodes(sample, 500) for sample in (None, 0.0))
    print(f"{off / 2_000:.1f} instructions an item, listening and none followed {on / off:.3f} times as many")
    assert off > 0
    assert on <= 1.10 * off


@pytest.mark.thorough
@pytest.mark.realtime
def test_listening_costs_little_where_none_is_followed(seen: Seen) -> None:
    """Protects everybody who has tracing on: at most a tenth more CPU time, with off against off beside it."""

    async def once(sample: float | None) -> float:
        pipeline = source(range(100_000)) >> double() >> consumer(name="end")(_nothing_at_all)
        if sample is not None:
            traced(pipeline, seen, sample)
        gc.collect()
        began = time.process_time()
        await pipeline
        return time.process_time() - began

    rounds = [[asyncio.run(once(sample)) for sample in (None, None, 0.0)] for _ in range(9)]
    off = statistics.median([second / first for first, second, _ in rounds])
    on = statistics.median([zero / min(first, second) for first, second, zero in rounds])
    print(f"off against off {off:.3f}, listening and none followed {on:.3f}")
    assert on <= 1.10


async def _nothing_at_all(n: int) -> None: ...


# -- metrics and events ---------------------------------------------------------------------------


def told(reader: InMemoryMetricReader) -> dict[str, dict[tuple[Any, ...], float]]:
    """What OpenTelemetry's reader gets: by the name of the metric, figures by the values of their attributes."""
    data = reader.get_metrics_data()
    assert data is not None
    metrics = [metric for one in data.resource_metrics for scope in one.scope_metrics for metric in scope.metrics]
    return {
        metric.name: {
            tuple((point.attributes or {}).values()): point.value
            for point in metric.data.data_points
            if isinstance(point, NumberDataPoint)
        }
        for metric in metrics
    }


def test_opentelemetry_gets_the_figures_that_prometheus_gets() -> None:
    """Protects dashboards of both kinds: one list of metrics, and the same figures, also after the run."""
    reader, registry = InMemoryMetricReader(), CollectorRegistry()
    metrics, prometheus = Metrics(MeterProvider([reader], shutdown_on_exit=False)), Prometheus(registry)

    @consumer(name="odd", on_error="skip")
    async def odd(n: int) -> None:
        if n % 2:
            raise ValueError

    pipeline = Pipeline(source(range(5)), odd, name="orders")
    for watch in (metrics.watch, metrics.watch, prometheus.watch, prometheus.watch):
        watch(pipeline)
    testing.run(pipeline)
    testing.run(pipeline)
    found = told(reader)
    assert found["asyncpc.items.done"] == {("orders", "odd"): 6}
    assert found["asyncpc.items.failed"] == {("orders", "odd"): 4}
    assert found["asyncpc.running"] == {("orders",): 0}
    assert list(found["asyncpc.items.produced"].values()) == [10]
    given = {
        (sample.name.removesuffix("_total"), tuple(sample.labels.values())): sample.value
        for family in registry.collect()
        for sample in family.samples
    }
    names = {f"asyncpc.{kind.name}": kind for kind in KINDS.values()}
    for name, points in found.items():
        suffix = "_seconds" if names[name].unit == "s" else ""
        for labels, figure in points.items():
            assert given[name.replace(".", "_") + suffix, labels] == figure
    with pytest.raises(DefinitionError, match="another pipeline is watched as 'orders'"):
        metrics.watch(Pipeline(source(range(5)), odd, name="orders"))


def test_a_loop_that_is_blocked_holds_up_a_reader_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects who reads several pipelines: one instrument is asked after the other, and each would wait again."""
    monkeypatch.setattr(looks, "PATIENCE", 2 * TOGETHER)
    reader, blocked, may_go_on = InMemoryMetricReader(), threading.Semaphore(0), threading.Event()
    metrics = Metrics(MeterProvider([reader]))

    @consumer
    async def block(n: int) -> None:
        blocked.release()
        while not may_go_on.is_set():
            select([], [], [], 0.01)

    pipelines = [Pipeline(source([1]) >> block, name=f"{n}") for n in range(2)]
    for pipeline in pipelines:
        metrics.watch(pipeline)
    with ThreadPoolExecutor() as threads:
        runs = [threads.submit(run, pipeline, progress=False) for pipeline in pipelines]
        try:
            for _ in pipelines:
                assert blocked.acquire(timeout=60)
            began = time.monotonic()
            reader.get_metrics_data()
            took = time.monotonic() - began
        finally:
            may_go_on.set()
        assert [one.result(60).done for one in runs] == [1, 1]
    assert took < len(KINDS) * 2 * TOGETHER  # had all instruments waited, it would be twice as long


def test_events_become_log_records_without_payloads() -> None:
    """Protects who searches logs by event: each has its name, severity and fields; errors only their type."""
    exporter = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]  # it tells no types
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))

    @consumer(name="fails", on_error="skip")
    async def fails(item: str) -> None:
        raise ValueError(item)

    for payloads in (False, True):
        pipeline = Pipeline(source(["https://me:secret@host"]), fails, name="orders")
        pipeline.listen(OtelListener(provider, payloads=payloads))
        testing.run(pipeline)
    records = [one.log_record for one in exporter.get_finished_logs()]
    bare, full = [one for one in records if one.event_name == "asyncpc.item_failed"]
    assert bare.severity_number is SeverityNumber.ERROR
    place = f"test_otel.py:{fails.__wrapped__.__code__.co_firstlineno + 2} in fails"
    known_fields = {
        "asyncpc.pipeline": "orders",
        "asyncpc.stage": "fails",
        "asyncpc.attempts": 1,
        "asyncpc.place": place,
    }
    assert bare.attributes == known_fields | {"error.type": "ValueError"}
    shown = {"asyncpc.error": "ValueError: https://me:***@host", "asyncpc.item": "'https://me:***@host'"}
    assert full.attributes == known_fields | shown
    assert records[0].event_name == "asyncpc.state_changed"
