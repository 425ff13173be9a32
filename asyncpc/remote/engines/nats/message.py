"""Messages of NATS as those of a remote queue, and the other way round: what each carries in its headers."""

from __future__ import annotations

import json
import re
import string
import time
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Final
from urllib.parse import quote, unquote

from nats.aio.msg import Msg

from ...broker import LONGEST_FAILURE, Message, Outgoing
from ..messages import kept, number_of
from .connection import Connection, Request
from .putting import fits, size_of

__all__ = [
    "KEPT_FREE",
    "Delivery",
    "back_after",
    "delivered",
    "digest",
    "fits",
    "headers_of",
    "later",
    "letter",
    "message_of",
]

SAFE: Final = string.punctuation.replace("%", "")
"""Characters that an id has in a header as they are."""

NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""Names of headers that the client can send; it receives others too."""

KEPT_FREE: Final = LONGEST_FAILURE + 8192
"""Bytes kept free in each message for the headers of its dead letter."""

LONGEST_ID: Final = 1000
LONGEST_REASON: Final = 1000
"""Characters that are kept in a dead letter which would be too long."""


class Delivery:
    """A receipt: where to answer to, and until when."""

    __slots__ = ("connection", "delivered", "ends", "reply", "sequence", "stamp")

    def __init__(self, reply: str, ends: float, connection: Connection) -> None:
        parts = reply.split(".")  # $JS.ACK[.domain.account].stream.consumer.delivered.sequence.…
        place = 4 if len(parts) == 9 else 6
        self.reply: str = reply
        self.delivered: int = int(parts[place])
        self.sequence: int = int(parts[place + 1])
        self.stamp: float = int(parts[place + 3]) / 1e9
        self.ends: float = ends
        """By the monotonic clock; in the past once it is settled."""
        self.connection: Connection = connection

    @property
    def name(self) -> str:
        """The same when something about it is sent again, so that the server takes it once."""
        return f"{self.sequence}/{self.delivered}"


def back_after(delay: float) -> bytes:
    """What to answer for a delivery to come again after so many seconds."""
    return b'-NAK {"delay": %d}' % int(delay * 1e9) if delay > 0 else b"-NAK"


def delivered(one: Msg, seconds: float, connection: Connection) -> Message:
    """A message that has just come, and is ours for so many seconds."""
    receipt = Delivery(one.reply, time.monotonic() + seconds, connection)
    return message_of(one, receipt.sequence, receipt.delivered, receipt)


def message_of(one: Msg, sequence: int, delivered: int = 0, receipt: Delivery | None = None) -> Message:
    """What the server keeps at that place, whoever put it."""
    headers = one.headers or {}
    identity = headers.get("Asyncpc-Id") or headers.get("Nats-Msg-Id") or str(sequence)
    attempt = delivered + int(number_of(headers.get("Asyncpc-Attempts"), 0))
    put = number_of(headers.get("Asyncpc-Time"), 0.0)
    if not put:  # another program put it
        put = receipt.stamp if receipt else datetime.fromisoformat(headers["Nats-Time-Stamp"]).timestamp()
    others = {
        name: value
        for name, value in headers.items()
        if not name.startswith(("Nats-", "Asyncpc-")) and NAME.fullmatch(name)
    }
    return Message(unquote(identity), one.data, attempt, put, others, receipt)


def later(queue: str, message: Outgoing, unique: str, attempts: int) -> Request:
    """Put a message under a subject of its own, which the server moves to the queue when it is due."""
    due = datetime.fromtimestamp(time.time() + message.delay, UTC).isoformat()
    headers = headers_of(message, unique, attempts)
    headers |= {"Nats-Schedule": f"@at {due}", "Nats-Schedule-Target": queue}
    headers.setdefault("Asyncpc-Id", headers["Nats-Msg-Id"])  # the server may use another one when it is due
    return Request(f"{queue}.later.{digest(headers['Nats-Msg-Id'])}", message.body, headers)


def letter(subject: str, queue: str, one: Message, failure: bytes, longest: int) -> Request:
    """Put a dead letter; the server takes it in any case, without what is too long of a message of another program."""
    unique = f"%bury/{queue}/{one.receipt.name}/{digest(one.id)}"
    bare = one._replace(id=one.id[:LONGEST_ID], headers={})
    lost = _noted(failure, "the server takes no more than the body of this message: its headers are lost")
    for message, text in (one, failure), (one, b"{}"), (bare, lost):
        headers = {**headers_of(message, unique, one.attempt), "Asyncpc-Failure": kept(text)}
        if fits(request := Request(subject, one.body, headers), longest):
            return request
    lost = _noted(failure, f"the server takes no more than this of {len(one.body)} bytes, and no headers")
    headers["Asyncpc-Failure"] = kept(lost)
    return Request(subject, one.body[: max(0, longest - size_of(headers))], headers)


def _noted(failure: bytes, note: str) -> bytes:
    """A failure as short as may be, and what is missing in its dead letter."""
    try:
        told = dict(json.loads(failure))
    except (TypeError, ValueError):  # it is no object
        told = {}
    reason = str(told.get("reason", ""))[:LONGEST_REASON]
    return json.dumps({**told, "reason": f"{reason} ({note})", "traceback": "", "history": []}).encode()


def headers_of(message: Message | Outgoing, unique: str = "", attempts: int = 0) -> dict[str, str]:
    """``unique`` is the id for the server, where it is not the message's own."""
    identity = _quoted(message.id)
    headers = {**message.headers, "Nats-Msg-Id": unique or identity}
    if unique:
        headers["Asyncpc-Id"] = identity
    if message.time:
        headers["Asyncpc-Time"] = str(message.time)
    if attempts:
        headers["Asyncpc-Attempts"] = str(attempts)
    return headers


def _quoted(identity: str) -> str:
    """An id as it can stand in a header, which takes no line ends."""
    return quote(identity, SAFE)


def digest(text: str) -> str:
    """A short name for a text."""
    return blake2b(text.encode(), digest_size=16).hexdigest()
