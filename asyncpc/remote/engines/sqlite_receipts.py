"""Receipts of the SQLite engine: which delivery of which message; and those that follow one another, together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from .rows import Receipt

__all__ = ["OURS", "Run", "Taken", "runs_of"]


class Taken(list[Receipt]):
    """The deliveries that a receive has begun, in the order of their messages."""


class Run(NamedTuple):
    """Deliveries of one owner whose messages have numbers that follow one another; one statement is for all of them.

    It takes half the time of one for each. And it is one call of SQLite, during which the loop's thread goes on; for
    every one of many calls this thread may have to wait until that one pauses, with the turn to write.
    """

    owner: int
    first: int
    last: int

    @property
    def receipts(self) -> list[Receipt]:
        """Of each delivery."""
        return [(seq, self.owner) for seq in range(self.first, self.last + 1)]


OURS: Final = "owner=? AND seq BETWEEN ? AND ?"
"""The messages of a run, but for those that somebody else has by now."""


def runs_of(receipts: Iterable[Receipt]) -> list[Run]:
    """These deliveries, in as few runs as there are."""
    runs: list[Run] = []
    owner = first = last = 0
    for seq, its_owner in sorted(receipts):
        if seq != last + 1 or its_owner != owner:
            runs.append(Run(owner, first, last))
            owner, first = its_owner, seq
        last = seq
    return [*runs[1:], Run(owner, first, last)] if runs else []
