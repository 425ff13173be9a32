"""Putting messages into Redis: none that is so long that the server would end the connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ...broker import NotAllowed, Outgoing, PublishError
from .line import Line, Refused

__all__ = ["LONGEST", "check_sizes", "longest_at"]

LONGEST: Final = 512 * 2**20
"""Bytes of a value that a server takes, unless it was told otherwise."""


async def longest_at(line: Line) -> int:
    """Bytes of a value that the server takes; it ends the connection of whoever sends more.

    Hosted servers, and those where the user may not ask, are taken for one that was told nothing.
    """
    try:
        (found,) = await line.call(("CONFIG", "GET", "proto-max-bulk-len"))
    except (Refused, NotAllowed):
        return LONGEST
    return int(found[1]) if found else LONGEST


def check_sizes(messages: Sequence[Outgoing], longest: int) -> None:
    """Raise ``PublishError`` for all if one is too long, before any is sent: so the others can be put without it."""
    if any(len(one.body) > longest for one in messages):
        raise PublishError(f"Redis: takes at most {longest} bytes a message (see proto-max-bulk-len)", messages)
