"""RabbitMQ: FastStream, and the client by hand."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import aio_pika
from msgspec.json import decode, encode

from ..work import Peer, Round, ended, in_batches

QUORUM = {"x-queue-type": "quorum"}

DECLARES = asyncio.Lock()
"""A quorum queue that two connections declare at the same time is an internal error of the server."""


class Raw:
    """A quorum queue with confirms; so many messages published, and acknowledged, at once."""

    def __init__(self, at_once: int, url: str, queue: str) -> None:
        self._at_once = at_once
        self._url = url
        self._queue = queue

    async def _opened(self) -> tuple[Any, Any, Any]:
        connection: Any = await aio_pika.connect(self._url)
        channel: Any = await connection.channel()
        await channel.set_qos(2 * self._at_once)
        async with DECLARES:
            return connection, channel, await channel.declare_queue(self._queue, durable=True, arguments=QUORUM)

    async def publish(self, work: Round) -> None:
        """See ``Client``."""
        connection, channel, _ = await self._opened()
        mode = aio_pika.DeliveryMode.PERSISTENT

        async def put(one: object) -> None:
            message = aio_pika.Message(encode(one), delivery_mode=mode)
            await channel.default_exchange.publish(message, self._queue)

        async for batch in in_batches(work, self._at_once):
            await asyncio.gather(*map(put, batch))
        await connection.close()

    async def consume(self, work: Round) -> None:
        """See ``Client``."""
        connection, _, queue = await self._opened()
        came: asyncio.Queue[Any] = asyncio.Queue()
        await queue.consume(came.put)

        async def run() -> None:
            while True:
                messages = [await came.get()]
                while len(messages) < self._at_once and not came.empty():
                    messages.append(came.get_nowait())
                await work.handle_all([decode(one.body)["n"] for one in messages])
                await messages[-1].ack(multiple=True)

        await ended(asyncio.create_task(run()), work)
        await connection.close()


class FastStream:
    """A quorum queue."""

    def __init__(self, url: str, queue: str) -> None:
        from faststream.rabbit import RabbitBroker, RabbitQueue
        from faststream.rabbit.schemas.queue import QueueType

        self._broker: Any = RabbitBroker(url, logger=None)
        self._queue = RabbitQueue(queue, queue_type=QueueType.QUORUM, durable=True)

    async def publish(self, work: Round) -> None:
        """See ``Client``."""
        async with self._broker:
            async with DECLARES:
                await self._broker.declare_queue(self._queue)
            async for one in work.messages():
                await self._broker.publish(one, self._queue, persist=True)

    async def consume(self, work: Round) -> None:
        """See ``Client``."""
        from faststream.rabbit import Channel

        async def handle(message: dict[str, Any]) -> None:
            await work.handle(message["n"])

        channel = Channel(prefetch_count=work.at_once) if work.wait else None  # by default it has no bound
        self._broker.subscriber(self._queue, channel=channel)(handle)
        async with self._broker:
            async with DECLARES:
                await self._broker.start()
            await work.done.wait()


PEERS: dict[str, tuple[Peer, ...]] = {
    "rabbitmq": (
        Peer("raw batched", partial(Raw, 500), ("aio-pika",), batch=500),
        Peer("raw one by one", partial(Raw, 1), ("aio-pika",)),
        Peer("FastStream", FastStream, ("faststream",)),
    )
}
