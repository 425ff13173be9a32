"""PostgreSQL: the client by hand, with the table that people write."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import asyncpg
from msgspec.json import decode, encode

from ..work import Peer, Round, in_batches

TABLE = (
    "CREATE TABLE IF NOT EXISTS raw(id BIGSERIAL PRIMARY KEY, queue TEXT, due TIMESTAMPTZ DEFAULT now(), body BYTEA)"
)
INDEX = "CREATE INDEX IF NOT EXISTS raw_due ON raw(queue, due, id)"
PUT = "INSERT INTO raw(queue, body) SELECT $1, unnest($2::bytea[])"
TAKE = """
    UPDATE raw SET due = now() + interval '60 s' WHERE id = ANY(ARRAY(
        SELECT id FROM raw WHERE queue = $1 AND due <= now() ORDER BY due, id LIMIT $2 FOR UPDATE SKIP LOCKED
    )) RETURNING id, body"""
"""With ``IN``, some plans look several times, and take more than they should."""

ACK = "DELETE FROM raw WHERE id = ANY($1::bigint[])"


class Raw:
    """So many messages in one statement."""

    def __init__(self, at_once: int, url: str, queue: str) -> None:
        self._at_once = at_once
        self._url = url
        self._queue = queue

    async def _connected(self) -> Any:
        connection: Any = await asyncpg.connect(self._url, ssl=False)
        await connection.execute(TABLE)
        await connection.execute(INDEX)
        return connection

    async def publish(self, work: Round) -> None:
        """See ``Client``."""
        connection = await self._connected()
        async for batch in in_batches(work, self._at_once):
            await connection.execute(PUT, self._queue, [encode(one) for one in batch])
        await connection.close()

    async def consume(self, work: Round) -> None:
        """See ``Client``."""
        connection = await self._connected()
        pause = 0.0
        while not work.done.is_set():
            await asyncio.sleep(pause)
            rows = await connection.fetch(TAKE, self._queue, self._at_once)
            pause = 0.0 if rows else 0.001
            await work.handle_all([decode(row["body"])["n"] for row in rows])
            await connection.execute(ACK, [row["id"] for row in rows])
        await connection.close()


PEERS: dict[str, tuple[Peer, ...]] = {
    "postgres": (
        Peer("raw batched", partial(Raw, 500), ("asyncpg",), batch=500),
        Peer("raw one by one", partial(Raw, 1), ("asyncpg",)),
    )
}
