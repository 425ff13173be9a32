"""What the two engines that keep messages in tables share: receipts, rows as messages, and headers as JSON text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from ..broker import Message
from .messages import LONGEST_HEADERS, NO_HEADERS, headers_in

__all__ = ["Receipt", "message_in", "text_of"]

Receipt = tuple[int, int]
"""Names a delivery: the message's number, and one that is drawn anew by each receive: so no receipt fits a later
delivery, not even to the same process."""


def message_in(row: Sequence[Any], receipt: Receipt | None) -> Message:
    """The message of a row that begins with its id, body, attempt, time and headers."""
    headers = headers_in(row[4]) if len(row[4]) < LONGEST_HEADERS else NO_HEADERS
    return Message._make((row[0], row[1], row[2], row[3], headers, receipt))  # half the time of a call


def text_of(headers: Mapping[str, str]) -> str:
    """The headers as text; ``''`` for none."""
    return _text(tuple(headers.items())) if headers else ""


@lru_cache(256)  # most messages have the same ones
def _text(headers: tuple[tuple[str, str], ...]) -> str:
    return json.dumps(dict(headers))
