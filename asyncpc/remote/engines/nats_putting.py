"""Puts messages into the streams of NATS: none that is so long that the server would end the connection."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any, Final

from ..broker import PublishError
from .nats_connection import Connection, Request

__all__ = ["fits", "put", "size_of"]

LONGEST_HEADERS: Final = 2**16 - 1
"""Bytes of headers that the server takes."""


async def put(connection: Connection, requests: Sequence[Request], messages: Sequence[Any], kept_free: int = 0) -> None:
    """Send these, which are made of those messages; each has to be that many bytes shorter than the server takes.

    Raises ``PublishError`` for the messages that were not sent, or that the server has refused.
    """
    longest = connection.longest - kept_free
    sent = [fits(one, longest) for one in requests]
    answers = await connection.call(list(compress(requests, sent)))
    refused = [message for message, is_sent in zip(messages, sent, strict=True) if not is_sent]
    why = f"takes at most {longest} bytes a message (see max_payload), and {LONGEST_HEADERS} of headers"
    for message, answer in zip(compress(messages, sent), answers, strict=True):
        if b'"error"' in answer.data and (error := json.loads(answer.data).get("error")):  # else the stream's name
            refused.append(message)
            why = error.get("description", "")
    if refused:
        raise PublishError(f"{connection.where}: {why}", refused)


def fits(request: Request, longest: int) -> bool:
    """Whether the server takes it; it ends the connection of whoever sends more bytes than ``longest``."""
    size = size_of(request.headers or {})
    return size <= LONGEST_HEADERS and size + len(request.body) <= longest


def size_of(headers: Mapping[str, str]) -> int:
    """Bytes on the wire: a first line, one for each header, and an empty one."""
    return 12 + sum(len(name) + len(value.encode()) + 4 for name, value in headers.items())
