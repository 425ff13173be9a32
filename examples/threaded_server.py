"""A web server without an event loop: its threads hand orders to background workers, and answer at once.

202 means: the order is accepted and will be handled, even if SIGTERM comes now. 503 with Retry-After means: there was
no room for a fifth of a second, or the server is shutting down, and the order was not accepted.

Run it, send orders, stop it with Ctrl-C or SIGTERM::

    python -m examples.threaded_server --port 8000
    curl -i localhost:8000/orders -d '{"id": 1, "item": "tea"}'

Expect ``HTTP/1.0 202 Accepted``, and at the end::

    1 orders accepted, 1 handled, 0 unfinished

The pipeline runs in a loop in the main thread, which gets the signals; the server has threads of its own. What handles
the orders may block, as the code around such a server does: each of its workers has a thread too.

``asyncpc run examples.threaded_server:pipeline`` says what is missing: this pipeline gets its items from a server and
has no source.
"""

import argparse
import asyncio
import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from asyncpc import Failure, Pipeline, QueueShutDown, Report, Running, consumer

logger = logging.getLogger("orders")

Order = dict[str, Any]


def set_aside(failure: Failure) -> None:
    logger.error("order %s failed: %s", failure.item["id"], failure.error)  # somewhere a person will see it


@consumer(concurrency=20, on_error=set_aside)  # one order that fails must not stop the service
def process_order(order: Order) -> None:
    time.sleep(0.05)  # charge the card, write the row, send the mail: this may block, in a thread of its own
    logger.info("handled order %s", order["id"])


pipeline = Pipeline(process_order, maxsize=1000, drain_timeout=30)


class Handler(BaseHTTPRequestHandler):
    """Answers one request, in a thread of the server."""

    timeout = 10  # seconds; a client that sends nothing must not keep the server from ending
    server: "Server"

    def do_POST(self) -> None:
        if self.path != "/orders":
            self.answer(404, {"error": "send orders to /orders"})
            return
        try:
            order = {"id": None} | json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        except (ValueError, TypeError):
            self.answer(400, {"error": "an order is a JSON object"})
            return
        try:
            self.server.orders.put_from_thread(order, timeout=0.2)
        except (TimeoutError, QueueShutDown):
            self.answer(503, {"error": "no room for orders now"})
        else:
            self.answer(202, {"accepted": order["id"]})

    def answer(self, status: int, body: Order) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if status == 503:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *message: object) -> None:
        """Say nothing about each request."""


class Server(ThreadingHTTPServer):
    daemon_threads = False  # closing it waits until all requests are answered
    request_queue_size = 128

    def __init__(self, port: int, orders: Running[Order, None]) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.orders = orders


@contextmanager
def served(port: int, orders: Running[Order, None]) -> Iterator[Server]:
    """A server that runs in a thread; at the end it has answered all requests."""
    with Server(port, orders) as server:
        thread = Thread(target=server.serve_forever, args=[0.05])
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


async def serve(port: int) -> Report:
    """Take orders until a signal, and handle all that were accepted."""
    async with pipeline as orders, orders.on_signals():
        with served(port, orders) as server:
            print(f"running on http://127.0.0.1:{server.server_port}", file=sys.stderr, flush=True)
            return await orders.wait()  # the loop drains; who comes meanwhile gets 503


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Take orders on loopback.")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument("--verbose", action="store_true", help="log each order that was handled")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING)
    report = asyncio.run(serve(options.port))
    left = len(report.unfinished)
    print(f"{report.produced} orders accepted, {report.done} handled, {left} unfinished", flush=True)
    sys.exit(report.exit_status)
