"""``leak_check``: each kind of thing that a test can leave behind is found, and named."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from asyncpc import source, testing
from asyncpc.testing import LeftBehind, leak_check, leaks


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def numbers() -> AsyncGenerator[int, None]:
    yield 1
    yield 2


@asynccontextmanager
async def task() -> AsyncIterator[None]:
    made = asyncio.create_task(forever(), name="orphan")
    yield
    made.cancel()


@asynccontextmanager
async def timer() -> AsyncIterator[None]:
    made = asyncio.get_running_loop().call_later(9, print)
    yield
    made.cancel()


@asynccontextmanager
async def generator() -> AsyncIterator[None]:
    made = numbers()
    await anext(made)
    yield
    await made.aclose()


@asynccontextmanager
async def thread() -> AsyncIterator[None]:
    let_go = threading.Event()
    made = threading.Thread(target=let_go.wait, name="stray")
    made.start()
    yield
    let_go.set()
    made.join()


@asynccontextmanager
async def opened() -> AsyncIterator[None]:
    with socket.socket():
        yield


KINDS: dict[str, Any] = {
    r"a task was left pending: 'orphan' at .*test_leaks.py:\d+ in forever": task,
    "a timer is still set: print at 9 s": timer,
    "an async generator was left open: numbers": generator,
    "a thread was left behind: .*stray": thread,
    "a socket was left open": opened,
}  # and what asyncio logs: test_harness.py


@pytest.mark.parametrize("message", KINDS)
def test_what_is_left_is_named(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects each look from being an empty one."""
    monkeypatch.setattr(leaks, "GRACE", 0.01)

    async def main() -> None:
        check = leak_check()
        check.__enter__()
        async with KINDS[message]():
            await asyncio.sleep(0)
            with pytest.raises(LeftBehind, match=message):
                check.__exit__(None, None, None)
        await asyncio.sleep(0)

    testing.run(main())


def test_a_clean_run_leaves_nothing_and_an_error_comes_out() -> None:
    """Protects tests that are right, and those whose error matters more than what it left."""

    async def main() -> None:
        with leak_check():
            await (source(range(9)) >> testing.Spy())
            await asyncio.to_thread(int)  # whose thread ends with the loop
        with pytest.raises(ZeroDivisionError), leak_check():
            fail(asyncio.create_task(forever()))
        await asyncio.sleep(1)

    def fail(orphan: asyncio.Task[None]) -> None:
        asyncio.get_running_loop().call_soon(orphan.cancel)
        raise ZeroDivisionError

    testing.run(main())
