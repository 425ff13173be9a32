"""``QueueFile``: the statements that make queues of the tables in a SQLite file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from math import inf
from operator import itemgetter
from secrets import randbits
from time import time
from typing import Any, ClassVar, Final

from ...offload.calls import Job
from ..broker import DeadLetter, Depth, Message, Outgoing, places_to_know
from .rows import Receipt, message_in, text_of
from .sqlite_file import DatabaseFile
from .sqlite_receipts import OURS, Taken, runs_of
from .sqlite_tables import FRESH, KIND, MESSAGE, ROW, SCHEMA, SUSPECT

__all__ = ["QueueFile"]

REMEMBERED: Final = 600.0
"""Seconds for which an id is not taken again, at least, from its put; and as long as its message is in the queue. An id
that was made is known by the first one of its batch, and as long as that."""

TOGETHER: Final = 100
"""Messages that one statement puts; SQLite used to take 999 values."""

PURGED: Final = 1000
"""Messages that are forgotten in one transaction."""


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

    def make(self, jobs: list[Job]) -> None:
        """Also read what was taken, when others have their turn to write: that makes a call of SQLite for each row."""
        super().make(jobs)
        for job in jobs:
            if job.error is None and isinstance(job.value, Taken):
                try:
                    job.value = self._read(job.value)
                except Exception as error:  # which is none of the other calls
                    job.error = self._told(error)

    def take(self, limit: int, suspects: int) -> Taken:
        """Begin to receive; ``make`` gives the messages. See ``Broker.receive``."""
        if not self._has_some(suspects):
            return Taken()
        write, now, owner = self.writing(), time(), randbits(62) + 1
        found = self._ready(SUSPECT, now, suspects)
        found += self._ready(FRESH, now, limit - len(found))
        taken = Taken([(seq, owner) for seq in found])
        change = "UPDATE message SET due=?, attempt=attempt+1, owner=? WHERE seq BETWEEN ? AND ?"
        write.executemany(change, [(now + self._lease, *run) for run in runs_of(taken)])
        self._written += len(taken)  # or an idle queue would be looked at again and again in a turn to write
        return taken

    def _ready(self, which: str, now: float, limit: int) -> list[int]:
        """The numbers of messages that are ready, in order, which come as one text: see ``Run``."""
        if limit <= 0:
            return []
        ready = f"SELECT seq FROM message WHERE queue=? AND {which} AND due<=? ORDER BY due, seq LIMIT ?"
        found = self.reading().execute(f"SELECT group_concat(seq) FROM ({ready})", (self._queue, now, limit))
        (numbers,) = found.fetchone()
        return [int(number) for number in numbers.split(",")] if numbers else []

    def _read(self, taken: Taken) -> list[Message]:
        """The messages, in order; a lease may be over, and somebody else may have it."""
        messages: list[Message] = []
        for run in runs_of(taken):
            rows = self.reading().execute(f"SELECT {MESSAGE}, seq FROM message WHERE {OURS} ORDER BY seq", run)
            messages += [message_in(row, (row[-1], run.owner)) for row in rows.fetchall()]
        if taken != sorted(taken):  # some had been given back, or were delayed
            places = {receipt: place for place, receipt in enumerate(taken)}
            messages.sort(key=lambda message: places[message.receipt])
        return messages

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

    def put(self, messages: Sequence[Outgoing]) -> None:
        """See ``Broker.publish``."""
        write, now = self.writing(), time()
        self._written += 1
        first = self._next()
        known_by = [first + place for place in places_to_know(messages)]  # for each, the message whose id is remembered
        known = [
            (seq, self._queue, one.id, now + REMEMBERED)
            for seq, (one, by) in enumerate(zip(messages, known_by, strict=True), first)
            if seq == by
        ]
        self._forget(2 * len(known), now)
        numbered = list(enumerate(messages, first))
        if write.executemany("INSERT OR IGNORE INTO seen VALUES(?, ?, ?, ?)", known).rowcount < len(known):
            numbered = [(seq, one) for seq, one in numbered if self._is_new(known_by[seq - first])]
        for begin in range(0, len(numbered), TOGETHER):
            part = numbered[begin : begin + TOGETHER]
            values: list[object] = []
            for seq, one in part:
                values += seq, self._queue, now + max(0.0, one.delay), one.time, one.id, text_of(one.headers), one.body
            write.execute(f"INSERT INTO message VALUES{', '.join([ROW] * len(part))}", values)

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
        runs = runs_of(one.receipt for one in messages)
        return self.writing().executemany(f"DELETE FROM message WHERE {OURS}", runs).rowcount

    def release(self, messages: Sequence[Message], delay: float, counted: bool) -> None:
        """See ``Broker``; without a delay they are due from when they were put, and so in their old order."""
        now = time()
        due = "min(time, ?)" if delay <= 0 else "?"
        self._written += 1
        self.writing().executemany(
            f"UPDATE message SET owner=0, attempt=attempt-?, due={due} WHERE {OURS}",
            [(not counted, now + max(0.0, delay), *run) for run in runs_of(one.receipt for one in messages)],
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
        for run in runs_of(one.receipt for one in messages):
            extended = write.execute(f"UPDATE message SET due=? WHERE {OURS}", (due, *run)).rowcount
            is_whole = extended == len(run.receipts)
            kept.update(
                run.receipts if is_whole else write.execute(f"SELECT seq, owner FROM message WHERE {OURS}", run)
            )
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
        read, now = self.reading(), time()
        rows = [
            row
            for which in (FRESH, SUSPECT)
            for row in read.execute(
                f"SELECT due, seq, {MESSAGE} FROM message"
                f" WHERE queue=? AND {which} AND due<=? ORDER BY due, seq LIMIT ?",
                (self._queue, now, limit),
            )
        ]
        return [message_in(row[2:], None) for row in sorted(rows)[:limit]]

    def dead(self, limit: int, after: int) -> list[DeadLetter]:
        """See ``Broker``."""
        rows = self.reading().execute(
            f"SELECT seq, failure, {MESSAGE} FROM dead WHERE queue=? AND name=? AND seq>? ORDER BY seq LIMIT ?",
            (*self._dead, after, limit),
        )
        return [DeadLetter(f"{row[0]:020}", message_in(row[2:], None), row[1]) for row in rows]

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

    fleeting: ClassVar[frozenset[Callable[..., Any]]] = frozenset({take, extend, release})
    """Without them a message comes again, now or when its lease has run out."""
