"""Redis Streams: FastStream, taskiq, and the client by hand."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

from msgspec.json import decode, encode
from redis.asyncio import Redis

from ..work import Peer, Round, ended, in_batches

GROUP = "workers"


class Raw:
    """XADD, XREADGROUP, XACK and XDEL, so many messages in one trip to the server."""

    def __init__(self, at_once: int, url: str, queue: str) -> None:
        self._at_once = at_once
        self._url = url
        self._queue = queue

    async def publish(self, work: Round) -> None:
        """See ``Client``."""
        async with Redis.from_url(self._url, protocol=2) as redis:
            async for batch in in_batches(work, self._at_once):
                pipe = redis.pipeline(transaction=False)
                for one in batch:
                    pipe.xadd(self._queue, {"body": encode(one)})
                await pipe.execute()

    async def consume(self, work: Round) -> None:
        """See ``Client``."""
        async with Redis.from_url(self._url, protocol=2) as redis:
            await redis.xgroup_create(self._queue, GROUP, "0", mkstream=True)
            while not work.done.is_set():
                found: Any = await redis.xreadgroup(GROUP, "one", {self._queue: ">"}, count=self._at_once, block=1000)
                for _, entries in found:
                    await work.handle_all([decode(fields[b"body"])["n"] for _, fields in entries])
                    names = [name for name, _ in entries]
                    both: Any = redis.pipeline()
                    await both.xack(self._queue, GROUP, *names).xdel(self._queue, *names).execute()


class FastStream:
    """A stream and a group, so that messages are acknowledged."""

    def __init__(self, batch: bool, url: str, queue: str) -> None:
        from faststream.redis import RedisBroker

        # logger=None means no log, as the types of NatsBroker say; those of RedisBroker leave it out
        self._broker: Any = RedisBroker(url, logger=None)  # type: ignore[arg-type]  # see above
        self._batch = batch
        self._queue = queue

    async def publish(self, work: Round) -> None:
        """See ``Client``."""
        async with self._broker:
            async for one in work.messages():
                await self._broker.publish(one, stream=self._queue)

    async def consume(self, work: Round) -> None:
        """See ``Client``."""
        from faststream.redis import StreamSub

        group: Any = {"group": GROUP, "consumer": "one", "last_id": "0"}
        if self._batch:

            async def handle_batch(messages: list[dict[str, Any]]) -> None:
                await work.handle_all([one["n"] for one in messages])

            handle: Any = handle_batch
            stream: Any = StreamSub(self._queue, batch=True, max_records=500, **group)
            workers = {}
        else:

            async def handle_one(message: dict[str, Any]) -> None:
                await work.handle(message["n"])

            handle = handle_one
            stream = StreamSub(self._queue, **group)
            workers = {"max_workers": work.at_once} if work.wait else {}
        self._broker.subscriber(stream=stream, **workers)(handle)
        async with self._broker:
            await self._broker.start()
            await work.done.wait()


class Taskiq:
    """Its broker on streams, which acknowledges."""

    def __init__(self, url: str, queue: str) -> None:
        from taskiq_redis import RedisStreamBroker

        self._broker: Any = RedisStreamBroker(url, queue_name=queue, consumer_id="0")

    async def publish(self, work: Round) -> None:
        """See ``Client``."""
        task = self._task(work)
        await self._broker.startup()
        async for one in work.messages():
            await task.kiq(**one)
        await self._broker.shutdown()

    async def consume(self, work: Round) -> None:
        """See ``Client``."""
        from taskiq.receiver import Receiver

        self._task(work)
        await self._broker.startup()
        self._broker.is_worker_process = True
        receiver = Receiver(self._broker, max_async_tasks=max(work.at_once, 100))  # 100 is its command's default
        stopped = asyncio.Event()
        listening = asyncio.create_task(receiver.listen(stopped))
        await ended(listening, work, stopped.set)
        await self._broker.shutdown()

    def _task(self, work: Round) -> Any:
        async def handle(n: int, pad: str) -> None:
            await work.handle(n)

        return self._broker.register_task(handle, task_name="handle")


logging.getLogger("taskiq").setLevel(logging.ERROR)
PEERS: dict[str, tuple[Peer, ...]] = {
    "redis": (
        Peer("raw batched", partial(Raw, 500), ("redis", "hiredis"), batch=500),
        Peer("raw one by one", partial(Raw, 1), ("redis", "hiredis")),
        Peer("FastStream", partial(FastStream, False), ("faststream",)),
        Peer("FastStream batch", partial(FastStream, True), ("faststream",), batch=500),
        Peer("taskiq", Taskiq, ("taskiq", "taskiq-redis")),
    )
}
