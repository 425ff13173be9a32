"""SQLite: the module by hand, with the table that people write; its calls block the loop, which makes it faster."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from functools import partial

from msgspec.json import decode, encode

from ..work import Peer, Round, in_batches

TABLE = "CREATE TABLE IF NOT EXISTS raw(id INTEGER PRIMARY KEY, queue TEXT, due REAL, body BLOB)"
INDEX = "CREATE INDEX IF NOT EXISTS raw_due ON raw(queue, due, id)"
TAKE = """
    UPDATE raw SET due = ? WHERE id IN (SELECT id FROM raw WHERE queue = ? AND due <= ? ORDER BY due, id LIMIT ?)
    RETURNING id, body"""


class Raw:
    """So many messages in one transaction, as durable as asyncpc's."""

    def __init__(self, at_once: int, url: str, queue: str) -> None:
        self._at_once = at_once
        self._path = url.removeprefix("sqlite:///")
        self._queue = queue

    def _opened(self) -> sqlite3.Connection:
        database = sqlite3.connect(f"{self._path}.raw", isolation_level=None)
        for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", TABLE, INDEX):
            database.execute(statement)
        return database

    async def publish(self, work: Round) -> None:
        """See ``Client``."""
        database = self._opened()
        async for batch in in_batches(work, self._at_once):
            rows = [(self._queue, time.time(), encode(one)) for one in batch]
            database.execute("BEGIN IMMEDIATE")
            database.executemany("INSERT INTO raw(queue, due, body) VALUES(?, ?, ?)", rows)
            database.execute("COMMIT")
        database.close()

    async def consume(self, work: Round) -> None:
        """See ``Client``."""
        database = self._opened()
        pause = 0.0
        while not work.done.is_set():
            await asyncio.sleep(pause)
            now = time.time()
            database.execute("BEGIN IMMEDIATE")
            rows = database.execute(TAKE, (now + 60.0, self._queue, now, self._at_once)).fetchall()
            database.execute("COMMIT")
            pause = 0.0 if rows else 0.001
            await work.handle_all([decode(body)["n"] for _, body in rows])
            database.execute("BEGIN IMMEDIATE")
            database.executemany("DELETE FROM raw WHERE id=?", [(number,) for number, _ in rows])
            database.execute("COMMIT")
        database.close()


PEERS: dict[str, tuple[Peer, ...]] = {
    "sqlite": (
        Peer("raw batched", partial(Raw, 500), (), batch=500),
        Peer("raw one by one", partial(Raw, 1), ()),
    )
}
