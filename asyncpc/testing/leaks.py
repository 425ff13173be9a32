"""``leak_check``: nothing of a test is left behind."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from ..wording import shown
from .clock import LeftBehind, VirtualLoop
from .places import place_of

__all__ = ["leak_check"]

GRACE = 2.0
"""Seconds a thread that was told to end may still take."""

EXECUTOR: Final = "asyncio_"
"""How asyncio names the threads of a loop, as for ``asyncio.to_thread``; they end with their loop."""

MAX_FD: Final = 256
"""File descriptors looked at; tests open far fewer."""


@contextmanager
def leak_check() -> Iterator[None]:
    """Raise :class:`LeftBehind` if the block leaves something behind, and name it.

    ::

        async def test_orders():
            with leak_check():
                await pipeline

    That is a task, a timer or an async generator that began in the running loop and has not ended; a thread that has
    not ended; a socket that is still open; and what asyncio logged as an error, as of an exception that nobody asked
    for. The fixture of this name in ``asyncpc.testing.plugin`` does it for a whole test.
    """
    log, errors = logging.getLogger("asyncio"), _Errors()
    before = _There()
    log.addHandler(errors)
    try:
        yield
    finally:
        log.removeHandler(errors)
    if left := [*before.left(), *errors.logged]:
        raise LeftBehind("\n".join(left))


class _There:
    """What is there now."""

    def __init__(self) -> None:
        self.loop = asyncio._get_running_loop()
        self.tasks = self._tasks()
        self.generators = self._generators()
        self.threads = set(threading.enumerate())
        self.sockets = _open_sockets()

    def left(self) -> Iterator[str]:
        """What is there later and was not, a line each."""
        for task in self._tasks() - self.tasks:
            yield f"a task was left pending: {shown(task.get_name())} at {place_of(task)}"
        for generator in self._generators() - self.generators:
            yield f"an async generator was left open: {generator.__qualname__}"
        if isinstance(self.loop, VirtualLoop):
            yield from self.loop.timers()
        for thread in set(threading.enumerate()) - self.threads:
            if self.loop is not None and thread.name.startswith(EXECUTOR):
                continue
            thread.join(GRACE)
            if thread.is_alive():
                yield f"a thread was left behind: {shown(thread)}"
        for fd, inode in _open_sockets() - self.sockets:
            yield f"a socket was left open: fd {fd}, inode {inode}"

    def _tasks(self) -> set[asyncio.Task[Any]]:
        if self.loop is None:
            return set()
        return asyncio.all_tasks(self.loop) - {asyncio.current_task(self.loop)}

    def _generators(self) -> set[Any]:
        """Those that have begun and can go on; uvloop does not show them."""
        begun: Any = getattr(self.loop, "_asyncgens", ())
        return {one for one in begun if one.ag_frame is not None}


class _Errors(logging.Handler):
    """Keeps what a loop's exception handler says; by default it speaks through this log, on every loop."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.logged: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.logged.append(f"asyncio logged an error: {record.getMessage()}")


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
