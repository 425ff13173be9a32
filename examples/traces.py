"""One order in ten is traced: a span for each stage it goes through, sent to a collector.

The collector is a few lines below, in this process, so that the example needs nothing else: it prints what it gets. To
see the spans in Jaeger, Tempo or any other that takes OTLP, name its address. Needs opentelemetry-sdk and
opentelemetry-exporter-otlp-proto-http.

Run it::

    python examples/traces.py
    OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 python examples/traces.py
    asyncpc run examples.traces:pipeline  # traces nothing

Expect three trees, with other times::

    30 orders handled, 3 of them traced
    process check 11 ms
      process charge 27 ms, 1 retry
        process mail 6 ms
"""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from asyncpc import Retry, consumer, source
from asyncpc.otel import trace

busy = set(range(0, 30, 10))  # the card company has no time for these at first


@consumer(concurrency=4)
async def check(order: int) -> int:
    await asyncio.sleep(0.01)
    return order


@consumer(concurrency=4, retry=Retry(3, wait=lambda attempt: 0.01))
async def charge(order: int) -> int:
    await asyncio.sleep(0.005)
    if order in busy:
        busy.discard(order)
        raise ConnectionError("busy")
    return order


@consumer(concurrency=4)
async def mail(order: int) -> None:
    await asyncio.sleep(0.005)


pipeline = source(range(30), "orders") >> check >> charge >> mail


class Collector(ThreadingHTTPServer):
    """Keeps the spans that are sent to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Received)
        self.spans: list[Span] = []

    def tree(self, parent: bytes = b"", depth: int = 0) -> Iterator[str]:
        """A line for each span, below the one that it is a child of."""
        for span in self.spans:
            if span.parent_span_id == parent:
                milliseconds = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
                retries = sum(event.name == "retry" for event in span.events)
                yield f"{'  ' * depth}{span.name} {milliseconds:.0f} ms{f', {retries} retry' if retries else ''}"
                yield from self.tree(span.span_id, depth + 1)


class Received(BaseHTTPRequestHandler):
    """What an exporter posts: the spans of one batch, as protocol buffers."""

    server: Collector

    def do_POST(self) -> None:  # the name that http.server calls
        request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.server.spans += scope.spans
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server calls it so
        pass


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector in a thread of its own."""
    with Collector() as collector:
        thread = Thread(target=collector.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            collector.shutdown()
            thread.join()


async def main(endpoint: str | None) -> None:
    provider = TracerProvider(resource=Resource.create({"service.name": "orders"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
    trace(pipeline, sample=lambda order: order % 10 == 0, tracer_provider=provider)
    report = await pipeline
    await asyncio.to_thread(provider.shutdown)  # sends what is left, and may block
    print(f"{report.done} orders handled, {report.done // 10} of them traced")


if __name__ == "__main__":
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        asyncio.run(main(None))  # the exporter reads it
    else:
        with collecting() as collector:
            asyncio.run(main(f"http://127.0.0.1:{collector.server_port}/v1/traces"))
        print(*collector.tree(), sep="\n")
