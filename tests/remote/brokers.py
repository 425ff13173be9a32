"""Brokers that a test opens, and that are closed after it; and queues that a server lets nobody into."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import pytest

from asyncpc import DefinitionError, remote_queue
from asyncpc.remote.broker import Broker, PublishError, Settings

__all__ = ["connecting", "refused", "shut_out_for_a_while"]

B = TypeVar("B", bound=Broker)


@asynccontextmanager
async def connecting(engine: Callable[[str, Settings], B]) -> AsyncIterator[Callable[..., Awaitable[B]]]:
    """Opens a broker of the engine for a URL, a lease and options of the client; at the end all are closed."""
    opened: list[B] = []

    async def connected(url: str, lease: float = 30.0, **client: Any) -> B:
        broker = engine(url, Settings(lease, "dead", client))
        opened.append(broker)
        await broker.open()
        return broker

    try:
        yield connected
    finally:
        for broker in opened:
            await broker.close()


async def refused(url: str) -> str:
    """What a program is told whose login, or a right of it, the server refuses; at once, not after 15 seconds."""
    queue = await asyncio.to_thread(remote_queue, url, int)  # some read files
    with pytest.raises(DefinitionError) as caught:
        async with asyncio.timeout(8.0), queue.open():
            pass
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    return str(caught.value)


async def shut_out_for_a_while(
    url: str,
    shut: Callable[[], Awaitable[None]],
    let_in: Callable[[], Awaitable[None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who was let in before waits to be let in again, and says why: the server may be on its way up."""
    queue = await asyncio.to_thread(remote_queue, url, int)
    async with asyncio.timeout(60.0), queue.open() as opened:
        await shut()
        while "NotAllowed" not in caplog.text:  # some servers take a moment
            with suppress(TimeoutError, PublishError):
                await opened.put(0, timeout=0.2)
        await let_in()
        await opened.put(1)
