"""Brokers that a test opens, and that are closed after it; and queues that a server lets nobody into."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import pytest

from asyncpc import DefinitionError, remote_queue
from asyncpc.remote.broker import Broker, Disconnected, PublishError, Settings

__all__ = ["connecting", "not_whole", "refused", "shut_out_for_a_while"]

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


async def not_whole(
    engine: Callable[[str, Settings], B],
    url: str,
    greet: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    calls: Iterable[Callable[[B], Awaitable[object]]],
) -> None:
    """Each call is refused while the connection is being made: ``greet`` is a server's part of that, up to its midst.

    ``url`` has a place for the port.
    """
    arrived = asyncio.Event()
    writers: list[asyncio.StreamWriter] = []

    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await greet(reader, writer)
        arrived.set()

    async with await asyncio.start_server(begin, "127.0.0.1", 0) as server:
        broker = engine(url.format(port=server.sockets[0].getsockname()[1]), Settings(30.0, "dead", {}))
        opening = asyncio.create_task(broker.open())
        await arrived.wait()
        for call in calls:
            with pytest.raises(Disconnected, match="not connected"):
                await call(broker)
        for writer in writers:
            writer.transport.abort()
        with pytest.raises(Disconnected):
            await opening
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
