"""arq and saq, in the environment of the project ``redis5``."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

from ..work import Peer, Round, ended


class Arq:
    """A worker as its documentation starts it, and a pool that enqueues."""

    def __init__(self, url: str, queue: str) -> None:
        from arq.connections import RedisSettings

        self._settings = RedisSettings.from_dsn(url)
        self._queue = queue

    async def publish(self, work: Round) -> None:
        """See ``Client``."""
        from arq import create_pool

        pool = await create_pool(self._settings, default_queue_name=self._queue)
        async for one in work.messages():
            await pool.enqueue_job("handle", one["n"], one["pad"])
        await pool.aclose()

    async def consume(self, work: Round) -> None:
        """See ``Client``."""
        from arq.worker import Worker, func

        async def handle(context: object, n: int, pad: str) -> None:
            await work.handle(n)

        worker = Worker(
            [func(handle, name="handle")],
            queue_name=self._queue,
            redis_settings=self._settings,
            max_jobs=work.at_once,
            poll_delay=0.01,
            keep_result=0,
            handle_signals=False,
        )
        await ended(asyncio.create_task(worker.async_run()), work)
        with suppress(asyncio.CancelledError):  # of jobs that have not quite ended
            await worker.close()


class Saq:
    """A worker as its documentation starts it, and a queue that enqueues."""

    def __init__(self, url: str, queue: str) -> None:
        from saq import Queue

        self._queue: Any = Queue.from_url(url, name=queue)

    async def publish(self, work: Round) -> None:
        """See ``Client``."""
        await self._queue.connect()
        async for one in work.messages():
            await self._queue.enqueue("handle", **one)
        await self._queue.disconnect()

    async def consume(self, work: Round) -> None:
        """See ``Client``."""
        from saq import Worker

        async def handle(context: object, *, n: int, pad: str) -> None:
            await work.handle(n)

        worker: Any = Worker(self._queue, [("handle", handle)], concurrency=work.at_once)
        await ended(asyncio.create_task(worker.start()), work)
        await worker.stop()
        await self._queue.disconnect()


logging.getLogger("saq").setLevel(logging.ERROR)
PEERS: dict[str, tuple[Peer, ...]] = {
    "redis": (
        Peer("arq", Arq, ("arq",), project="redis5"),
        Peer("saq", Saq, ("saq",), project="redis5"),
    )
}
