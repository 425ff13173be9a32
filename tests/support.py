"""What the tests share: the event loops every async test runs on, and the search for what a test left behind."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvloop

from asyncpc import Pipeline

__all__ = ["BUSY", "LOOP_FACTORIES", "Watch", "pending", "results", "switching_often", "timeout_of"]

BUSY = 10.0
"""Seconds that a busy machine may add to what is over at once; without what such a limit protects it takes for ever,
or the 30 s of a drain. Promises to the millisecond are tested in virtual time."""

GRACE = 2.0
"""Seconds a thread that was told to end may still take."""

MAX_FD = 256
"""File descriptors looked at; the tests open far fewer."""


class _DebugLoop(asyncio.SelectorEventLoop):
    """asyncio's loop, in debug mode whatever its runner says."""

    def set_debug(self, enabled: bool) -> None:
        super().set_debug(True)


def _debug_loop() -> asyncio.AbstractEventLoop:
    loop = _DebugLoop()
    loop.set_debug(True)
    return loop


def _eager_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.SelectorEventLoop()
    if sys.version_info >= (3, 12):
        loop.set_task_factory(asyncio.eager_task_factory)
    return loop


LOOP_FACTORIES: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "debug": _debug_loop,
    **({"eager": _eager_loop} if sys.version_info >= (3, 12) else {}),
    "uvloop": uvloop.new_event_loop,
}
"""Every async test runs once on each."""


class Watch(logging.Handler):
    """Looks at threads, sockets and asyncio's error log before and after a test."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.logged: list[str] = []
        self.threads = set(threading.enumerate())
        self.sockets = _open_sockets()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what a loop's exception handler says; by default it speaks through this log, on every loop."""
        self.logged.append(record.getMessage())

    def left(self) -> Iterator[str]:
        """What is there now and was not before, a line each."""
        for thread in set(threading.enumerate()) - self.threads:
            thread.join(GRACE)
            if thread.is_alive():
                yield f"a thread was left behind: {thread!r}"
        for fd, inode in _open_sockets() - self.sockets:
            yield f"a socket was left open: fd {fd}, inode {inode}"
        for message in self.logged:
            yield f"asyncio logged an error: {message}"

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen to asyncio's log."""
        log = logging.getLogger("asyncio")
        log.addHandler(self)
        try:
            yield
        finally:
            log.removeHandler(self)


def pending(loops: Iterable[asyncio.AbstractEventLoop]) -> set[asyncio.Task[object]]:
    """The unfinished tasks of ``loops``, none of which is running."""
    return {task for loop in loops for task in asyncio.all_tasks(loop)}


def timeout_of(item: pytest.Item) -> float:
    """Seconds pytest-timeout gives a test: its marker, the command line, or pyproject.toml."""
    marker = item.get_closest_marker("timeout")
    if marker is not None:
        return float(marker.args[0])
    return float(item.config.getoption("timeout") or item.config.getini("timeout"))


def _open_sockets() -> set[tuple[int, int]]:
    """Descriptor and inode of every open socket; empty on Windows, where ``fstat`` does not know them."""
    found = set()
    for fd in range(MAX_FD):
        try:
            status = os.fstat(fd)
        except OSError:
            continue
        if stat.S_ISSOCK(status.st_mode):
            found.add((fd, status.st_ino))
    return found


async def results(pipeline: Pipeline[Any, Any]) -> list[Any]:
    """All that the last stage gives."""
    async with pipeline.stream() as values:
        return [value async for value in values]


@contextmanager
def switching_often() -> Iterator[None]:
    """Threads that take turns as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
