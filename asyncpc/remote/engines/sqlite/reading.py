"""Messages from a SQLite file to this process, many in one row.

A thread lets others go on while SQLite looks for the next row, and then has to wait until they let it go on: where the
loop's thread is busy, that takes longer than all else, for each row.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise, repeat
from typing import Any, Final

from ...broker import Message
from ..rows import message_in, messages_in
from .receipts import Run

__all__ = ["at_one_moment", "messages_of"]

SMALL: Final = 4096
"""Bytes of a body that is read together with others."""

TOGETHER: Final = f"""
    SELECT count(*), group_concat(id, '\n'), group_concat(length(body)), group_concat(CAST(time*1e6 AS INTEGER)),
        group_concat(headers, '\n'), CAST(group_concat(CASE WHEN length(body)<={SMALL} THEN body END, '') AS BLOB)
    FROM """
"""Of rows by their number, so in its order. A float as text would take more time than all else."""

ROWS: Final = "SELECT id, body, 1, time, headers, seq FROM "


def messages_of(read: sqlite3.Connection, these: str, values: Sequence[Any], run: Run) -> list[Message]:
    """The messages of a run that are among ``these`` rows of the lane, of which no two have the same number."""
    if run.size > 1:
        count, ids, lengths, times, headers, body = read.execute(TOGETHER + these, values).fetchone()
        ends = list(accumulate(map(int, lengths.split(",")))) if count == run.size else [-1]
        if ends[-1] == len(body or b"") and ids.count("\n") == count - 1:  # an id may have a line break, too
            return messages_in(
                ids.split("\n"),
                [body[begin:end] for begin, end in pairwise((0, *ends))] if body else repeat(b""),
                1,
                [int(time) / 1e6 for time in times.split(",")],
                headers.split("\n"),
                zip(range(run.first, run.last + 1), repeat(run.owner)),
            )
    rows = read.execute(ROWS + these, values).fetchall()
    return [message_in(row, (row[5], run.owner)) for row in rows]


@contextmanager
def at_one_moment(read: sqlite3.Connection) -> Iterator[None]:
    """Let all statements see the file as it is at the first of them."""
    if read.in_transaction:
        yield
        return
    read.execute("BEGIN")
    try:
        yield
    finally:
        if read.in_transaction:
            read.execute("ROLLBACK")
