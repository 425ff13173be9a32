"""Receipts of the SQLite engine: which delivery of which message; and those that follow one another, together."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..rows import Receipt

__all__ = ["Run", "Taken", "by_owner", "numbers_in", "runs_of"]


class Run(NamedTuple):
    """Deliveries of one owner whose messages have numbers that follow one another; one statement is for all of them.

    It takes half the time of one for each. And it is one call of SQLite, during which the loop's thread goes on; for
    every one of many calls this thread may have to wait until that one pauses, with the turn to write.
    """

    first: int
    last: int
    owner: int

    @property
    def size(self) -> int:
        """How many they are."""
        return self.last - self.first + 1


class Taken(NamedTuple):
    """The deliveries that a receive has begun."""

    owner: int
    numbers: Sequence[int]
    """Of their messages, in the order in which these are to be handled."""

    def runs(self) -> list[Run]:
        """They, in as few runs as there are."""
        if isinstance(self.numbers, range):  # most often
            return [Run(self.numbers[0], self.numbers[-1], self.owner)] if self.numbers else []
        return runs_of([(seq, self.owner) for seq in self.numbers])


def runs_of(receipts: Iterable[Receipt]) -> list[Run]:
    """These deliveries, in as few runs as there are."""
    runs: list[Run] = []
    owner = first = last = 0
    for seq, its_owner in sorted(receipts):
        if seq != last + 1 or its_owner != owner:
            runs.append(Run(first, last, owner))
            owner, first = its_owner, seq
        last = seq
    return [*runs[1:], Run(first, last, owner)] if runs else []


def by_owner(runs: Iterable[Run]) -> dict[int, list[Run]]:
    """The runs of each owner."""
    found: dict[int, list[Run]] = {}
    for run in runs:
        found.setdefault(run.owner, []).append(run)
    return found


def numbers_in(read: sqlite3.Connection, select: str, values: Sequence[Any]) -> list[int]:
    """The numbers that a statement finds, in its order; they come as one text: see ``Run``."""
    (numbers,) = read.execute(f"SELECT group_concat(seq) FROM ({select})", values).fetchone()
    return [int(number) for number in numbers.split(",")] if numbers else []
