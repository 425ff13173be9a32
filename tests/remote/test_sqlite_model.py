"""A SQLite file does what a list of messages would do, each of which has a state of its own; and keeps its own laws."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
from remote.sqlite_process import LEASE, Clock, Process, attempts, bodies

from asyncpc.remote.broker import SUSPECT_AFTER, Disconnected, Message
from asyncpc.remote.engines.sqlite import queue as sqlite_queue
from asyncpc.remote.engines.sqlite.ids import REMEMBERED
from asyncpc.remote.engines.sqlite.lane import Lane
from asyncpc.remote.engines.sqlite.queue import QueueFile

STEPS = 300
"""Of one test."""

OPCODES = 5
"""Steps of SQLite between two at which a call may fail."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stands still unless a test sets it."""
    clock = Clock()
    monkeypatch.setattr(sqlite_queue, "time", clock)
    return clock


@dataclass
class Row:
    """A message."""

    id: str
    time: float
    due: float
    is_in_lane: bool
    attempt: int = 0
    owner: int = 0

    @property
    def place(self) -> tuple[float, bool]:
        """In the order; of two that became due at once, what was put with a delay comes first."""
        return self.due, self.is_in_lane


@dataclass
class Queue:
    """What the engine promises of one queue, told in the simplest way: every call looks at all messages."""

    rows: list[Row] = field(default_factory=list)
    dead: list[Row] = field(default_factory=list)
    put_at: dict[str, float] = field(default_factory=dict)
    """When each id was taken last."""

    def put(self, ids: list[str], now: float, delay: float) -> None:
        """Those whose id is neither in the queue nor was put lately."""
        for one in ids:
            if all(one != row.id for row in self.rows) and self.put_at.get(one, 0.0) + REMEMBERED < now:
                self.rows.append(Row(one, now, now + delay, not delay))
                self.put_at[one] = now

    def ready(self, now: float) -> list[Row]:
        """In their order."""
        return sorted((row for row in self.rows if row.due <= now), key=lambda row: row.place)

    def take(self, now: float, limit: int, suspects: int, owner: int) -> list[tuple[str, int]]:
        """The ids and attempts of those that ``owner`` gets."""
        due = self.ready(now)
        taken = [row for row in due if row.attempt >= SUSPECT_AFTER][:suspects]
        taken += [row for row in due if row.attempt < SUSPECT_AFTER][: limit - len(taken)]
        for row in taken:
            row.due, row.attempt, row.owner = now + LEASE, row.attempt + 1, owner
        return [(row.id, row.attempt) for row in taken]

    def remove(self, rows: list[Row]) -> None:
        """Let these go."""
        self.rows = [row for row in self.rows if row not in rows]

    def requeue(self, row: Row, now: float) -> None:
        """As a new message with its old id."""
        self.dead.remove(row)
        self.rows.append(Row(row.id, row.time, now, True))
        self.put_at[row.id] = now

    def depth(self, now: float) -> tuple[int, int, int, int]:
        """Ready, leased, delayed and dead."""
        ready, leased = len(self.ready(now)), len([row for row in self.rows if row.due > now and row.owner])
        return ready, leased, len(self.rows) - ready - leased, len(self.dead)


class Scenario:
    """One queue of the file: two processes that use it, and the queue as it should be."""

    def __init__(self, path: Path, name: str, clock: Clock, draw: random.Random) -> None:
        self._path, self._name, self._clock, self._draw = path, name, clock, draw
        self._processes = [Process(path, name, clock) for _ in range(2)]
        self._queue = Queue()
        self._held: list[tuple[int, Message]] = []  # by whom it was received
        self._step = 0

    def close(self) -> None:
        """Let go of the file."""
        for process in self._processes:
            process.close()

    def step(self) -> None:
        """Do something to the queue."""
        self._step += 1
        process, now = self._draw.choice(self._processes), self._clock.now
        if self._draw.random() < 0.05:
            self._draw.choice([self.purge, self.open_again])(process, now)
        else:
            often, seldom = [self.put, self.take, self.ack], [self.delay, self.put_again, self.bury, self.requeue]
            act = self._draw.choice([*often, *often, self.take, *seldom, self.release, self.extend])
            read = process.file.reading()
            read.set_progress_handler(self._fails_in_between(read), OPCODES)
            with suppress(Disconnected):  # then it has changed nothing
                act(process, now)
            read.set_progress_handler(None, 0)
        self._look()

    def _fails_in_between(self, read: sqlite3.Connection) -> Callable[[], bool]:
        """Lets one call of several fail, wherever it is in its transaction."""
        left = self._draw.randrange(1, 2000)

        def fails() -> bool:
            nonlocal left
            left -= read.in_transaction
            return left == 0 and read.in_transaction

        return fails

    # -- what is done -----------------------------------------------------------------------------

    def put(self, process: Process, now: float, delay: float = 0.0) -> None:
        """Some new ones, or with a delay."""
        ids = [f"{self._step}-{number}" for number in range(self._draw.randrange(1, 12))]
        process.put(*ids, delay=delay)
        self._queue.put(ids, now, delay)

    def delay(self, process: Process, now: float) -> None:
        """Some new ones with a delay."""
        self.put(process, now, self._draw.uniform(1.0, LEASE))

    def put_again(self, process: Process, now: float) -> None:
        """Some that were put before, and some that were not, one of them twice."""
        old = [*self._queue.put_at]
        ids = [*self._draw.sample(old, min(8, len(old))), f"{self._step}", f"{self._step}-", f"{self._step}"]
        self._draw.shuffle(ids)
        process.put(*ids)
        self._queue.put(ids, now, 0.0)

    def take(self, process: Process, now: float) -> None:
        """Some, maybe a suspect."""
        limit, suspects = self._draw.randrange(1, 20), self._draw.randrange(2)
        taken = process.take(limit, suspects)
        assert attempts(taken) == self._queue.take(now, limit, suspects, self._step)
        self._held += [(self._step, message) for message in taken]

    def ack(self, process: Process, now: float) -> None:
        """Some, among them such that others have by now."""
        messages, ours = self._chosen()
        assert process.ack(messages) == len(ours)
        self._queue.remove(ours)

    def bury(self, process: Process, now: float) -> None:
        """Likewise."""
        messages, ours = self._chosen()
        process.call(QueueFile.bury, [(message, b"{}") for message in messages])
        self._queue.remove(ours)
        self._queue.dead += ours

    def release(self, process: Process, now: float) -> None:
        """Likewise."""
        messages, ours = self._chosen()
        delay, counted = self._draw.choice([0.0, 3.0]), self._draw.random() < 0.5
        process.call(QueueFile.release, messages, delay, counted)
        for row in ours:
            row.due = now + delay if delay else min(row.time, now)
            row.owner, row.attempt = 0, row.attempt - (not counted)

    def extend(self, process: Process, now: float) -> None:
        """Likewise."""
        messages, ours = self._chosen()
        assert len(process.lost(messages)) == len(messages) - len(ours)
        for row in ours:
            row.due = now + LEASE

    def requeue(self, process: Process, now: float) -> None:
        """One that is dead, if no other has its id by now."""
        letters, there = process.call(QueueFile.dead, 1000, 0), {row.id for row in self._queue.rows}
        dead = {(row.id, row.attempt, row.time): row for row in self._queue.dead}
        assert len(letters) == len(self._queue.dead)
        found = [
            (letter.place, dead[letter.message.id, letter.message.attempt, letter.message.time]) for letter in letters
        ]
        if other := [one for one in found if one[1].id not in there]:
            place, row = self._draw.choice(other)
            assert process.call(QueueFile.requeue, [int(place)] * 2) == 1
            self._queue.requeue(row, now)

    def purge(self, process: Process, now: float) -> None:
        """What nobody has."""
        count = 0
        while purged := process.call(QueueFile.purge, False):
            count += purged
        gone = [row for row in self._queue.rows if not row.owner or row.due <= now]
        assert count == len(gone)
        self._queue.remove(gone)

    def open_again(self, process: Process, now: float) -> None:
        """A process ends, and another one begins."""
        process.close()
        self._processes[self._processes.index(process)] = Process(self._path, self._name, self._clock)

    def _chosen(self) -> tuple[list[Message], list[Row]]:
        """Some deliveries, and the messages that are still theirs; some deliveries will be tried again later."""
        share = self._draw.choice([0.1, 0.5, 1.0])
        chosen = [one for one in self._held if self._draw.random() < share]
        rows = {(row.id, row.owner): row for row in self._queue.rows if row.owner}
        ours = [rows[message.id, owner] for owner, message in chosen if (message.id, owner) in rows]
        self._held = [one for one in self._held if one not in chosen or self._draw.random() < 0.5][-60:]
        self._draw.shuffle(chosen)
        return [message for _, message in chosen], ours

    # -- what is seen -----------------------------------------------------------------------------

    def _look(self) -> None:
        """At all that can be seen, and at the laws of the tables."""
        file, now = self._processes[0], self._clock.now
        assert tuple(file.call(QueueFile.depth)[:4]) == self._queue.depth(now)
        assert bodies(file.call(QueueFile.peek, 5)) == [row.id for row in self._queue.ready(now)[:5]]
        read = file.file.reading()
        first, last = Lane(read.execute("SELECT number FROM queue WHERE name=?", (self._name,)).fetchone()[0]).all
        of_lane = f"BETWEEN {first} AND {last}"
        leases = read.execute(f"SELECT first, last FROM lease WHERE last {of_lane} ORDER BY last").fetchall()
        numbers = [seq for (seq,) in read.execute(f"SELECT seq FROM message WHERE seq {of_lane} ORDER BY seq")]
        assert all(before[1] < behind[0] for before, behind in pairwise(leases))
        assert all(any(begin <= seq <= end for seq in numbers) for begin, end in leases)
        behind = leases[-1][1] if leases else 0
        free = [seq for seq in numbers if seq > behind]
        assert free == [*range(free[0], free[0] + len(free))] if free else True
        covered = [seq for seq in numbers for begin, end in leases if begin <= seq <= end]
        assert covered + free == numbers
        assert read.execute("SELECT count(*) FROM message JOIN apart USING(seq)").fetchone() == (0,)


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(one, marks=pytest.mark.thorough) for one in range(4, 8))])
def test_it_is_as_if_each_message_had_a_state_of_its_own(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Protects all promises at once: whatever is done or fails, to several queues, gives what the simple one gives."""
    draw = random.Random(seed)
    monkeypatch.setattr(sqlite_queue, "randbits", draw.getrandbits)
    with ExitStack() as stack:
        queues = [Scenario(tmp_path / "queues.db", name, clock, draw) for name in ("jobs", "mails")]
        for queue in queues:
            stack.callback(queue.close)
        for _ in range(STEPS):
            clock.now += draw.choice([0.001, 0.001, 1.0, LEASE / 2])
            draw.choice(queues).step()
