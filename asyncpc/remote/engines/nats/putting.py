"""Puts messages into the streams of NATS: none that is so long that the server would end the connection."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any, Final

from ...broker import PublishError
from .connection import Connection, Request

__all__ = ["fits", "put", "put_all", "size_of"]

LONGEST_HEADERS: Final = 2**16 - 1
"""Bytes of headers that the server takes."""


async def put_all(connection: Connection, requests: Sequence[Request], messages: Sequence[Any], longest: int) -> None:
    """Send these, which are made of those messages.

    Raises ``PublishError`` for all of them, before any is sent, if one takes more bytes than ``longest``, so that the
    others can be put without it; or for those that the server has refused.
    """
    if not all(fits(one, longest) for one in requests):
        raise _too_long(connection, longest, messages)
    await _send(connection, requests, messages)


async def put(connection: Connection, requests: Sequence[Request], messages: Sequence[Any]) -> None:
    """Send those of these that the server takes; raises ``PublishError`` for the others."""
    longest = connection.longest
    sent = [fits(one, longest) for one in requests]
    refused = [message for message, is_sent in zip(messages, sent, strict=True) if not is_sent]
    try:
        await _send(connection, list(compress(requests, sent)), list(compress(messages, sent)))
    except PublishError as error:
        raise PublishError(str(error), [*refused, *error.unconfirmed]) from None
    if refused:
        raise _too_long(connection, longest, refused)


async def _send(connection: Connection, requests: Sequence[Request], messages: Sequence[Any]) -> None:
    refused, why = [], ""
    for message, answer in zip(messages, await connection.call(requests), strict=True):
        if b'"error"' in answer.data and (error := json.loads(answer.data).get("error")):  # else the stream's name
            refused.append(message)
            why = error.get("description", "")
    if refused:
        raise PublishError(f"{connection.where}: {why}", refused)


def _too_long(connection: Connection, longest: int, refused: Sequence[Any]) -> PublishError:
    what = f"takes at most {longest} bytes a message (see max_payload), and {LONGEST_HEADERS} of headers"
    return PublishError(f"{connection.where}: {what}", refused)


def fits(request: Request, longest: int) -> bool:
    """Whether the server takes it; it ends the connection of whoever sends more bytes than ``longest``."""
    size = size_of(request.headers or {})
    return size <= LONGEST_HEADERS and size + len(request.body) <= longest


def size_of(headers: Mapping[str, str]) -> int:
    """Bytes on the wire: a first line, one for each header, and an empty one."""
    return 12 + sum(len(name) + len(value.encode()) + 4 for name, value in headers.items())
