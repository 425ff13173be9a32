"""Items as bytes and back: msgspec, which checks each item against the declared type when it arrives.

Nothing is ever unpickled, and no message names anything to import (faults F1, F2). Sizes are checked before decoding
(fault F3).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from secrets import randbits
from typing import Any, Final, Literal, NamedTuple, NoReturn

from ..errors import DefinitionError
from ..wording import shown
from .broker import PayloadError

try:
    import msgspec
except ImportError as _missing:
    raise DefinitionError("remote_queue needs msgspec: pip install 'asyncpc[remote]'") from _missing

__all__ = ["MAX_HEADERS", "Codec", "CodecName", "check_headers", "check_id", "codec_for", "new_ids", "safe_headers"]

CodecName = Literal["json", "msgpack"]

MAX_HEADERS: Final = 64

MAX_HEADER_BYTES: Final = 4096
"""Of all headers of a message together."""

PASSED_ON: Final = frozenset({"content-type", "traceparent", "tracestate", "reply-to"})
"""The headers that have a meaning; those of the user begin with ``x-``."""

_NAME: Final = re.compile(r"[a-z0-9-]{1,64}")
_VALUE: Final = re.compile(r"[\x20-\x7e]*")


class Codec(NamedTuple):
    """How the items of one queue become bytes, and bytes become items."""

    content_type: str
    encode: Callable[[Any], bytes]
    decoders: Mapping[str, Callable[[bytes], Any]]
    """By content type; each may raise anything: see :meth:`refused`."""
    max_bytes: int
    """The largest body."""

    def encoded(self, item: Any) -> bytes:
        """The item as bytes; raises ``PayloadError``."""
        try:
            body = self.encode(item)
        except Exception as error:
            raise PayloadError(f"{shown(item)} cannot be encoded: {shown(str(error), 200)}") from None
        if len(body) > self.max_bytes:
            raise PayloadError(f"{shown(item)} takes {len(body)} bytes; max_bytes={self.max_bytes} allows no more")
        return body

    def encoded_each(self, items: Sequence[Any]) -> list[bytes]:
        """Several at once, in less time; raises ``PayloadError`` for the first that cannot be sent."""
        with suppress(Exception):
            bodies = [*map(self.encode, items)]
            if max(map(len, bodies), default=0) <= self.max_bytes:
                return bodies
        return [self.encoded(item) for item in items]

    def decoded(self, body: bytes, headers: Mapping[str, str]) -> Any:
        """The item of a message; raises ``PayloadError``."""
        try:
            return self.decoder_for(headers)(body if len(body) <= self.max_bytes else self.too_long(body))
        except Exception as error:
            raise self.refused(error) from None

    def decoder_for(self, headers: Mapping[str, str]) -> Callable[[bytes], Any]:
        """What makes items of messages with these headers, whose bodies are not too long; raises ``PayloadError``.

        What it returns raises anything: see :meth:`refused`.
        """
        content_type = headers.get("content-type", self.content_type)
        decode = self.decoders.get(content_type)
        if decode is None:
            raise PayloadError(
                f"the message has the content type {shown(content_type)}, which this queue does not read"
            )
        return decode

    def too_long(self, body: bytes) -> NoReturn:
        """Raise the ``PayloadError`` of a body with more than ``max_bytes``."""
        raise PayloadError(f"the message has {len(body)} bytes; max_bytes={self.max_bytes} allows no more")

    def refused(self, error: Exception) -> PayloadError:
        """What a message is given up with whose decoding raised ``error``; RecursionError of a deep one (fault F5)."""
        if isinstance(error, PayloadError):
            return error
        return PayloadError(f"the message is not what was declared: {shown(str(error), 200)}")


def codec_for(where: str, declared: Any, codec: object, max_bytes: int) -> Codec:
    """The codec for items of the ``declared`` type; raises ``DefinitionError`` for one that it cannot check."""
    if codec not in ("json", "msgpack"):
        raise DefinitionError(f"{where}: codec={shown(codec)} must be 'json' or 'msgpack'")
    _check_type(where, declared)
    json = msgspec.json.Decoder(declared, dec_hook=_validate)
    packed = msgspec.msgpack.Decoder(declared, dec_hook=_validate)
    encode = msgspec.json.Encoder(enc_hook=_dump) if codec == "json" else msgspec.msgpack.Encoder(enc_hook=_dump)
    return Codec(
        content_type=f"application/{codec}",
        encode=encode.encode,
        decoders={
            "application/json": json.decode,
            "application/msgpack": packed.decode,
        },
        max_bytes=max_bytes,
    )


def _check_type(where: str, declared: Any) -> None:
    try:
        unknown = _custom(msgspec.inspect.type_info(declared), set())
    except Exception as error:
        raise DefinitionError(f"{where}: {shown(declared)} cannot be checked: {shown(str(error), 200)}") from None
    if unknown is not None:
        raise DefinitionError(
            f"{where}: {shown(unknown)} is no type of plain data: declare a dataclass, a msgspec.Struct, a TypedDict, "
            "a pydantic model, or a built-in type"
        )


def _custom(info: Any, seen: set[int]) -> Any:
    """A type inside ``info`` that nobody could check, if there is one."""
    if isinstance(info, msgspec.inspect.CustomType):
        return None if _is_model(info.cls) else info.cls
    if isinstance(info, (list, tuple)):
        return next((found for one in info if (found := _custom(one, seen)) is not None), None)
    if isinstance(info, (msgspec.inspect.Type, msgspec.inspect.Field)) and id(info) not in seen:
        seen.add(id(info))
        return _custom([getattr(info, name) for name in info.__struct_fields__], seen)
    return None


def _is_model(kind: Any) -> bool:
    """Whether a type is a model of pydantic, which is never imported here."""
    return hasattr(kind, "model_validate") and hasattr(kind, "model_dump")


def _dump(value: Any) -> Any:
    if _is_model(type(value)):
        return value.model_dump(mode="json")
    # what msgspec documents for an enc_hook that does not know the type; encoded() makes a PayloadError of it
    raise NotImplementedError(f"{type(value).__name__} is no type of plain data")


def _validate(kind: Any, value: Any) -> Any:
    return kind.model_validate(value)


# -- headers and ids ------------------------------------------------------------------------------


def check_id(name: str) -> None:
    """Raise ``PayloadError`` for an id that is no text for other programs."""
    if not isinstance(name, str):
        raise PayloadError(f"id={shown(name)} must be a string")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise PayloadError(f"id {shown(name)}: it holds a lone surrogate, which UTF-8 cannot carry") from None


def check_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """The headers that a user gives; raises ``PayloadError`` for those that no engine could carry."""
    for name, value in headers.items():
        if not (isinstance(name, str) and isinstance(value, str)):
            raise PayloadError(f"header {shown(name)}: {shown(value)}: names and values must be strings")
        if not (name in PASSED_ON or name.startswith("x-")):
            raise PayloadError(f"header {shown(name)}: the headers of a program begin with 'x-'")
    if safe_headers(headers) != headers:
        raise PayloadError(
            f"headers must be at most {MAX_HEADERS}, of printable ASCII, lower-case names, and {MAX_HEADER_BYTES} "
            "bytes together"
        )
    return headers


def safe_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Those headers of a message that are what they should be (fault F10); the others are left out."""
    kept: dict[str, str] = {}
    room = MAX_HEADER_BYTES
    for name, value in headers.items():
        room -= len(name) + len(value)
        if len(kept) == MAX_HEADERS or room < 0:
            break
        if (name in PASSED_ON or name.startswith("x-")) and _NAME.fullmatch(name) and _VALUE.fullmatch(value):
            kept[name] = value
    return kept


def new_ids(count: int) -> list[str]:
    """So many UUIDs of version 7 (RFC 9562), which sort as they come here, and before those of a later millisecond.

    The last digits count on from a number that is drawn once, as the RFC allows: that takes a tenth of the time.
    """
    now, drawn = time.time_ns() // 1_000_000, randbits(73)  # not those of random, which a program may seed
    drawn, first = drawn >> 47, drawn & (1 << 47) - 1
    begin = f"{now >> 16:08x}-{now & 0xFFFF:04x}-7{drawn >> 14:03x}-{0x8000 | drawn & 0x3FFF:04x}-"
    return [begin + number.to_bytes(6).hex() for number in range(first, first + count)]
