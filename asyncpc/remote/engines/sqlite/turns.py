"""``Turns``: a lock file at which the processes queue that want to write a SQLite file.

SQLite lets one process write at a time, and lets the others try again and again, without an order: of eight processes
some write fifty times as often as others, and some not at all. So they queue at a lock file first, where who has waited
longest looks most often. The lock file only shares out the turns: what keeps two processes from writing at once is
SQLite, so a lock that fails (a program that does not know of it, a file system without locks) costs order, not data.

The threads of one process, as of a pipeline that puts and one that takes, stand in a line: the next one need not look.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Lock
from time import monotonic, sleep
from typing import Final
from weakref import WeakValueDictionary

__all__ = ["Turns"]

LONGEST_PAUSE: Final = 0.001
SHORTEST_PAUSE: Final = 0.00005
"""Seconds between two looks at the lock file."""

HURRY: Final = 100.0
"""How much more often a process looks for each second that it has waited; the shorter pause of two wins most turns."""

GAP: Final = 0.0002
"""Seconds in which another process may get the turn before the next thread of this one; they look so often at least."""

LOOK_EVERY: Final = 0.02
"""Seconds between two looks of a thread in the line whether it is time to give up."""

if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: int) -> None:
        os.lseek(file, 0, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)

    def _unlock(file: int) -> None:
        os.lseek(file, 0, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)


class Line:
    """Threads of this process that want the turn at one file: each gets it from the one before."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._waiting: deque[Event] = deque()
        self._has_head = False

    def join(self, go_on: Callable[[], None]) -> bool:
        """Wait to be at its head; whether there was somebody before. ``go_on()`` raises when it is time to give up."""
        ours = Event()
        with self._lock:
            if not self._has_head:
                self._has_head = True
                return False
            self._waiting.append(ours)
        try:
            while not ours.wait(LOOK_EVERY):
                go_on()
        except BaseException:
            with self._lock:
                is_head = ours not in self._waiting
                if not is_head:
                    self._waiting.remove(ours)
            if is_head:
                self.leave()
            raise
        return True

    def leave(self) -> None:
        """Let the next one be at the head."""
        with self._lock:
            self._has_head = bool(self._waiting)
            if self._waiting:
                self._waiting.popleft().set()


_lines: WeakValueDictionary[str, Line] = WeakValueDictionary()
"""By the path of the lock file."""

_lock = Lock()
"""Between threads that look for their line."""


class Turns:
    """See the module; of one connection."""

    def __init__(self) -> None:
        self._file = -1
        self._line = Line()
        self._has_turn = False

    def open(self, path: str) -> None:
        """Open the lock file, and make it if it is not there; raises ``OSError``."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        with _lock:
            self._line = _lines.setdefault(path, self._line)

    def wait(self, go_on: Callable[[], None]) -> None:
        """Wait for the turn; returns at once if it is there already. ``go_on()`` raises when it is time to give up."""
        if self._has_turn:
            return
        began = monotonic()
        if self._line.join(go_on):
            sleep(GAP)
        try:
            while not self._is_locked():
                go_on()
                sleep(max(SHORTEST_PAUSE, LONGEST_PAUSE / (1 + HURRY * (monotonic() - began))))
        except BaseException:
            self._line.leave()
            raise
        self._has_turn = True

    def _is_locked(self) -> bool:
        """Whether it has the lock now."""
        try:
            _try_lock(self._file)
        except (BlockingIOError, PermissionError):  # the latter on Windows
            return False
        return True

    def end(self) -> None:
        """Let another one write; does nothing if it is not the turn."""
        if self._has_turn:
            self._has_turn = False
            with suppress(OSError):
                _unlock(self._file)
            self._line.leave()

    def close(self) -> None:
        """End the turn, and close the lock file."""
        self.end()
        if self._file >= 0:
            os.close(self._file)
