"""Messages of RabbitMQ: what of ours is in their headers, and what of other programs can be believed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any, Final

from pamqp.commands import Basic

from ...broker import Message, Outgoing
from ..messages import kept, number_of
from .intake import Delivery

__all__ = ["attempt_of", "header_of", "letters_of", "message_of", "place_of", "properties_of"]


OURS: Final = ("asyncpc-", "x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count")
"""How the names of headers begin that are the engine's, or the server's."""


def properties_of(
    message: Message | Outgoing, attempts: int = 0, extra: Mapping[str, str] | None = None
) -> Basic.Properties:
    """To send a message that was delivered so many times before."""
    headers: dict[str, Any] = {**message.headers, **(extra or {}), "asyncpc-id": message.id}
    if message.time:
        headers["asyncpc-time"] = str(message.time)
    if attempts:
        headers["asyncpc-attempts"] = str(attempts)
    return Basic.Properties(headers=headers, delivery_mode=2)


def letters_of(message: Message, failure: bytes, number: int) -> Iterator[Basic.Properties]:
    """To send it as a dead letter with that number; each is for where the one before is too long.

    Another program may have filled the whole frame with its headers. The id has to make room last.
    """
    place = f"{number:020}-{digest(message.id.encode())}"
    text = kept(failure)
    bare = message._replace(headers={})
    for one, why in (
        (message, text),
        (message, "{}"),
        (bare, text),
        (bare._replace(id=digest(message.id.encode())), "{}"),
    ):
        yield properties_of(one, one.attempt, {"asyncpc-failure": why, "asyncpc-place": place})


def message_of(one: Delivery, receipt: Any = None) -> Message:
    """As it was received; without a receipt, as it lies in its queue."""
    headers = one.properties.headers or {}
    identity = header_of(one, "asyncpc-id") or one.properties.message_id or digest(one.body)
    attempt = _attempts_before(one) if receipt is None else attempt_of(one)
    put = number_of(header_of(one, "asyncpc-time"), 0.0) or _stamp(one) or time.time()
    others = {name: value for name, value in headers.items() if isinstance(value, str) and not name.startswith(OURS)}
    return Message(identity, one.body, attempt, put, others, receipt)


def attempt_of(one: Delivery) -> int:
    """Which delivery of a message this is: of its copies before, and of this one."""
    returned = (one.properties.headers or {}).get("x-delivery-count", 0)
    return 1 + _attempts_before(one) + (returned if isinstance(returned, int) else 0)


def _attempts_before(one: Delivery) -> int:
    return int(number_of(header_of(one, "asyncpc-attempts"), 0))


def header_of(one: Delivery, name: str) -> str:
    """A header that is a text; else nothing."""
    value = (one.properties.headers or {}).get(name)
    return value if isinstance(value, str) else ""


def _stamp(one: Delivery) -> float:
    return one.properties.timestamp.timestamp() if one.properties.timestamp is not None else 0.0


def place_of(one: Delivery) -> str:
    """Where a dead letter is among the others; also one that another program wrote."""
    identity = digest((one.properties.message_id or "").encode() + one.body)
    return header_of(one, "asyncpc-place") or f"{int(_stamp(one) * 1e9):020}-{identity}"


def digest(data: bytes) -> str:
    """A short name for some bytes."""
    return blake2b(data, digest_size=8).hexdigest()
