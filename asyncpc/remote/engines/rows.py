"""What the two engines that keep messages in tables share: receipts, rows as messages, and headers as JSON text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import repeat
from typing import Any

from ..broker import Message
from .messages import headers_in

__all__ = ["Receipt", "message_in", "messages_in", "text_of", "texts_of"]

Receipt = tuple[int, int]
"""Names a delivery: the message's number, and one that is drawn anew by each receive: so no receipt fits a later
delivery, not even to the same process."""


def message_in(row: Sequence[Any], receipt: Receipt | None) -> Message:
    """The message of a row that begins with its id, body, attempt, time and headers."""
    return Message._make((row[0], row[1], row[2], row[3], headers_in(row[4]), receipt))  # half the time of a call


def messages_in(
    ids: Iterable[str],
    bodies: Iterable[bytes],
    attempt: int,
    times: Iterable[float],
    headers: Iterable[Mapping[str, str]],
    receipts: Iterable[Receipt],
) -> list[Message]:
    """The messages of columns of equal length; in half the time of a call for each."""
    rows = zip(ids, bodies, repeat(attempt), times, headers, receipts, strict=False)
    return [*map(tuple.__new__, repeat(Message), rows)]


def text_of(headers: Mapping[str, str]) -> str:
    """The headers as text; ``''`` for none."""
    return _text(tuple(headers.items())) if headers else ""


def texts_of(headers: Iterable[Mapping[str, str]]) -> Iterator[str]:
    """Those of several messages; what is put together most often shares them."""
    before: Mapping[str, str] | None = None
    text = ""
    for one in headers:
        if one is not before:
            before, text = one, text_of(one)
        yield text


@lru_cache(256)  # most messages have the same ones
def _text(headers: tuple[tuple[str, str], ...]) -> str:
    return json.dumps(dict(headers))
