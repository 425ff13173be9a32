"""``QueueFile``: the tables and statements that make queues of a SQLite file.

``due`` is at once when a message was put, the end of its delay and the end of its lease, so nobody has to look after
those: what is due can be received. Times are those of the system's clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile
from math import inf
from operator import itemgetter
from random import getrandbits
from time import time
from typing import Any, Final, NamedTuple

from ..broker import SUSPECT_AFTER, DeadLetter, Depth, Message, Outgoing
from .headers import headers_of, text_of
from .sqlite_file import DatabaseFile

__all__ = ["QueueFile", "Receipt"]

KIND: Final = 0x61706371
"""The application id of the file."""

FRESH: Final = f"attempt<{SUSPECT_AFTER}"
SUSPECT: Final = f"attempt>={SUSPECT_AFTER}"
"""Each has an index of its own, so that neither has to be searched for among the other."""

SCHEMA: Final = (
    """CREATE TABLE message(
        seq INTEGER PRIMARY KEY, queue TEXT NOT NULL, due REAL NOT NULL, attempt INTEGER NOT NULL,
        owner INTEGER NOT NULL, time REAL NOT NULL, id TEXT NOT NULL, headers TEXT NOT NULL, body BLOB NOT NULL)""",
    f"CREATE INDEX message_fresh ON message(queue, due) WHERE {FRESH}",
    f"CREATE INDEX message_suspect ON message(queue, due) WHERE {SUSPECT}",
    """CREATE TABLE seen(
        seq INTEGER PRIMARY KEY, queue TEXT NOT NULL, id TEXT NOT NULL, until REAL NOT NULL, UNIQUE(queue, id))""",
    """CREATE TABLE dead(
        seq INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, name TEXT NOT NULL, attempt INTEGER NOT NULL,
        time REAL NOT NULL, id TEXT NOT NULL, headers TEXT NOT NULL, body BLOB NOT NULL, failure BLOB NOT NULL)""",
    "CREATE INDEX dead_name ON dead(queue, name)",
)
"""A message keeps its ``owner`` (0 for none) when its lease has run out: it is still that one's until it is received
again. ``seen`` holds the ids that are not taken again. Nothing here needs a newer SQLite than that of 2018."""

REMEMBERED: Final = 600.0
"""Seconds for which an id is not taken again, from its put; and as long as its message is in the queue."""

PURGED: Final = 1000
"""Messages that are forgotten in one transaction."""


class Receipt(NamedTuple):
    """Names a delivery."""

    seq: int
    """The message."""
    owner: int
    """Drawn anew by each receive, so that no receipt fits a later delivery, not even to the same process."""


class _Run(NamedTuple):
    """Deliveries of one owner whose numbers follow one another; one statement is for all of them.

    It takes half the time of one for each, in which the loop's thread could not go on either.
    """

    owner: int
    first: int
    last: int


OURS: Final = "owner=? AND seq BETWEEN ? AND ?"
"""The messages of a run."""


class QueueFile(DatabaseFile):
    """What a broker does with its queue; see ``Broker`` for what each call promises."""

    def __init__(self, path: str, queue: str, dead_letter: str, lease: float, synchronous: str) -> None:
        super().__init__(path, KIND, 1, SCHEMA, synchronous)
        self._queue = queue
        self._dead = (queue, dead_letter)
        self._lease = lease
        self._written = 0  # by this connection, which data_version does not tell
        self._looked_at: tuple[int, ...] = ()
        self._nothing_until = 0.0
        self._forgotten = 0  # the last number up to which old ids were let go of

    def take(self, limit: int, suspects: int) -> list[Message]:
        """See ``Broker.receive``."""
        if not self._has_some(suspects):
            return []
        write, now = self.writing(), time()
        rows = self._due(FRESH, now, limit)
        if suspects:
            rows = sorted(rows + self._due(SUSPECT, now, suspects))[:limit]
        owner = getrandbits(62) + 1
        taken = [_message(row[2:], Receipt(row[1], owner)) for row in rows]
        change = "UPDATE message SET due=?, attempt=attempt+1, owner=? WHERE seq BETWEEN ? AND ?"
        write.executemany(change, [(now + self._lease, *run) for run in _runs(taken)])
        return taken

    def _has_some(self, suspects: int) -> bool:
        """Whether it is worth while to wait for the turn to write; two microseconds if nobody has written since."""
        read = self.reading()
        state = (*read.execute("PRAGMA data_version").fetchone(), self._written, suspects)
        if state != self._looked_at:
            first = "SELECT min(due) FROM message WHERE queue=? AND "
            found = [
                read.execute(first + which, (self._queue,)).fetchone()[0] for which in (FRESH, SUSPECT)[: 1 + suspects]
            ]
            self._nothing_until = min((due for due in found if due is not None), default=inf)
            self._looked_at = state
        return self._nothing_until <= time()

    def _due(self, which: str, now: float, limit: int) -> list[tuple[Any, ...]]:
        return (
            self.reading()
            .execute(
                f"SELECT due, seq, id, body, attempt+1, time, headers FROM message"
                f" WHERE queue=? AND {which} AND due<=? ORDER BY due, seq LIMIT ?",
                (self._queue, now, limit),
            )
            .fetchall()
        )

    def put(self, messages: Sequence[Outgoing]) -> None:
        """See ``Broker.publish``."""
        write, now = self.writing(), time()
        self._written += 1
        self._forget(2 * len(messages), now)
        numbered = list(enumerate(messages, self._next()))
        known = [(seq, self._queue, one.id, now + REMEMBERED) for seq, one in numbered]
        if write.executemany("INSERT OR IGNORE INTO seen VALUES(?, ?, ?, ?)", known).rowcount < len(known):
            numbered = [(seq, one) for seq, one in numbered if self._is_new(seq)]
        write.executemany(
            "INSERT INTO message VALUES(?, ?, ?, 0, 0, ?, ?, ?, ?)",
            [
                (seq, self._queue, now + max(0.0, one.delay), one.time, one.id, text_of(one.headers), one.body)
                for seq, one in numbered
            ],
        )

    def _next(self) -> int:
        """The number of the next message; those in ``seen`` are taken too."""
        found = self.reading().execute("SELECT (SELECT max(seq) FROM message), (SELECT max(seq) FROM seen)").fetchone()
        return 1 + max(seq or 0 for seq in found)

    def _is_new(self, seq: int) -> bool:
        return self.reading().execute("SELECT 1 FROM seen WHERE seq=?", (seq,)).fetchone() is not None

    def _forget(self, limit: int, now: float) -> None:
        """Let go of old ids, more than come in, so that there is an end to them; not of those still in a queue."""
        write = self.writing()
        rows = write.execute(
            "SELECT seen.seq, until<=?, message.seq IS NULL FROM seen LEFT JOIN message USING(seq)"
            " WHERE seen.seq>? ORDER BY seen.seq LIMIT ?",
            (now, self._forgotten, limit),
        )
        old = list(takewhile(itemgetter(1), rows))
        write.executemany("DELETE FROM seen WHERE seq=?", [(seq,) for seq, _, is_gone in old if is_gone])
        self._forgotten = old[-1][0] if len(old) == limit else 0  # past those still in a queue; or begin anew

    def ack(self, messages: Sequence[Message]) -> int:
        """See ``Broker``."""
        return self.writing().executemany(f"DELETE FROM message WHERE {OURS}", _runs(messages)).rowcount

    def release(self, messages: Sequence[Message], delay: float, counted: bool) -> None:
        """See ``Broker``; without a delay they are due from when they were put, and so in their old order."""
        now = time()
        due = "min(time, ?)" if delay <= 0 else "?"
        self._written += 1
        self.writing().executemany(
            f"UPDATE message SET owner=0, attempt=attempt-?, due={due} WHERE {OURS}",
            [(not counted, now + max(0.0, delay), *run) for run in _runs(messages)],
        )

    def bury(self, dead: Sequence[tuple[Message, bytes]]) -> None:
        """See ``Broker``."""
        write = self.writing()
        write.executemany(
            "INSERT INTO dead(queue, name, id, body, attempt, time, headers, failure)"
            " SELECT queue, ?, id, body, attempt, time, headers, ? FROM message WHERE seq=? AND owner=?",
            [(self._dead[1], failure, *one.receipt) for one, failure in dead],
        )
        self.ack([one for one, _ in dead])

    def extend(self, messages: Sequence[Message]) -> list[Message]:
        """See ``Broker``."""
        write, due, kept = self.writing(), time() + self._lease, set[Receipt]()
        for run in _runs(messages):
            write.execute(f"UPDATE message SET due=? WHERE {OURS}", (due, *run))
            kept.update(map(Receipt._make, write.execute(f"SELECT seq, owner FROM message WHERE {OURS}", run)))
        return [one for one in messages if one.receipt not in kept]

    def depth(self) -> Depth:
        """See ``Broker``."""
        read, now = self.reading(), time()
        ready = leased = delayed = 0
        oldest = []
        for which in (FRESH, SUSPECT):
            where = f"FROM message WHERE queue=? AND {which} AND due"
            ready += read.execute(f"SELECT count(*) {where}<=?", (self._queue, now)).fetchone()[0]
            owners = read.execute(f"SELECT count(*), count(nullif(owner, 0)) {where}>?", (self._queue, now)).fetchone()
            leased += owners[1]
            delayed += owners[0] - owners[1]
            oldest += read.execute(f"SELECT time {where}<=? ORDER BY due LIMIT 1", (self._queue, now)).fetchall()
        dead = read.execute("SELECT count(*) FROM dead WHERE queue=? AND name=?", self._dead).fetchone()[0]
        return Depth(ready, leased, delayed, dead, max((max(0.0, now - since) for (since,) in oldest), default=None))

    def peek(self, limit: int) -> list[Message]:
        """See ``Broker``."""
        now = time()
        rows = sorted(self._due(FRESH, now, limit) + self._due(SUSPECT, now, limit))[:limit]
        return [_message((*row[2:4], row[4] - 1, *row[5:]), None) for row in rows]

    def dead(self, limit: int, after: int) -> list[DeadLetter]:
        """See ``Broker``."""
        rows = self.reading().execute(
            "SELECT seq, failure, id, body, attempt, time, headers FROM dead"
            " WHERE queue=? AND name=? AND seq>? ORDER BY seq LIMIT ?",
            (*self._dead, after, limit),
        )
        return [DeadLetter(f"{row[0]:020}", _message(row[2:], None), row[1]) for row in rows]

    def requeue(self, places: Sequence[int]) -> int:
        """See ``Broker``; takes them out of the dead letters in the same transaction."""
        write, now, first = self.writing(), time(), self._next()
        self._written += 1
        seq = first
        for place in places:
            key = (place, *self._dead)
            put = "SELECT ?, queue, ?, 0, 0, time, id, headers, body FROM dead WHERE seq=? AND queue=? AND name=?"
            if write.execute(f"INSERT INTO message {put}", (seq, now, *key)).rowcount:
                write.execute("DELETE FROM dead WHERE seq=?", (place,))
                known = "SELECT seq, queue, id, ? FROM message WHERE seq=?"
                write.execute(f"INSERT OR REPLACE INTO seen {known}", (now + REMEMBERED, seq))
                seq += 1
        return seq - first

    def purge(self, dead: bool) -> int:
        """Forget some; 0 when there are no more. Others, who wait for their turn to write, come in between."""
        if dead:
            return self._delete("dead WHERE queue=? AND name=?", self._dead)
        values = (self._queue, time())
        return sum(
            self._delete(f"message WHERE queue=? AND {which} AND (owner=0 OR due<=?)", values)
            for which in (FRESH, SUSPECT)
        )

    def _delete(self, these: str, values: tuple[Any, ...]) -> int:
        table = these.partition(" ")[0]
        statement = f"DELETE FROM {table} WHERE seq IN (SELECT seq FROM {these} LIMIT {PURGED})"
        return self.writing().execute(statement, values).rowcount


def _message(row: Sequence[Any], receipt: Receipt | None) -> Message:
    name, body, attempt, since, headers = row
    return Message(name, body, attempt, since, headers_of(headers), receipt)


def _runs(messages: Iterable[Message]) -> list[_Run]:
    """The deliveries of these messages."""
    runs: list[_Run] = []
    owner = first = last = 0
    for seq, its_owner in sorted([one.receipt for one in messages]):
        if seq != last + 1 or its_owner != owner:
            runs.append(_Run(owner, first, last))
            owner, first = its_owner, seq
        last = seq
    return [*runs[1:], _Run(owner, first, last)] if runs else []
