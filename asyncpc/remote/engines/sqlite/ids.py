"""Ids of messages that are not taken again, in a SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import takewhile
from operator import itemgetter
from typing import Final

from ...broker import Outgoing, places_to_know

__all__ = ["SeenIds"]

REMEMBERED: Final = 600.0
"""Seconds for which an id is not taken again, at least, from its put; and as long as its message is in the queue. An id
that was made is known by the first one of its batch, and as long as that."""

IS_OLD: Final = f"until NOT BETWEEN {{}} AND {{}}+{2 * REMEMBERED}"
"""At a time; also an id of when the clock was wrong, and far ahead."""

IS_GONE: Final = """
    NOT EXISTS(SELECT 1 FROM message WHERE seq=seen.seq AND id=seen.id)
    AND NOT EXISTS(SELECT 1 FROM apart WHERE seq=seen.seq AND id=seen.id AND queue=seen.queue)"""
"""Whether its message has left the queue; another message may have its number by now."""

ADD: Final = f"""
    INSERT INTO seen VALUES(?, ?, ?, ?, ?) ON CONFLICT(queue, id)
    DO UPDATE SET place=excluded.place, until=excluded.until, seq=excluded.seq
    WHERE {IS_OLD.format("?", "?")} AND {IS_GONE}"""
"""Does nothing if the id is known."""


class SeenIds:
    """Those of one queue, whose number is given."""

    def __init__(self, queue: int) -> None:
        self._queue = queue
        self._forgotten = 0  # the last place up to which old ids were let go of

    def add(
        self, write: sqlite3.Connection, numbered: Sequence[tuple[int, Outgoing]], now: float
    ) -> Sequence[Outgoing]:
        """The messages, once their ids are known; if some were known before, only the others, and nothing is done."""
        places = places_to_know([one for _, one in numbered])
        (last,) = write.execute("SELECT max(place) FROM seen").fetchone()
        first = 1 + (last or 0)
        known = [
            (first + place, self._queue, one.id, now + REMEMBERED, seq, now, now)
            for place, (seq, one) in enumerate(numbered)
            if places[place] == place
        ]
        self._forget(write, 2 * len(known), now)
        if write.executemany(ADD, known).rowcount == len(known):
            return [one for _, one in numbered]
        new = {place - first for (place,) in write.execute("SELECT place FROM seen WHERE place>=?", (first,))}
        write.execute("DELETE FROM seen WHERE place>=?", (first,))
        return [one for place, (_, one) in zip(places, numbered, strict=True) if place in new]

    def add_again(self, write: sqlite3.Connection, seq: int, now: float) -> None:
        """A message has come back into the lane with an id that was known, or may have been."""
        known = "SELECT ?, id, ?, seq FROM message WHERE seq=?"
        write.execute(
            f"INSERT OR REPLACE INTO seen(queue, id, until, seq) {known}", (self._queue, now + REMEMBERED, seq)
        )

    def _forget(self, write: sqlite3.Connection, limit: int, now: float) -> None:
        """Let go of old ids, more than come in, so that there is an end to them; not of those still in a queue."""
        rows = write.execute(
            f"SELECT place, {IS_OLD.format('?', '?')}, {IS_GONE} FROM seen WHERE place>? ORDER BY place LIMIT ?",
            (now, now, self._forgotten, limit),
        )
        old = list(takewhile(itemgetter(1), rows))
        rows.close()  # or what fails behind here might keep it, and the connection at this moment
        write.executemany("DELETE FROM seen WHERE place=?", [(place,) for place, _, is_gone in old if is_gone])
        self._forgotten = old[-1][0] if len(old) == limit else 0  # past those still in a queue; or begin anew
