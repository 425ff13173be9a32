"""What the two programs ``order_queue_web`` and ``order_queue_worker`` share: what an order is, and where orders wait.

By default they wait in a SQLite file, which serves all processes of one machine. With several machines, name a server
that all of them reach; nothing else changes::

    export ORDERS_URL=redis://localhost/orders
"""

import os
from dataclasses import dataclass

from asyncpc import remote_queue


@dataclass(frozen=True)
class Order:
    id: int
    item: str = ""


orders = remote_queue(os.environ.get("ORDERS_URL", "sqlite:///orders.db?queue=orders"), Order)
