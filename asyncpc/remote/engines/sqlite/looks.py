"""What can be seen of a queue in a SQLite file: how many messages there are, and those that are ready."""

from __future__ import annotations

import sqlite3
from typing import Final

from ...broker import Depth, Message
from ..rows import message_in
from .lane import Lane
from .tables import FRESH, MESSAGE, SUSPECT

__all__ = ["depth", "peek"]

LEASED: Final = "lease CROSS JOIN message ON seq BETWEEN first AND last WHERE last BETWEEN ? AND ?"
"""The messages in the lane that a lease covers."""


def depth(read: sqlite3.Connection, queue: int, dead_letter: str, now: float) -> Depth:
    """How many messages there are; of those that are ready in the lane, only the first is looked at."""
    lane = Lane(queue)
    numbers = lane.ready(read).numbers
    ready, leased, delayed = len(numbers), 0, 0
    oldest = read.execute("SELECT time FROM message WHERE seq=?", (numbers.start,)).fetchall()
    over = f"SELECT until<=?, count(*), min(time) FROM {LEASED} GROUP BY 1"
    for is_over, count, time in read.execute(over, (now, *lane.all)):
        ready += count * is_over
        leased += count * (not is_over)
        oldest += [(time,)] * is_over
    for which in (FRESH, SUSPECT):
        where = f"FROM apart WHERE queue=? AND {which} AND due"
        ready += read.execute(f"SELECT count(*) {where}<=?", (queue, now)).fetchone()[0]
        owners = read.execute(f"SELECT count(*), count(nullif(owner, 0)) {where}>?", (queue, now)).fetchone()
        leased += owners[1]
        delayed += owners[0] - owners[1]
        oldest += read.execute(f"SELECT time {where}<=? ORDER BY due LIMIT 1", (queue, now)).fetchall()
    dead = read.execute("SELECT count(*) FROM dead WHERE queue=? AND name=?", (queue, dead_letter)).fetchone()[0]
    return Depth(ready, leased, delayed, dead, max((max(0.0, now - since) for (since,) in oldest), default=None))


def peek(read: sqlite3.Connection, queue: int, now: float, limit: int) -> list[Message]:
    """Messages that are ready, in order."""
    lane = Lane(queue)
    numbers = lane.ready(read).numbers[:limit]
    of_lane = "id, body, {}, time, headers FROM"
    rows = read.execute(
        f"SELECT due, seq, {of_lane.format(0)} message WHERE seq BETWEEN ? AND ?", (numbers.start, numbers.stop - 1)
    ).fetchall()
    over = f"SELECT until, seq, {of_lane.format(1)} {LEASED} AND until<=? ORDER BY until, seq LIMIT ?"
    rows += read.execute(over, (*lane.all, now, limit)).fetchall()
    for which in (FRESH, SUSPECT):
        rows += read.execute(
            f"SELECT due, seq, {MESSAGE} FROM apart WHERE queue=? AND {which} AND due<=? ORDER BY due, seq LIMIT ?",
            (queue, now, limit),
        ).fetchall()
    return [message_in(row[2:], None) for row in sorted(rows)[:limit]]
