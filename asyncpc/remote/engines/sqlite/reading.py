"""Messages from a SQLite file to this process, many in one row.

A thread lets others go on while SQLite looks for the next row, and then has to wait until they let it go on: where the
loop's thread is busy, that takes longer than all else, for each row.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from itertools import repeat
from operator import truediv
from typing import Any, Final

from ...broker import Message
from ..messages import headers_in
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
        sizes = _numbers_of(lengths) if count == run.size else [-1]
        if sum(sizes) == len(body or b"") and ids.count("\n") == count - 1:  # an id may have a line break, too
            return messages_in(
                ids.split("\n"),
                map(BytesIO(body).read, sizes),
                1,
                _times_of(times, count),
                _headers_of(headers, count),
                zip(range(run.first, run.last + 1), repeat(run.owner)),
            )
    rows = read.execute(ROWS + these, values).fetchall()
    return [message_in(row, (row[5], run.owner)) for row in rows]


def _numbers_of(written: str) -> list[int]:
    numbers: list[int] = json.loads(f"[{written}]")  # in half the time of an int() for each
    return numbers


def _times_of(written: str, count: int) -> Iterable[float]:
    first = written.partition(",")[0]
    if written == ",".join([first] * count):  # what is put together has the same one
        return repeat(int(first) / 1e6)
    return map(truediv, _numbers_of(written), repeat(1e6))


def _headers_of(written: str, count: int) -> Iterable[Mapping[str, str]]:
    first = written.partition("\n")[0]
    if written == "\n".join([first] * count):  # most messages have the same ones
        return repeat(headers_in(first))
    return map(headers_in, written.split("\n"))


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
