"""Tests that must fail, each for one reason; run by ``test_harness.py`` only (pytest does not collect this name)."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import pytest

import asyncpc
from asyncpc.testing import leaks

leaks.GRACE = 0.1  # for the thread below, which nobody lets go in time

released = threading.Event()
kept: list[object] = []


async def _forever() -> None:
    await asyncio.get_running_loop().create_future()


async def _fail() -> None:
    raise ValueError("unseen")


async def test_good() -> None:
    """The one that must pass: a harness that fails everything would prove nothing."""
    queue: asyncpc.BoundedQueue[int] = asyncpc.BoundedQueue()
    await queue.put(1)
    assert await queue.get() == 1


async def test_task_left() -> None:
    """A task still pending, and referenced, at the end."""
    kept.append(asyncio.create_task(_forever()))
    await asyncio.sleep(0)


async def test_exception_never_retrieved() -> None:
    """A failed task that nobody asked for its exception."""
    task = asyncio.create_task(_fail())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert task.done()


async def test_loop_exception_handler_called() -> None:
    """A callback that raises."""
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_coroutine_never_awaited() -> None:
    """A coroutine that was made and dropped."""
    _forever()  # type: ignore[unused-coroutine]  # the planted fault itself


def test_coroutine_never_awaited_in_a_cycle() -> None:
    """The same, but only the garbage collector can find it."""
    cycle: list[object] = [_forever()]
    cycle.append(cycle)


def test_thread_left() -> None:
    """A thread that goes on."""
    threading.Thread(target=released.wait, args=(30,), daemon=True).start()


def test_socket_left_open() -> None:
    """A socket that is still referenced, so that no ResourceWarning tells of it."""
    kept.append(socket.socket())


def test_socket_dropped() -> None:
    """A socket that was not closed but collected."""
    socket.socket()


def test_unraisable() -> None:
    """An exception in ``__del__``."""

    class Bad:
        def __del__(self) -> None:
            raise ValueError("in __del__")

    Bad()


async def test_blocking_handler() -> None:
    """A blocking call below asyncpc's loops."""

    @asyncpc.consumer
    async def handle(item: int) -> None:
        time.sleep(0.001)  # noqa: ASYNC251  # the planted fault itself: conftest's detector must fail it

    await asyncpc.Pipeline(range(3), handle)


@pytest.mark.timeout(1.5)
async def test_hangs() -> None:
    """A test that waits for ever."""
    await _forever()


def test_xpass_is_strict(request: pytest.FixtureRequest) -> None:
    """An expected failure that passes."""
    # The planted fault: a test that passes all the same must fail (xfail_strict), which test_harness checks.
    request.applymarker(pytest.mark.xfail)


def test_warning() -> None:
    """A deprecation."""
    import warnings

    warnings.warn("old", DeprecationWarning, stacklevel=1)


def test_release() -> None:
    """Not a fault: lets the planted thread go."""
    released.set()
