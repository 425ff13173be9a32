"""A shop's checkout line: how long customers wait, and how long the line gets.

Customers arrive at random and stand in one line before the cashiers. The random numbers come from a seed, so each run
has the same customers. A minute in the shop takes 20 ms here.

Run it::

    python examples/checkout_line.py [cashiers]    or        asyncpc run examples.checkout_line:pipeline

Expect for three cashiers about this; a busy machine adds a little::

    60 customers, 3 cashiers
    waiting: 3.2 minutes on average, 9.7 at most
    longest line: 10 customers
"""

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from asyncpc import Pipeline, consumer, producer, run

MINUTE = 0.020  # seconds


@dataclass(frozen=True)
class Customer:
    comes: float  # minutes after the shop has opened
    needs: float  # minutes at the cashier


def crowd(count: int = 60, seed: int = 7) -> list[Customer]:
    """The customers of a day: one a minute on average, each of whom needs three minutes on average."""
    chance = random.Random(seed)
    comes = 0.0
    return [Customer(comes := comes + chance.expovariate(1.0), chance.uniform(1.0, 5.0)) for _ in range(count)]


def now() -> float:
    return asyncio.get_running_loop().time()


@producer
async def door(customers: list[Customer]) -> AsyncIterator[tuple[Customer, float]]:
    opened = now()
    for customer in customers:
        await asyncio.sleep(opened + customer.comes * MINUTE - now())
        yield customer, now()


@asynccontextmanager
async def notebook() -> AsyncIterator[list[float]]:
    waits: list[float] = []
    yield waits
    if waits:
        print(f"waiting: {sum(waits) / len(waits):.1f} minutes on average, {max(waits):.1f} at most")


@consumer(context=notebook)
async def note(wait: float, waits: list[float]) -> None:
    waits.append(wait)


def shop(cashiers: int) -> Pipeline[tuple[Customer, float], None]:
    @consumer(concurrency=cashiers, maxsize=0, name="cashier")  # 0: nobody is turned away at the door
    async def serve(arrival: tuple[Customer, float]) -> float:
        customer, came = arrival
        wait = (now() - came) / MINUTE
        await asyncio.sleep(customer.needs * MINUTE)
        return wait

    return door(crowd()) >> serve >> note


pipeline = shop(cashiers=3)

if __name__ == "__main__":
    cashiers = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    print(f"{len(crowd())} customers, {cashiers} cashiers")
    report = run(shop(cashiers))
    print(f"longest line: {report.stages[0].peak_queued} customers")
