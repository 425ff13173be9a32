"""What engines share: how much those for brokers send at once, and what is written into headers, and read there."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeVar

from ..broker import LONGEST_FAILURE, Message, PublishError

__all__ = ["AT_ONCE", "confirmed", "headers_in", "kept", "number_of", "parts"]

AT_ONCE: Final = 1000
"""Messages that are sent before their answers are waited for."""

BYTES_AT_ONCE: Final = 8 * 2**20

LONGEST_HEADERS: Final = 20_000
"""Characters of headers as JSON that are read; nobody writes as many (``codec.MAX_HEADER_BYTES``)."""

NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


class _Sent(Protocol):
    @property
    def body(self) -> bytes: ...


S = TypeVar("S", bound=_Sent)


def parts(messages: Sequence[S], alone: Callable[[], float] = lambda: math.inf) -> Iterator[tuple[int, Sequence[S]]]:
    """The messages in parts to send one after the other, each with the place of its first.

    One whose body is longer than what ``alone`` gives at that time is a part of its own.
    """
    first = size = 0
    for place, one in enumerate(messages):
        is_full = place - first == AT_ONCE or size >= BYTES_AT_ONCE
        if is_full or (place > first and max(len(one.body), len(messages[place - 1].body)) > alone()):
            yield first, messages[first:place]
            first, size = place, 0
        size += len(one.body)
    if messages:
        yield first, messages[first:]


def confirmed(messages: Sequence[Message], error: PublishError) -> list[Message]:
    """Those of the messages that were taken all the same."""
    refused = set(map(id, error.unconfirmed))
    return [one for one in messages if id(one) not in refused]


def kept(failure: bytes) -> str:
    """What stands of a failure in the headers of a dead letter: all, or nothing if it is too long."""
    return failure.decode("utf-8", "replace") if len(failure) <= LONGEST_FAILURE else "{}"


def number_of(text: str | None, other: float) -> float:
    """What a header says, if it can be believed (fault F10); else that other number."""
    try:
        number = float(text or "")
    except ValueError:
        return other
    return number if 0 <= number < 1e12 else other


def headers_in(written: str | bytes) -> Mapping[str, str]:
    """Headers that were written as JSON, whoever did it (fault F10); they cannot be changed, as messages share them."""
    return _headers_in(written) if len(written) <= LONGEST_HEADERS else NO_HEADERS


@lru_cache(256)  # most messages have the same ones
def _headers_in(written: str | bytes) -> Mapping[str, str]:
    found: Any = None
    if written:
        with suppress(ValueError, RecursionError):
            found = json.loads(written)
    if not isinstance(found, dict):
        return NO_HEADERS
    return MappingProxyType({name: value for name, value in found.items() if isinstance(value, str)})
