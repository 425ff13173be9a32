"""``QueueFile``: what a broker does with its queue in a SQLite file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from secrets import randbits
from time import time
from typing import Any, ClassVar, Final

from ....offload.calls import Job
from ....wording import shown
from ...broker import DeadLetter, Depth, Message, Outgoing, Settings, no_queue
from ..rows import message_in
from .apart import Apart
from .file import DatabaseFile
from .ids import SeenIds
from .lane import Lane
from .looks import depth, peek
from .reading import at_one_moment
from .receipts import Run, Taken, runs_of
from .tables import KIND, MESSAGE, SCHEMA, VERSION

__all__ = ["QueueFile"]

PURGED: Final = 1000
"""Messages that are forgotten in one transaction."""


class QueueFile(DatabaseFile):
    """See ``Broker`` for what each call promises."""

    def __init__(self, path: str, queue: str, settings: Settings, synchronous: str) -> None:
        super().__init__(path, KIND, VERSION, SCHEMA, synchronous)
        self._name_of_queue = queue
        self._dead_letter = settings.dead_letter
        self._lease = settings.lease
        self._must_exist = settings.must_exist
        self._written = 0  # by this connection, which data_version does not tell
        self._looked_at: tuple[int, ...] = ()
        self._nothing_until = 0.0
        self._are_more_likely = False  # since the last receive has got all that it asked for

    def open(self) -> str:
        """Also find the number of the queue; see ``DatabaseFile``."""
        if self._must_exist:
            self._check_has_tables()
        path = super().open()
        find = "SELECT number FROM queue WHERE name=?"
        if (found := self.reading().execute(find, (self._name_of_queue,)).fetchone()) is None:
            self._check_may_make()
            write = self.writing()
            write.execute("INSERT OR IGNORE INTO queue(name) VALUES(?)", (self._name_of_queue,))
            found = write.execute(find, (self._name_of_queue,)).fetchone()
        self._queue: int = found[0]
        self._lane, self._apart, self._ids = Lane(self._queue), Apart(self._queue), SeenIds(self._queue)
        return path

    def _check_has_tables(self) -> None:
        """Before the file is opened, which would make it, and tables in an empty one."""
        if not os.path.exists(self.path):
            raise no_queue(f"at {self._name}, nor such a file")
        if os.path.getsize(self.path) == 0:
            raise no_queue(f"at {self._name}, which is empty")

    def _check_may_make(self) -> None:
        if self._must_exist:
            names = [shown(name) for (name,) in self.reading().execute("SELECT name FROM queue ORDER BY name LIMIT 10")]
            has = f", which has {', '.join(names)}" if names else ""
            raise no_queue(f"{shown(self._name_of_queue)} in {self._name}{has}")

    # -- receiving --------------------------------------------------------------------------------

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
        if not (self._are_more_likely or self._has_some(suspects)):
            return Taken(0, ())
        write, now, owner = self.writing(), time(), randbits(62) + 1
        self._written += 1  # or an idle queue would be looked at again and again in a turn to write
        lane, lease_ends = self._lane.ready(write)
        if lease_ends <= now:
            self._lane.end_leases(write, now)
        fresh_due, suspect_due = self._apart.first_due(write)
        found: Sequence[int] = self._apart.suspects(write, now, suspects) if suspect_due <= now else []
        room = limit - len(found)
        lane = lane[:room]
        if fresh_due <= now:
            fresh = self._apart.fresh(write, now, room, lane)
            lane = lane[: len([seq for seq in fresh if seq in lane])]
            found = [*found, *fresh]
        else:
            found = [*found, *lane] if found else lane
        if lane:
            self._lane.lease(write, lane, owner, now + self._lease)
        if len(found) > len(lane):
            apart = runs_of((seq, owner) for seq in found if seq not in lane)
            self._apart.lease(write, apart, now + self._lease)
        self._are_more_likely = len(found) >= limit
        return Taken(owner, found)

    def _read(self, taken: Taken) -> list[Message]:
        """The messages, in order; a lease may be over, and somebody else may have it."""
        read = self.reading()
        messages: list[Message] = []
        is_in_order = True
        for run in taken.runs():
            part = self._lane.read(read, run)
            if len(part) < run.size:
                part += self._apart.read(read, run)
                is_in_order = False
            messages += part
        if not is_in_order:
            found = {message.receipt[0]: message for message in messages}  # one may have gone apart after it was read
            messages = [found[seq] for seq in taken.numbers if seq in found]
        return messages

    def _has_some(self, suspects: int) -> bool:
        """Whether it is worth while to wait for the turn to write; two microseconds if nobody has written since."""
        read = self.reading()
        state = (*read.execute("PRAGMA data_version").fetchone(), self._written, suspects)
        if state != self._looked_at:
            lane, lease_ends = self._lane.ready(read)
            fresh_due, suspect_due = self._apart.first_due(read)
            first_due = min(fresh_due, suspect_due) if suspects else fresh_due
            self._nothing_until = 0.0 if lane else min(lease_ends, first_due)
            self._looked_at = state
        return self._nothing_until <= time()

    # -- putting ----------------------------------------------------------------------------------

    def put(self, messages: Sequence[Outgoing]) -> None:
        """See ``Broker.publish``."""
        write, now = self.writing(), time()
        self._written += 1
        delayed = [one for one in messages if one.delay > 0]
        ready = [one for one in messages if one.delay <= 0] if delayed else messages
        lane = list(enumerate(ready, self._lane.next(write)))
        apart = list(enumerate(delayed, self._apart.next(write))) if delayed else []
        new = self._ids.add(write, [*lane, *apart], now)
        if len(new) < len(messages):  # begin anew without the others, as numbers in the lane follow one another
            if new:
                self.put(new)
            return
        self._lane.put(write, lane, now)
        self._apart.put(write, apart, now)

    # -- settling ---------------------------------------------------------------------------------

    def ack(self, messages: Sequence[Message]) -> int:
        """See ``Broker``."""
        return self._delete(runs_of([one.receipt for one in messages]))

    def _delete(self, runs: Sequence[Run]) -> int:
        write = self.writing()
        count = self._lane.delete(write, runs)
        return count if count == sum(run.size for run in runs) else count + self._apart.delete(write, runs)

    def release(self, messages: Sequence[Message], delay: float, counted: bool) -> None:
        """See ``Broker``; without a delay they are due from when they were put, and so in their old order."""
        write, runs = self.writing(), runs_of(one.receipt for one in messages)
        self._written += 1
        due = ("?" if delay > 0 else "min(time, ?)", time() + max(0.0, delay))
        self._apart.release(write, runs, due, counted)
        self._lane.let_apart(write, runs, due, int(counted), 0)

    def bury(self, dead: Sequence[tuple[Message, bytes]]) -> None:
        """See ``Broker``."""
        write = self.writing()
        runs = [(runs_of([one.receipt])[0], failure) for one, failure in dead]
        self._lane.bury(write, self._dead_letter, runs)
        self._apart.bury(write, self._dead_letter, runs)
        self._delete(runs_of(one.receipt for one, _ in dead))

    def extend(self, messages: Sequence[Message]) -> list[Message]:
        """See ``Broker``."""
        write, until, runs = self.writing(), time() + self._lease, runs_of(one.receipt for one in messages)
        kept = set(self._apart.extend(write, runs, until)) | set(self._lane.extend(write, runs, until))
        return [one for one in messages if one.receipt not in kept]

    # -- looking ----------------------------------------------------------------------------------

    def depth(self) -> Depth:
        """See ``Broker``."""
        with at_one_moment(self.reading()):
            return depth(self.reading(), self._queue, self._dead_letter, time())

    def peek(self, limit: int) -> list[Message]:
        """See ``Broker``."""
        with at_one_moment(self.reading()):
            return peek(self.reading(), self._queue, time(), limit)

    def dead(self, limit: int, after: int) -> list[DeadLetter]:
        """See ``Broker``."""
        rows = self.reading().execute(
            f"SELECT seq, failure, {MESSAGE} FROM dead WHERE queue=? AND name=? AND seq>? ORDER BY seq LIMIT ?",
            (self._queue, self._dead_letter, after, limit),
        )
        return [DeadLetter(f"{row[0]:020}", message_in(row[2:], None), row[1]) for row in rows]

    def requeue(self, places: Sequence[int]) -> int:
        """See ``Broker``; takes them out of the dead letters in the same transaction."""
        write, now = self.writing(), time()
        first = seq = self._lane.next(write)
        self._written += 1
        for place in places:
            key = (place, self._queue, self._dead_letter)
            put = "SELECT ?, ?, time, id, headers, body FROM dead WHERE seq=? AND queue=? AND name=?"
            if write.execute(f"INSERT INTO message {put}", (seq, now, *key)).rowcount:
                write.execute("DELETE FROM dead WHERE seq=?", (place,))
                self._ids.add_again(write, seq, now)
                seq += 1
        return seq - first

    def purge(self, dead: bool) -> int:
        """Forget some; 0 when there are no more. Others, who wait for their turn to write, come in between."""
        write, now = self.writing(), time()
        if dead:
            these = "SELECT seq FROM dead WHERE queue=? AND name=? LIMIT ?"
            values = (self._queue, self._dead_letter, PURGED)
            return write.execute(f"DELETE FROM dead WHERE seq IN ({these})", values).rowcount
        self._lane.end_leases(write, now)
        return self._lane.purge(write, PURGED) + self._apart.purge(write, now, PURGED)

    fleeting: ClassVar[frozenset[Callable[..., Any]]] = frozenset({take, extend, release})
    """Without them a message comes again, now or when its lease has run out."""
