"""``Lane``: the messages of a queue that are in the order of their putting, and the leases of those at its front.

All that no lease covers come after the last lease, and their numbers follow one another without a gap. So nobody
searches: what is ready begins behind the last lease, and how many it is tell the first number and the last one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import chain, repeat
from typing import Final, NamedTuple

from ...broker import Message, Outgoing
from ..rows import Receipt, texts_of
from .reading import messages_of
from .receipts import Run, by_owner, numbers_in
from .tables import APART, DEAD, LANE

__all__ = ["Lane", "Ready"]

OURS: Final = "seq BETWEEN ? AND ? AND ?=(SELECT owner FROM lease WHERE last>=? ORDER BY last LIMIT 1)"
"""The messages of a run, as long as its lease is there: the one that ends at or behind the run's last message."""

LEASE: Final = "last=(SELECT min(last) FROM lease WHERE last>=?) AND owner=?"
"""That of an owner's last run; whatever a receive gives of those apart has lower numbers than what is in the lane."""

EMPTY: Final = "NOT EXISTS(SELECT 1 FROM message WHERE seq BETWEEN lease.first AND lease.last)"

PUT_TOGETHER: Final = 100
"""Messages that one statement puts; SQLite used to take 999 values."""

AT_ONCE: Final = 1000
"""Messages that are read together; and of those whose lease has run out, how many go apart together, about."""


class Ready(NamedTuple):
    """What is there to receive."""

    numbers: range
    """Of the messages that no lease covers."""
    lease_ends: float
    """When the first lease does."""


class Lane:
    """That of one queue, whose number is given; every call is made in a transaction of ``write``, or only reads."""

    def __init__(self, queue: int) -> None:
        self._queue = queue
        self.all: tuple[int, int] = ((queue << LANE) + 1, ((queue + 1) << LANE) - 1)
        """The first number and the last one that its messages may have."""

    # -- receiving --------------------------------------------------------------------------------

    def ready(self, read: sqlite3.Connection) -> Ready:
        """Look; that takes as long as to look at the leases."""
        statement = """
            SELECT (SELECT min(seq) FROM message WHERE seq BETWEEN ifnull(behind + 1, ?) AND ?),
                (SELECT max(seq) FROM message WHERE seq BETWEEN ? AND ?), ifnull(lease_ends, 9e999)
            FROM (SELECT max(last) AS behind, min(until) AS lease_ends FROM lease WHERE last BETWEEN ? AND ?)"""
        first, last, ends = read.execute(statement, self.all * 3).fetchone()
        return Ready(range(0) if first is None else range(first, last + 1), ends)

    def lease(self, write: sqlite3.Connection, numbers: range, owner: int, until: float) -> None:
        """Let somebody have these, which begin where the ready ones do."""
        write.execute("INSERT INTO lease VALUES(?, ?, ?, ?)", (numbers[-1], numbers[0], owner, until))

    def end_leases(self, write: sqlite3.Connection, now: float) -> None:
        """Let messages go apart whose lease has run out; they stay their owner's until they are received again."""
        moved = 0
        over = "SELECT first, last, owner, until FROM lease WHERE last BETWEEN ? AND ? AND until<=? ORDER BY until"
        for *run, until in write.execute(over, (*self.all, now)).fetchall():
            lease = Run(*run)
            moved += self.let_apart(write, [lease], ("?", until), 1, lease.owner)
            if moved >= AT_ONCE:
                return

    def read(self, read: sqlite3.Connection, run: Run) -> list[Message]:
        """The messages of a run that are somebody's."""
        messages: list[Message] = []
        for first in range(run.first, run.last + 1, AT_ONCE):
            part = Run(first, min(first + AT_ONCE - 1, run.last), run.owner)
            messages += messages_of(read, f"message WHERE {OURS}", _values(part), part)
        return messages

    # -- putting and settling ---------------------------------------------------------------------

    def next(self, read: sqlite3.Connection) -> int:
        """The number of the next message: one that no message has, wherever it is now."""
        statement = """
            SELECT (SELECT max(seq) FROM message WHERE seq BETWEEN ? AND ?),
                (SELECT max(last) FROM lease WHERE last BETWEEN ? AND ?),
                (SELECT max(seq) FROM apart WHERE seq BETWEEN ? AND ?)"""
        found = read.execute(statement, self.all * 3).fetchone()
        return max([seq + 1 for seq in found if seq is not None], default=self.all[0])

    def put(self, write: sqlite3.Connection, numbered: Sequence[tuple[int, Outgoing]], now: float) -> None:
        """Add messages at the end; the numbers begin with the next one, and follow one another."""
        for begin in range(0, len(numbered), PUT_TOGETHER):
            numbers, messages = zip(*numbered[begin : begin + PUT_TOGETHER], strict=True)
            ids, bodies, headers, _, _, times, _ = zip(*messages, strict=True)
            rows = zip(numbers, repeat(now), times, ids, texts_of(headers), bodies, strict=False)
            places = ", ".join(["(?, ?, ?, ?, ?, ?)"] * len(messages))
            write.execute(f"INSERT INTO message VALUES{places}", [*chain.from_iterable(rows)])

    def delete(self, write: sqlite3.Connection, runs: Sequence[Run]) -> int:
        """Forget these deliveries' messages; return how many that was."""
        count = write.executemany(f"DELETE FROM message WHERE {OURS}", map(_values, runs)).rowcount
        leases = [(of_one[-1].last, owner) for owner, of_one in by_owner(runs).items()]
        write.executemany(f"DELETE FROM lease WHERE {LEASE} AND {EMPTY}", leases)
        return count

    def let_apart(
        self, write: sqlite3.Connection, runs: Sequence[Run], due: tuple[str, float], attempt: int, owner: int
    ) -> int:
        """Let these messages have a state of their own; return how many that was. ``due`` is an expression."""
        write.executemany(
            f"INSERT INTO apart({APART}) SELECT seq, ?, {due[0]}, ?, ?, time, id, headers, body"
            f" FROM message WHERE {OURS}",
            [(self._queue, due[1], attempt, owner, *_values(run)) for run in runs],
        )
        return self.delete(write, runs)

    def bury(self, write: sqlite3.Connection, name: str, dead: Sequence[tuple[Run, bytes]]) -> None:
        """Copy messages to the dead letters."""
        write.executemany(
            f"INSERT INTO dead({DEAD}) SELECT ?, ?, ?, id, body, 1, time, headers FROM message WHERE {OURS}",
            [(self._queue, name, failure, *_values(run)) for run, failure in dead],
        )

    def extend(self, write: sqlite3.Connection, runs: Sequence[Run], until: float) -> list[Receipt]:
        """Begin their leases anew, and return the receipts of those that have one.

        Where some of a lease are not named, those that are go apart, so that the others come again in time.
        """
        kept: list[Receipt] = []
        for owner, of_one in by_owner(runs).items():
            named = [
                seq
                for run in of_one
                for seq in numbers_in(write, f"SELECT seq FROM message WHERE {OURS}", _values(run))
            ]
            lease = (of_one[-1].last, owner)
            all_of_it = "SELECT count(*) FROM message WHERE seq BETWEEN first AND last"
            if write.execute(f"SELECT ({all_of_it}) FROM lease WHERE {LEASE}", lease).fetchone() == (len(named),):
                write.execute(f"UPDATE lease SET until=? WHERE {LEASE}", (until, *lease))
            elif named:
                self.let_apart(write, of_one, ("?", until), 1, owner)
            kept += [(seq, owner) for seq in named]
        return kept

    def purge(self, write: sqlite3.Connection, limit: int) -> int:
        """Forget some of those that are ready; return how many."""
        these = self.ready(write).numbers[:limit]
        return write.execute("DELETE FROM message WHERE seq BETWEEN ? AND ?", (these.start, these.stop - 1)).rowcount


def _values(run: Run) -> tuple[int, int, int, int]:
    return run.first, run.last, run.owner, run.last
