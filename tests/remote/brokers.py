"""Brokers that a test opens, and that are closed after it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from asyncpc.remote.broker import Broker, Settings

__all__ = ["connecting"]

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
