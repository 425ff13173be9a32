"""The tables of the SQLite engine. Times are those of the system's clock.

A message without a delay is put at the end of its queue's *lane*, the table ``message``. A receive changes none of
them: it adds a row to ``lease``, for all from ``first`` to ``last``, and an acknowledgement only deletes. What leaves
the lane goes *apart*, into a table where each message has a state of its own: what was given back, and what had a lease
that has run out. What is put with a delay is apart from the beginning.

``due`` is at once when a message was put, the end of its delay and the end of its lease, so nobody has to look after
those: what is due can be received.
"""

from __future__ import annotations

from typing import Final

from ...broker import SUSPECT_AFTER

__all__ = ["APART", "DEAD", "FRESH", "KIND", "LANE", "MESSAGE", "SCHEMA", "SUSPECT", "VERSION"]

KIND: Final = 0x61706371
"""The application id of the file."""

VERSION: Final = 2
"""Of the tables."""

LANE: Final = 40
"""The numbers of a queue's messages in the lane have the queue's above this bit, and follow one another below it; from
there they keep it. With 0 above are those that were put apart."""

FRESH: Final = f"attempt<{SUSPECT_AFTER}"
SUSPECT: Final = f"attempt>={SUSPECT_AFTER}"
"""Each has an index of its own, so that neither has to be searched for among the other."""

SCHEMA: Final = (
    "CREATE TABLE queue(number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
    """CREATE TABLE message(
        seq INTEGER PRIMARY KEY, due REAL NOT NULL, time REAL NOT NULL, id TEXT NOT NULL, headers TEXT NOT NULL,
        body BLOB NOT NULL)""",
    """CREATE TABLE lease(
        last INTEGER PRIMARY KEY, first INTEGER NOT NULL, owner INTEGER NOT NULL, until REAL NOT NULL)""",
    """CREATE TABLE apart(
        seq INTEGER PRIMARY KEY, queue INTEGER NOT NULL, due REAL NOT NULL, attempt INTEGER NOT NULL,
        owner INTEGER NOT NULL, time REAL NOT NULL, id TEXT NOT NULL, headers TEXT NOT NULL, body BLOB NOT NULL)""",
    f"CREATE INDEX apart_fresh ON apart(queue, due) WHERE {FRESH}",
    f"CREATE INDEX apart_suspect ON apart(queue, due) WHERE {SUSPECT}",
    """CREATE TABLE seen(
        place INTEGER PRIMARY KEY, queue INTEGER NOT NULL, id TEXT NOT NULL, until REAL NOT NULL, seq INTEGER NOT NULL,
        UNIQUE(queue, id))""",
    """CREATE TABLE dead(
        seq INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER NOT NULL, name TEXT NOT NULL, attempt INTEGER NOT NULL,
        time REAL NOT NULL, id TEXT NOT NULL, headers TEXT NOT NULL, body BLOB NOT NULL, failure BLOB NOT NULL)""",
    "CREATE INDEX dead_name ON dead(queue, name)",
)
"""A message apart keeps its ``owner`` (0 for none) when its lease has run out: it is still that one's until it is
received again. ``seen`` holds the ids that are not taken again. Nothing here needs a newer SQLite than that of 2018."""

MESSAGE: Final = "id, body, attempt, time, headers"
"""Of a row, in the order that ``message_in`` expects."""

APART: Final = "seq, queue, due, attempt, owner, time, id, headers, body"
DEAD: Final = "queue, name, failure, id, body, attempt, time, headers"
"""All of a message that is apart, and of a dead letter."""
