r"""A web service that is stopped in the midst of its work, and finishes it after the next start.

Orders wait in memory, so answering is quick. At SIGTERM the service goes on with them for a second. What is not done by
then goes into a SQLite file, through ``on_unfinished=``, and comes back from it at the next start. An order whose
handling was cut short is handled again, so handle each one in a way that may be repeated. (What must survive a power
cut as well goes into a remote queue: ``order_queue_web``.) Needs starlette and uvicorn.

Run it, send orders, stop it with Ctrl-C or SIGTERM, and start it again::

    python -m examples.resume_orders --port 8000 --database orders.db
    for id in $(seq 50); do curl -s localhost:8000/orders -d "{\"id\": $id}" > /dev/null; done

Expect something like this, first from the one and then from the other::

    50 orders accepted, 30 handled, 20 saved
    20 orders taken back
    20 orders accepted, 20 handled, 0 saved

``asyncpc run examples.resume_orders:pipeline`` says what is missing: this pipeline gets its items from a web app and
has no source.
"""

import argparse
import asyncio
import json
import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from asyncpc import Pipeline, PipelineError, QueueShutDown, Running, Unfinished, consumer

logger = logging.getLogger("orders")

Order = dict[str, Any]


class Shelf:
    """Keeps orders in a SQLite file between two runs of the service."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.waiting: list[Order] = []  # of the last run, and not yet put into this one

    def save(self, items: tuple[Unfinished, ...]) -> None:
        """Keep what a run has left, and what still waits for it, in place of what was kept: all of it or nothing."""
        orders = [one.item for one in items] + self.waiting
        with closing(self._connected()) as database, database:
            database.execute("DELETE FROM orders")
            database.executemany("INSERT INTO orders VALUES (?)", [(json.dumps(order),) for order in orders])

    def open(self) -> None:
        """Let what is kept wait to be put in."""
        with closing(self._connected()) as database:
            rows = database.execute("SELECT text FROM orders ORDER BY rowid")
            self.waiting = [json.loads(text) for (text,) in rows]

    def clear(self) -> None:
        """Forget what is kept."""
        with closing(self._connected()) as database, database:
            database.execute("DELETE FROM orders")

    def _connected(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path)
        database.execute("CREATE TABLE IF NOT EXISTS orders (text TEXT NOT NULL)")
        return database


shelf = Shelf(Path("orders.db"))


@consumer(concurrency=10, on_error="skip")  # one order that fails must not stop the service
async def process_order(order: Order) -> None:
    await asyncio.sleep(0.5)  # charge the card, write the row, send the mail
    logger.info("handled order %s", order["id"])


pipeline = Pipeline(process_order, maxsize=1000, drain_timeout=1, on_unfinished=shelf.save)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Running[Order, None]]]:
    try:
        async with pipeline as orders:
            shelf.open()
            kept = len(shelf.waiting)
            while shelf.waiting:
                await orders.put(shelf.waiting[0])
                del shelf.waiting[0]
            shelf.clear()  # only now: a crash in between would repeat orders, not lose them
            if kept:
                print(f"{kept} orders taken back", flush=True)
            yield {"orders": orders}
    except PipelineError as error:  # the deadline has passed, and what was left is saved
        if shelf.waiting:  # the run failed before the service had started
            raise
        logger.warning("%s", error)
    if report := orders.report:
        left = len(report.unfinished)
        print(f"{report.produced} orders accepted, {report.done} handled, {left} saved", flush=True)


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


app = Starlette(routes=[Route("/orders", create, methods=["POST"])], lifespan=lifespan)

if __name__ == "__main__":
    import uvicorn

    parser = argparse.ArgumentParser(description="Take orders on loopback, and finish them after a restart.")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument("--database", type=Path, default=shelf.path, help="keeps orders between two runs")
    parser.add_argument("--verbose", action="store_true", help="log each order that was handled")
    options = parser.parse_args()
    shelf.path = options.database
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING)
    uvicorn.run(app, port=options.port, access_log=False)
