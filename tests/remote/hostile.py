"""Messages that nobody should send."""

from __future__ import annotations

import random

import msgspec

__all__ = ["TYPES", "made_at_random"]

TYPES = ["application/json", "application/msgpack", "text/html", "x" * 3000, ""]
"""What messages may say of what they are."""


def made_at_random(seed: int) -> bytes:
    """Bytes that may look like a message."""
    rng = random.Random(seed)
    kind = seed % 6
    if kind == 0:
        return rng.randbytes(rng.randrange(900))
    if kind == 1:
        return b"[" * rng.randrange(1, 900)
    if kind == 2:
        return b'{"number": ' + b"9" * rng.randrange(1, 900) + rng.choice([b"}", b"e999}", b".5}", b""])
    if kind == 3:
        return msgspec.msgpack.encode({"number": rng.choice([None, "1", [1], {}, 1.5, 2**63, True]), "text": 1})
    if kind == 4:
        body = bytearray(b'{"number": 1, "text": "abc"}')
        for _ in range(rng.randrange(1, 4)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        return bytes(body)
    return rng.choice([b'"\\ud800"', b"NaN", b"\x00", b'{"number":1,"number":"x"}', b"\xef\xbb\xbf{}", b"\x81" * 700])
