"""``Apart``: the messages of a queue that each have a state of their own.

They were put with a delay or given back, or their lease has run out. Few are, as a rule, so what this costs matters
less than that nothing is ever searched for.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from math import inf
from typing import Final

from ...broker import Message, Outgoing
from ..rows import Receipt, message_in, text_of
from .receipts import Run, numbers_in
from .tables import APART, DEAD, FRESH, LANE, MESSAGE, SUSPECT

__all__ = ["Apart"]

OURS: Final = "seq BETWEEN ? AND ? AND owner=?"
"""The messages of a run, but for those that somebody else has by now."""

READY: Final = "FROM apart WHERE queue=? AND {} AND due<=? ORDER BY due, seq LIMIT ?"


class Apart:
    """That of one queue, whose number is given; every call is made in a transaction of ``write``, or only reads."""

    def __init__(self, queue: int) -> None:
        self._queue = queue

    # -- receiving --------------------------------------------------------------------------------

    def first_due(self, read: sqlite3.Connection) -> tuple[float, float]:
        """When the first fresh message is, and the first suspect."""
        first = "(SELECT min(due) FROM apart WHERE queue=? AND {})"
        found = read.execute(f"SELECT {first.format(FRESH)}, {first.format(SUSPECT)}", (self._queue, self._queue))
        fresh, suspect = found.fetchone()
        return inf if fresh is None else fresh, inf if suspect is None else suspect

    def suspects(self, read: sqlite3.Connection, now: float, limit: int) -> list[int]:
        """The numbers of suspects that are ready, in order."""
        return numbers_in(read, f"SELECT seq {READY.format(SUSPECT)}", (self._queue, now, limit))

    def fresh(self, read: sqlite3.Connection, now: float, limit: int, lane: range) -> list[int]:
        """The numbers of messages that are ready, in order, with those of the lane among them.

        However often the clock was set back, those of the lane come in their own order.
        """
        here = f"SELECT due, seq FROM (SELECT due, seq {READY.format(FRESH)})"
        there = "SELECT due, seq FROM message WHERE seq BETWEEN ? AND ?"
        ends = (lane.start, lane.stop - 1)
        both = f"SELECT seq FROM ({here} UNION ALL {there}) ORDER BY due, seq LIMIT ?"
        found, next_there = numbers_in(read, both, (self._queue, now, limit, *ends, limit)), iter(lane)
        return [next(next_there) if seq in lane else seq for seq in found]

    def lease(self, write: sqlite3.Connection, runs: Sequence[Run], until: float) -> None:
        """Let somebody have these, which are ready."""
        change = "UPDATE apart SET due=?, attempt=attempt+1, owner=? WHERE seq BETWEEN ? AND ?"
        write.executemany(change, [(until, run.owner, run.first, run.last) for run in runs])

    def read(self, read: sqlite3.Connection, run: Run) -> list[Message]:
        """The messages of a run that are somebody's."""
        rows = read.execute(f"SELECT {MESSAGE}, seq FROM apart WHERE {OURS}", run)
        return [message_in(row, (row[5], run.owner)) for row in rows.fetchall()]

    # -- putting and settling ---------------------------------------------------------------------

    def next(self, read: sqlite3.Connection) -> int:
        """The number of the next message that is put here, whatever its queue."""
        (last,) = read.execute("SELECT max(seq) FROM apart WHERE seq<?", (1 << LANE,)).fetchone()
        return 1 + (last or 0)

    def put(self, write: sqlite3.Connection, numbered: Sequence[tuple[int, Outgoing]], now: float) -> None:
        """Add messages that have a delay."""
        write.executemany(
            f"INSERT INTO apart({APART}) VALUES(?, ?, ?, 0, 0, ?, ?, ?, ?)",
            [
                (seq, self._queue, now + one.delay, one.time, one.id, text_of(one.headers), one.body)
                for seq, one in numbered
            ],
        )

    def delete(self, write: sqlite3.Connection, runs: Sequence[Run]) -> int:
        """Forget these deliveries' messages; return how many that was."""
        return write.executemany(f"DELETE FROM apart WHERE {OURS}", runs).rowcount

    def release(self, write: sqlite3.Connection, runs: Sequence[Run], due: tuple[str, float], counted: bool) -> None:
        """Give these deliveries back; ``due`` is an expression."""
        write.executemany(
            f"UPDATE apart SET owner=0, attempt=attempt-?, due={due[0]} WHERE {OURS}",
            [(not counted, due[1], *run) for run in runs],
        )

    def bury(self, write: sqlite3.Connection, name: str, dead: Sequence[tuple[Run, bytes]]) -> None:
        """Copy messages to the dead letters."""
        write.executemany(
            f"INSERT INTO dead({DEAD}) SELECT queue, ?, ?, {MESSAGE} FROM apart WHERE {OURS}",
            [(name, failure, *run) for run, failure in dead],
        )

    def extend(self, write: sqlite3.Connection, runs: Sequence[Run], until: float) -> list[Receipt]:
        """Begin these leases anew, and return their receipts."""
        write.executemany(f"UPDATE apart SET due=? WHERE {OURS}", [(until, *run) for run in runs])
        kept = "SELECT seq FROM apart WHERE " + OURS
        return [(seq, run.owner) for run in runs for seq in numbers_in(write, kept, run)]

    def purge(self, write: sqlite3.Connection, now: float, limit: int) -> int:
        """Forget some of those that nobody has; return how many."""
        these = "SELECT seq FROM apart WHERE queue=? AND {} AND (owner=0 OR due<=?) LIMIT ?"
        return sum(
            write.execute(f"DELETE FROM apart WHERE seq IN ({these.format(which)})", (self._queue, now, limit)).rowcount
            for which in (FRESH, SUSPECT)
        )
