"""The orders of each customer are handled in order and one at a time; a slow customer delays nobody else.

Four customers take turns ordering, and there are four workers. An order of Dora's takes twenty times as long as one of
the others. Without ``key``, all workers would soon be busy with Dora's orders, and the other customers would wait.

Run it::

    python examples/per_customer.py                or        asyncpc run examples.per_customer:pipeline

Expect this; Dora is served last::

    Ada:  orders 1 2 3 4 5, never two at once, after 0.05 s
    Ben:  orders 1 2 3 4 5, never two at once, after 0.05 s
    Cleo: orders 1 2 3 4 5, never two at once, after 0.05 s
    Dora: orders 1 2 3 4 5, never two at once, after 1.00 s
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from asyncpc import consumer, run, source

CUSTOMERS = {"Dora": 0.2, "Ada": 0.01, "Ben": 0.01, "Cleo": 0.01}  # seconds that an order of each takes


class Order(NamedTuple):
    customer: str
    number: int


class Served(NamedTuple):
    order: Order
    beside: int  # orders of this customer that were being handled at that moment, this one included
    when: float  # by the clock of the loop


busy: Counter[str] = Counter()


@consumer(concurrency=4, key=lambda order: order.customer)
async def handle(order: Order) -> Served:
    busy[order.customer] += 1
    beside = busy[order.customer]
    await asyncio.sleep(CUSTOMERS[order.customer])  # stands for the payment, the parcel, …
    busy[order.customer] -= 1
    return Served(order, beside, asyncio.get_running_loop().time())


@asynccontextmanager
async def ledger() -> AsyncIterator[dict[str, list[Served]]]:
    opened = asyncio.get_running_loop().time()
    served: dict[str, list[Served]] = {customer: [] for customer in sorted(CUSTOMERS)}
    yield served
    for customer, orders in served.items():
        numbers = " ".join(str(one.order.number) for one in orders)
        once = "never two at once" if all(one.beside == 1 for one in orders) else "two at once!"
        seconds = max((one.when for one in orders), default=opened) - opened
        print(f"{customer + ':':5} orders {numbers}, {once}, after {seconds:.2f} s")


@consumer(context=ledger)
async def note(one: Served, served: dict[str, list[Served]]) -> None:
    served[one.order.customer].append(one)


pipeline = source([Order(customer, number) for number in range(1, 6) for customer in CUSTOMERS]) >> handle >> note

if __name__ == "__main__":
    run(pipeline)
