"""A web service whose pipeline can be watched, and controlled, on a page of the same app.

Needs fastapi and uvicorn. Run it, send orders, open http://localhost:8000/pipelines/ in a browser; Ctrl-C stops it::

    PIPELINES_TOKEN=a-long-secret-of-yours python -m examples.order_dashboard --port 8000
    curl -i localhost:8000/orders --json '{"id": 1, "item": "tea"}'

Expect, for each order, in the answer::

    HTTP/1.1 202 Accepted

Without ``PIPELINES_TOKEN`` the page shows the pipeline and controls nothing.

``asyncpc run examples.order_dashboard:pipeline`` says what is missing: this pipeline gets its items from a web app and
has no source.
"""

import argparse
import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel

from asyncpc import Pipeline, QueueShutDown, Retry, Running, consumer
from asyncpc.web import dashboard


class Order(BaseModel):
    id: int
    item: str


@consumer(concurrency=8, retry=Retry(attempts=3, on=ConnectionError), on_error="skip")
async def charge(order: Order) -> Order:
    await asyncio.sleep(0.05)
    return order


@consumer(concurrency=4)
async def ship(order: Order) -> None:
    await asyncio.sleep(0.02)


pipeline = Pipeline(charge, ship, maxsize=1000, drain_timeout=20, name="orders")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Running[Order, None]]]:
    async with pipeline as orders:
        yield {"orders": orders}


app = FastAPI(lifespan=lifespan)
app.mount("/pipelines", dashboard(pipeline, token=os.environ.get("PIPELINES_TOKEN")))


@app.post("/orders", status_code=202)
async def create(order: Order, request: Request) -> dict[str, int]:
    try:
        request.state.orders.put_nowait(order)
    except (asyncio.QueueFull, QueueShutDown):
        raise HTTPException(503, "no room now", {"Retry-After": "1"}) from None
    return {"accepted": order.id}


def main() -> None:
    parser = argparse.ArgumentParser(description="An order service with a page that shows its pipeline.")
    parser.add_argument("--port", type=int, default=8000)
    uvicorn.run(app, port=parser.parse_args().port, log_level="warning")


if __name__ == "__main__":
    main()
