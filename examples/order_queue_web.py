"""The web half of an order service in two programs: it answers 202 as soon as the order is in a queue with a URL.

202 means: the order will be handled, even if this machine loses its power now. 503 with Retry-After means that the
queue could not be reached. A client that gets no answer may send its order again: the order's id names the message, so
the queue takes it once. ``order_queue_worker`` handles the orders; either program may be stopped or killed at any time.
Needs starlette, uvicorn and ``asyncpc[remote]``.

Run it, send orders, and look at how many wait::

    python -m examples.order_queue_web --port 8000
    curl -i localhost:8000/orders -d '{"id": 1, "item": "tea"}'
    curl -s localhost:8000/depth

Expect ``HTTP/1.1 202 Accepted``, then the numbers::

    {"ready":1,"unacknowledged":0,"delayed":0,"dead":0,"oldest":2.5}

Then start workers, as many as you like: ``asyncpc run examples.order_queue_worker:pipeline``.
"""

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from asyncpc.remote import Disconnected, OpenQueue, PublishError
from examples.order_queue import Order, orders


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, OpenQueue[Order]]]:
    async with orders.open() as queue:
        yield {"queue": queue}


async def create(request: Request) -> Response:
    try:
        order = msgspec.json.decode(await request.body(), type=Order)
    except msgspec.DecodeError as error:
        return JSONResponse({"error": str(error)}, status_code=400)
    try:
        await request.state.queue.put(order, id=str(order.id), timeout=5)
    except (TimeoutError, PublishError, Disconnected):
        return JSONResponse({"error": "no queue for orders now"}, status_code=503, headers={"Retry-After": "1"})
    return JSONResponse({"accepted": order.id}, status_code=202)


async def depth(request: Request) -> Response:
    return JSONResponse((await request.state.queue.depth())._asdict())


app = Starlette(
    routes=[Route("/orders", create, methods=["POST"]), Route("/depth", depth)],
    lifespan=lifespan,
)

if __name__ == "__main__":
    import uvicorn

    parser = argparse.ArgumentParser(description="Take orders on loopback.")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    uvicorn.run(app, port=parser.parse_args().port, access_log=False)
