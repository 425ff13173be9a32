"""What the tests of queues share."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asyncpc import END, BoundedQueue
from asyncpc.core.channel import Channel

__all__ = ["Queue", "cancelled", "full", "lines", "ready", "spin"]


Queue = BoundedQueue[Any]
"""A queue whose items do not matter."""


async def spin(turns: int = 10) -> None:
    """Let the others run; enough turns for everything in these tests that can go on."""
    for _ in range(turns):
        await asyncio.sleep(0)


def full(*items: Any) -> Channel[Any]:
    """A channel with ``items`` and no room."""
    queue = Channel[Any](len(items))
    for item in items:
        queue.put_nowait(item)
    return queue


async def ready(queue: Channel[Any]) -> object:
    """Wait as a pipeline's worker does: for something to take (None), or END."""
    while not queue.items:
        if queue.take_end() is END:
            return END
        await queue.getters.wait(asyncio.get_running_loop())
        queue.wake_followers()
    return None


def lines(queue: Queue) -> int:
    """How many wait at the queue, in all lines."""
    return len(queue._getters) + len(queue._putters) + (len(queue.writers) if isinstance(queue, Channel) else 0)


async def cancelled(task: asyncio.Task[Any]) -> None:
    """Check that ``task`` ended as cancelled."""
    with pytest.raises(asyncio.CancelledError):
        await task
