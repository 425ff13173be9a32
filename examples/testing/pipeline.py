"""A shop's pipelines, and in ``test_pipeline.py`` twenty tests of them, which take less than a second together.

::

    cd examples/testing
    pytest                                                   # in virtual time, the remote queues in memory
    pytest -k remote --asyncpc-engine redis://localhost      # these on a real engine

Money is in cents, time in seconds. What a real shop would send, store or print is kept in lists here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from asyncpc import (
    Batch,
    Breaker,
    Failure,
    Pipeline,
    Rate,
    RemoteQueue,
    Retry,
    Unfinished,
    consumer,
    producer,
    remote_queue,
)


class BankDown(Exception):
    """The bank does not answer; later it may."""


class Declined(Exception):
    """The bank does not pay, and will not."""


class Order(NamedTuple):
    """What a customer has bought."""

    number: int
    customer: str = "Ada"
    cents: int = 100


# -- the bank -------------------------------------------------------------------------------------

refused: list[Failure] = []


def refuse(failure: Failure) -> None:
    """Keep an order that could not be charged, for a person to look at."""
    refused.append(failure)


@consumer(concurrency=4, retry=Retry(4, wait=lambda attempt: 600, on=(BankDown,)), on_error=refuse)
async def charge(order: int) -> str:
    """Ask the bank for the money; when it is down, again ten minutes later."""
    return f"receipt {order}"


@consumer(retry=9, breaker=Breaker(3, reset_after=30))
async def refund(order: int) -> None:
    """Give the money back; a bank that fails three times in a row gets half a minute of rest."""


@consumer(timeout=10, on_error="skip")
async def exchange_rate(currency: str) -> float:
    """Ask what a currency is worth."""
    return 1.0


# -- the store ------------------------------------------------------------------------------------

tables: list[list[int]] = []
connections = 0


@asynccontextmanager
async def connection() -> AsyncIterator[None]:
    """A connection to the database."""
    global connections
    connections += 1
    try:
        yield
    finally:
        connections -= 1


@consumer(batch=Batch(100, within=5))
async def insert(orders: list[int]) -> None:
    """Write rows a hundred at a time, or what there is after five seconds."""
    tables.append(orders)


@consumer(context=connection)
async def update(order: int, open_connection: None) -> None:
    """Write a row."""


@consumer(concurrency=8, key=lambda order: order.customer)
async def book(order: Order) -> None:
    """Change a customer's account: never two orders of one customer at once."""


# -- the post -------------------------------------------------------------------------------------

lost: list[Unfinished] = []


@consumer(rate=Rate(10, per=60))
async def mail(order: int) -> None:
    """Write to a customer; the provider takes ten mails a minute."""


@consumer(concurrency=4, ordered=True)
async def translate(page: int) -> int:
    """Translate a page; they leave in order, whichever is done first."""
    return page


@consumer(concurrency=2)
def print_label(order: int) -> int:
    """Print a label, in a thread; there are two printers."""
    return order


@consumer
async def ship(order: int) -> None:
    """Send it; a failure is a bug, and stops the run."""


shipping = Pipeline(ship, drain_timeout=20, on_unfinished=lost.extend)


@producer
def rows(file: Path) -> Iterator[int]:
    """Read order numbers from a file, in a thread."""
    with file.open() as lines:
        for line in lines:
            if line.strip():
                yield int(line)


@consumer(concurrency=4)
async def scan(page: int) -> int:
    """Make a picture of a page."""
    return page


catalogue = Pipeline(scan, maxsize=4)

# -- between the shops ----------------------------------------------------------------------------

entered: set[int] = set()
ledger: Counter[str] = Counter()


def orders_at(url: str) -> RemoteQueue[Order]:
    """The orders of all shops."""
    return remote_queue(url, Order, attempts=3)


@consumer
async def enter(order: Order) -> None:
    """Add an order to the ledger, once, however often its message comes."""
    if order.number in entered:
        return
    if order.cents <= 0:
        raise ValueError("nothing to pay")
    entered.add(order.number)
    ledger[order.customer] += order.cents
