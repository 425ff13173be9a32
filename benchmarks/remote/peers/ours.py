"""asyncpc on any engine: the same two pipelines."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import asyncpc

from ..work import Peer, Round


@dataclass
class Payload:
    """What the messages are checked against."""

    n: int
    pad: str


class Asyncpc:
    """A pipeline that ends in the queue, and one that begins there."""

    def __init__(self, address: str, url: str, queue: str) -> None:
        self._queue: Any = asyncpc.remote_queue(address.format(url=url, queue=queue), Payload)

    async def publish(self, work: Round) -> None:
        """See ``Client``."""

        async def messages() -> Any:
            async for one in work.messages():
                yield Payload(**one)

        report = await asyncpc.Pipeline(asyncpc.producer(messages) >> self._queue)
        assert report.complete

    async def consume(self, work: Round) -> None:
        """See ``Client``."""
        stage: Any = asyncpc.consumer(concurrency=work.at_once)

        async def handle(item: Payload) -> None:
            await work.handle(item.n)

        async with asyncpc.Pipeline(self._queue >> stage(handle)) as running:
            await work.done.wait()
            await running.drain(0.5 if work.of else 5.0)


ADDRESSES = {
    "sqlite": "{url}?queue={queue}",
    "redis": "{url}/{queue}",
    "postgres": "{url}?queue={queue}&sslmode=disable",
    "nats": "{url}/{queue}",
    "rabbitmq": "{url}/{queue}",
}
PEERS = {
    engine: (Peer("asyncpc", partial(Asyncpc, address), ("asyncpc",), batch=1000),)
    for engine, address in ADDRESSES.items()
}
