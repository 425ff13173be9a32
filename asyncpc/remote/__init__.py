"""Remote queues: the same consumers beyond one process.

Here are the names that programs import beside :func:`~asyncpc.remote_queue`, and those that an engine of your own
needs; its tests are in ``asyncpc.remote.contract``. Nothing here imports msgspec or a client before it is used.
"""

from .broker import (
    SUSPECT_AFTER,
    Broker,
    DeadLetter,
    Depth,
    Disconnected,
    Engine,
    Guarantees,
    Message,
    NotAllowed,
    Outgoing,
    PayloadError,
    PublishError,
    Settings,
)
from .letters import Letter
from .opened import OpenQueue

__all__ = [
    "SUSPECT_AFTER",
    "Broker",
    "DeadLetter",
    "Depth",
    "Disconnected",
    "Engine",
    "Guarantees",
    "Letter",
    "Message",
    "NotAllowed",
    "OpenQueue",
    "Outgoing",
    "PayloadError",
    "PublishError",
    "Settings",
]
