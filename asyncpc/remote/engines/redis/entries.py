"""Entries of a stream of Redis as messages, and messages as arguments of the script, for the engine ``redis``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from ...broker import DeadLetter, Message, Outgoing
from ..messages import headers_in
from .script import AT_ONCE

__all__ = ["Receipt", "arguments_of", "dead_letter", "is_entry", "message", "names_of", "parts", "shared"]

AnyMessage = TypeVar("AnyMessage", Message, Outgoing)


class Receipt(NamedTuple):
    """A delivery."""

    consumer: str
    stream: int  # 1 or 2, as the script knows it
    entry: bytes
    deliveries: int  # of this entry


def message(entry: bytes, fields: Sequence[bytes], receipt: Receipt | None) -> Message:
    """What an entry holds, whoever wrote it."""
    if len(fields) == 4 and fields[0] == b"meta" and fields[2] == b"body":  # as the script puts it first
        meta, body, attempt = fields[1], fields[3], 0
    else:
        found = dict(zip(fields[::2], fields[1::2], strict=True))
        meta, body, attempt = found.get(b"meta", b""), found.get(b"body", b""), _attempt(found.get(b"attempt"))
    try:
        time, headers, written = meta.split(b"\n", 2)
    except ValueError:
        time, headers, written = [*meta.split(b"\n"), b"", b""][:3]
    return Message(
        (written or entry).decode("utf-8", "backslashreplace"),
        body,
        attempt if receipt is None else attempt + receipt.deliveries,
        _seconds(time, entry),
        headers_in(headers),
        receipt,
    )


def dead_letter(entry: bytes, fields: Sequence[bytes]) -> DeadLetter:
    """What an entry of the dead letters holds."""
    failure = dict(zip(fields[::2], fields[1::2], strict=True)).get(b"failure", b"")
    return DeadLetter(entry.decode(), message(entry, fields, None), failure)


def _attempt(written: bytes | None) -> int:
    return int(written) if written is not None and written.isdigit() and len(written) < 7 else 0  # as the script


def _seconds(written: bytes, entry: bytes) -> float:
    """When a message was put, else when its entry was made."""
    try:
        seconds = float(written)
    except ValueError:
        seconds = math.inf
    if math.isfinite(seconds):
        return seconds
    return int(entry.partition(b"-")[0]) / 1000


def arguments_of(messages: Iterable[Outgoing]) -> Iterator[str | bytes | int]:
    """What the script needs to put the messages."""
    last: Mapping[str, str] = {}
    headers = ""
    for one in messages:
        if one.headers is not last:  # most often, those of all are the same
            last = one.headers
            headers = json.dumps(dict(last), separators=(",", ":")) if last else ""
        yield one.id
        yield math.ceil(1000 * one.delay) if one.delay > 0 else 0
        yield f"{one.time:.3f}\n{headers}\n{one.id}"
        yield one.body


def names_of(messages: Iterable[Message]) -> Iterator[bytes | int]:
    """What the script needs to know deliveries again."""
    for one in messages:
        yield one.receipt.entry
        yield one.receipt.deliveries


def parts(messages: Iterable[Message], size: float = math.inf) -> Iterator[tuple[tuple[str, int], Sequence[Message]]]:
    """The messages by their consumers and streams, in order, shared out as ``shared`` does."""
    places: dict[tuple[str, int], list[Message]] = {}
    last, some = ("", 0), []
    for one in messages:
        consumer, stream, _, _ = one.receipt
        if consumer is not last[0] or stream != last[1]:  # most often, all are of one
            last = consumer, stream
            some = places.setdefault(last, [])
        some.append(one)
    for place, some in places.items():
        for part in shared(some, size):
            yield place, part


def shared(messages: Sequence[AnyMessage], size: float) -> Iterator[Sequence[AnyMessage]]:
    """The messages, as many at once as the script takes, with bodies of so many bytes if they are not one."""
    if size == math.inf:
        yield from (messages[start : start + AT_ONCE] for start in range(0, len(messages), AT_ONCE))
        return
    part: list[AnyMessage] = []
    left = size
    for one in messages:
        left -= len(one.body)
        if part and (len(part) == AT_ONCE or left < 0):
            yield part
            part, left = [], size - len(one.body)
        part.append(one)
    if part:
        yield part


def is_entry(place: str) -> bool:
    """Whether this can be the name of an entry."""
    return re.fullmatch(r"\d{1,18}-\d{1,18}", place) is not None
