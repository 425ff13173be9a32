"""The workers' half of an order service in two programs: start as many as you like, on as many machines as you like.

An order is acknowledged when its last stage has ended. Until then it belongs to the queue: at SIGTERM this program
finishes what it has begun and gives the rest back; if it is killed, its orders go to another worker when their lease
has run out. So an order may be handled twice, and never not at all. An order that fails three times goes to the dead
letters of the queue. Needs ``asyncpc[remote]``.

Start ``order_queue_web``, send it orders, and run this, in one terminal or in several::

    python -m examples.order_queue_worker
    asyncpc run examples.order_queue_worker:pipeline --processes 4

Expect, after Ctrl-C or SIGTERM::

    50 orders received, 50 handled, 0 failed
"""

import argparse
import asyncio
import logging

from asyncpc import Pipeline, consumer, run
from examples.order_queue import Order, orders

logger = logging.getLogger("orders")


@consumer(concurrency=20, retry=3, timeout=10)
async def charge(order: Order) -> Order:
    await asyncio.sleep(0.05)  # charge the card; with the order's id, so that a repeated charge is none
    return order


@consumer(concurrency=5, retry=3)
async def send_mail(order: Order) -> None:
    await asyncio.sleep(0.01)
    logger.info("handled order %s", order.id)


pipeline = Pipeline(orders, charge >> send_mail, drain_timeout=30)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Handle orders until a signal comes.")
    parser.add_argument("--verbose", action="store_true", help="log each order that was handled")
    logging.basicConfig(level=logging.INFO if parser.parse_args().verbose else logging.WARNING)
    report = run(pipeline)
    print(f"{report.produced} orders received, {report.done} handled, {report.failed} failed")
    raise SystemExit(report.exit_status)
