"""NATS JetStream: FastStream, and the client by hand."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import nats
from msgspec.json import decode, encode

from ..work import Peer, Round, in_batches


class Raw:
    """A work-queue stream and a pull consumer, so many messages at once."""

    def __init__(self, at_once: int, url: str, queue: str) -> None:
        self._at_once = at_once
        self._url = url
        self._queue = queue

    async def _connected(self) -> tuple[Any, Any]:
        from nats.js.api import RetentionPolicy

        client: Any = await nats.connect(self._url)
        stream: Any = client.jetstream()
        await stream.add_stream(name=self._queue, subjects=[self._queue], retention=RetentionPolicy.WORK_QUEUE)
        return client, stream

    async def publish(self, work: Round) -> None:
        """See ``Client``."""
        client, stream = await self._connected()
        async for batch in in_batches(work, self._at_once):
            await asyncio.gather(*[stream.publish(self._queue, encode(one)) for one in batch])
        await client.close()

    async def consume(self, work: Round) -> None:
        """See ``Client``."""
        from nats.errors import TimeoutError as NothingCame

        client, stream = await self._connected()
        pull = await stream.pull_subscribe(self._queue, durable="workers", stream=self._queue)
        while not work.done.is_set():
            try:
                messages = await pull.fetch(self._at_once, timeout=1)
            except NothingCame:
                continue
            await work.handle_all([decode(one.data)["n"] for one in messages])
            for one in messages:
                await one.ack()
        await client.close()


class FastStream:
    """A pull subscriber of a stream, as it recommends, so that messages are acknowledged; 1 is its default."""

    def __init__(self, pulled: int, batch: bool, url: str, queue: str) -> None:
        from faststream.nats import JStream, NatsBroker

        self._broker: Any = NatsBroker(url, logger=None)
        self._stream = JStream(queue, subjects=[queue])
        self._pulled = pulled
        self._batch = batch
        self._queue = queue

    async def publish(self, work: Round) -> None:
        """See ``Client``."""
        publish = self._broker.publisher(self._queue, stream=self._stream).publish
        async with self._broker:
            await self._broker.start()
            async for one in work.messages():
                await publish(one)

    async def consume(self, work: Round) -> None:
        """See ``Client``."""
        from faststream.nats import PullSub

        if self._batch:

            async def handle_batch(messages: list[dict[str, Any]]) -> None:
                await work.handle_all([one["n"] for one in messages])

            handle: Any = handle_batch
            how: dict[str, Any] = {"pull_sub": PullSub(self._pulled, timeout=1.0, batch=True)}
        else:

            async def handle_one(message: dict[str, Any]) -> None:
                await work.handle(message["n"])

            handle = handle_one
            how = {"pull_sub": PullSub(self._pulled, timeout=1.0)} | (
                {"max_workers": work.at_once} if work.wait else {}
            )
        self._broker.subscriber(self._queue, stream=self._stream, durable="workers", **how)(handle)
        async with self._broker:
            await self._broker.start()
            await work.done.wait()


PEERS: dict[str, tuple[Peer, ...]] = {
    "nats": (
        Peer("raw batched", partial(Raw, 500), ("nats-py",), batch=500),
        Peer("raw one by one", partial(Raw, 1), ("nats-py",)),
        Peer("FastStream", partial(FastStream, 1, False), ("faststream",)),
        Peer("FastStream, pulls 500", partial(FastStream, 500, False), ("faststream",)),
        Peer("FastStream batch", partial(FastStream, 500, True), ("faststream",), batch=500),
    )
}
