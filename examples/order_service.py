"""A web service that answers at once, works in the background, and loses no order that it has accepted.

202 means: the order is accepted and will be handled, even if SIGTERM comes now. 503 with Retry-After means: there is no
room, or the service is shutting down, and the order was not accepted. Needs starlette and uvicorn.

Run it, send orders, stop it with Ctrl-C or SIGTERM::

    python -m examples.order_service --port 8000
    curl -i localhost:8000/orders -d '{"id": 1, "item": "tea"}'
    curl -s localhost:8000/stats

Expect ``HTTP/1.1 202 Accepted``, then the numbers, and at the end::

    1 orders accepted, 1 handled, 0 unfinished

``asyncpc run examples.order_service:pipeline`` says what is missing: this pipeline gets its items from a web app and
has no source.
"""

import argparse
import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from asyncpc import Failure, Pipeline, QueueShutDown, Running, consumer

logger = logging.getLogger("orders")

Order = dict[str, Any]


async def set_aside(failure: Failure) -> None:
    logger.error("order %s failed: %s", failure.item["id"], failure.error)  # somewhere a person will see it


@consumer(concurrency=20, on_error=set_aside)  # one order that fails must not stop the service
async def process_order(order: Order) -> None:
    await asyncio.sleep(0.05)  # charge the card, write the row, send the mail
    logger.info("handled order %s", order["id"])


pipeline = Pipeline(process_order, maxsize=1000, drain_timeout=30)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Running[Order, None]]]:
    async with pipeline as orders:  # starts here, and drains on the way out
        yield {"orders": orders}
    if report := orders.report:
        left = len(report.unfinished)
        print(f"{report.produced} orders accepted, {report.done} handled, {left} unfinished", flush=True)


async def create(request: Request) -> Response:
    try:
        order = {"id": None} | await request.json()
    except (ValueError, TypeError):
        return JSONResponse({"error": "an order is a JSON object"}, status_code=400)
    try:
        request.state.orders.put_nowait(order)
    except (asyncio.QueueFull, QueueShutDown):
        return JSONResponse({"error": "no room for orders now"}, status_code=503, headers={"Retry-After": "1"})
    return JSONResponse({"accepted": order["id"]}, status_code=202)


async def stats(request: Request) -> Response:
    return JSONResponse(request.state.orders.statistics().as_dict())


app = Starlette(
    routes=[Route("/orders", create, methods=["POST"]), Route("/stats", stats)],
    lifespan=lifespan,
)

if __name__ == "__main__":
    import uvicorn

    parser = argparse.ArgumentParser(description="Take orders on loopback.")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument("--verbose", action="store_true", help="log each order that was handled")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING)
    uvicorn.run(app, port=options.port, access_log=False)
