"""``Turns``: a lock file at which the processes queue that want to write a SQLite file.

SQLite lets one process write at a time, and lets the others try again and again, without an order: of eight processes
some write fifty times as often as others, and some not at all. So they queue at a lock file first, where who has waited
longest looks most often. The lock file only shares out the turns: what keeps two processes from writing at once is
SQLite, so a lock that fails (a program that does not know of it, a file system without locks) costs order, not data.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from time import monotonic, sleep
from typing import Final

__all__ = ["Turns"]

LONGEST_PAUSE: Final = 0.001
SHORTEST_PAUSE: Final = 0.00005
"""Seconds between two looks at the lock file."""

HURRY: Final = 100.0
"""How much more often a process looks for each second that it has waited; the shorter pause of two wins most turns."""

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


class Turns:
    """See the module; of one connection."""

    def __init__(self) -> None:
        self._file = -1
        self._has_turn = False

    def open(self, path: str) -> None:
        """Open the lock file, and make it if it is not there; raises ``OSError``."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)

    def wait(self, go_on: Callable[[], None]) -> None:
        """Wait for the turn; returns at once if it is there already. ``go_on()`` raises when it is time to give up."""
        began = monotonic()
        while not self._has_turn:
            try:
                _try_lock(self._file)
                self._has_turn = True
            except (BlockingIOError, PermissionError):  # the latter on Windows
                go_on()
                sleep(max(SHORTEST_PAUSE, LONGEST_PAUSE / (1 + HURRY * (monotonic() - began))))

    def end(self) -> None:
        """Let another one write; does nothing if it is not the turn."""
        if self._has_turn:
            self._has_turn = False
            with suppress(OSError):
                _unlock(self._file)

    def close(self) -> None:
        """Close the lock file, which also ends the turn."""
        if self._file >= 0:
            os.close(self._file)
