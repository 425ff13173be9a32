"""Each order goes to three places: an index, an archive, and the warehouse of its country.

The index is quick. The archive is slow, so it takes five orders at a time. The index does not wait for it, since each
of the two has its own queue. An order to a country that no carrier goes to fails, and ``undeliverable`` is told.

Run it::

    python examples/fan_out.py                     or        asyncpc run examples.fan_out:pipeline

Expect the index to be done before the archive has begun::

    order  1 is in the index
    ...
    order 10 is in the index
    order  8 stays here: ValueError: no carrier goes to Atlantis
    archived 1 2 3 4 5
    archived 6 7 8 9 10
    zurich sent 4, berlin sent 3, abroad sent 2

``asyncpc show examples.fan_out:pipeline`` draws it. The command line exits with 1, since one order has failed.
"""

import asyncio
from typing import NamedTuple

from asyncpc import Batch, Failure, broadcast, consumer, route, run, source


class Order(NamedTuple):
    number: int
    country: str


COUNTRIES = "CH", "DE", "CH", "France", "DE", "CH", "Italy", "Atlantis", "DE", "CH"


@consumer
async def index(order: Order) -> None:
    print(f"order {order.number:2} is in the index")


@consumer(batch=Batch(5, within=1.0))
async def archive(orders: list[Order]) -> None:
    await asyncio.sleep(0.2)  # one slow statement for all of them
    print("archived", *(order.number for order in orders))


@consumer
async def undeliverable(failure: Failure) -> None:
    print(f"order {failure.item.number:2} stays here: {failure.error}")


@consumer
async def zurich(order: Order) -> None:
    await asyncio.sleep(0.01)  # the parcel


@consumer
async def berlin(order: Order) -> None:
    await asyncio.sleep(0.01)


@consumer(on_error=undeliverable)
async def abroad(order: Order) -> None:
    await asyncio.sleep(0.01)
    if order.country == "Atlantis":
        raise ValueError(f"no carrier goes to {order.country}")


warehouses = route(lambda order: order.country, {"CH": zurich, "DE": berlin}, default=abroad)
pipeline = source([Order(*one) for one in enumerate(COUNTRIES, 1)]) >> broadcast(index, archive, warehouses)

if __name__ == "__main__":
    report = run(pipeline)
    sent = {stage.name: stage.done for stage in report.stages}
    print(", ".join(f"{name} sent {sent[name]}" for name in ("zurich", "berlin", "abroad")))
