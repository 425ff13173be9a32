"""The tables of the SQLite engine.

``due`` is at once when a message was put, the end of its delay and the end of its lease, so nobody has to look after
those: what is due can be received. Times are those of the system's clock.
"""

from __future__ import annotations

from typing import Final

from ..broker import SUSPECT_AFTER

__all__ = ["FRESH", "KIND", "MESSAGE", "ROW", "SCHEMA", "SUSPECT"]

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

MESSAGE: Final = "id, body, attempt, time, headers"
"""Of a row, in the order that ``message_in`` expects."""

ROW: Final = "(?, ?, ?, 0, 0, ?, ?, ?, ?)"
"""A message that was put."""
