"""``DatabaseFile``: a SQLite file that many processes write, as the one thread sees it that works with it.

All calls that wait together are made in one transaction, as its commit takes longer than they do: it waits for the
disk, unless a power failure may undo all of them.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, ClassVar, Final

from ....errors import DefinitionError
from ....offload.calls import Job, ThreadCaller
from ....wording import message_of, shown
from ...broker import Disconnected
from .turns import Turns

__all__ = ["UNSTORABLE", "DatabaseFile"]

PATIENCE: Final = 10.0
"""Seconds to wait for the turn to write; then a process that has it hangs."""

BUSY: Final = 0.25
"""Seconds for which SQLite tries by itself, where a program that does not know the lock file is in the way."""

LOG_SIZE: Final = 64 * 1024 * 1024
"""Bytes of the write-ahead log that stay on disk after a rush."""

BY_EFFECTIVE_USER: Final = os.access in os.supports_effective_ids
"""Whether the system can be asked what the process may do now, and not who has started it."""

LONGEST_PATH: Final = 500
"""Characters of a path that a message shows."""

MISTAKES: Final = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT})
"""Errors on opening that no later attempt mends."""

UNSTORABLE: Final = (sqlite3.DataError, OverflowError, UnicodeError)
"""Errors of what no database can hold: too long, or no text."""

FORBIDDEN: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
"""Likewise, of the lock file."""


class DatabaseFile(ThreadCaller):
    """Makes calls that read and write the file at ``path``; all of one group, or none, are written.

    Every call raises ``Disconnected`` if the file cannot be read or written, or another process does not let it write
    within ten seconds.
    """

    fleeting: ClassVar[frozenset[Callable[..., Any]]] = frozenset()
    """The calls that a power failure may undo; also then the file is whole, and what others have written is there."""

    def __init__(self, path: str, kind: int, version: int, schema: Sequence[str], synchronous: str) -> None:
        self.path: str = path
        self._kind = kind  # the application id that says whose file it is
        self._version = version
        self._schema = schema
        self._synchronous = synchronous
        self._lasts = True  # what is written next
        self._waits_for_disk: bool | None = None  # as the connection is set; None: not yet
        self._turns = Turns()
        self._is_leaving = False
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None

    # -- for its calls ----------------------------------------------------------------------------

    def open(self) -> str:
        """Open the file, and make it if it is not there; return its path, without links, wherever the program goes.

        Raises ``DefinitionError`` if it cannot be used, now or later: no such directory, no permission, no database, or
        one of somebody else.
        """
        try:
            self.path = os.path.realpath(self.path)
            self._turns.open(self.path + "-lock")
            self._wait_for_turn(monotonic() + PATIENCE)  # or two would make the tables at once
            self._connection = sqlite3.connect(self.path, timeout=BUSY, isolation_level=None)
            self._prepare(self._connection)
            self._file = self._on_disk()
            return self.path
        except (FileNotFoundError, NotADirectoryError):
            raise DefinitionError(f"sqlite: {self._name}: its directory does not exist") from None
        except OSError as error:
            if error.errno not in FORBIDDEN:
                raise
            raise DefinitionError(f"sqlite: {self._name}: its directory may not be written to") from None
        except sqlite3.Error as error:
            if _code(error) in MISTAKES or not self._is_allowed():
                raise DefinitionError(f"sqlite: {self._name}: {error}") from None
            raise

    def reading(self) -> sqlite3.Connection:
        """The connection, to read with."""
        if self._is_leaving or self._connection is None:
            raise Disconnected(f"sqlite: {self._name} is closed")
        return self._connection

    def writing(self) -> sqlite3.Connection:
        """The connection, in a transaction that no other process is in; it is over when the calls are."""
        connection = self.reading()
        if not connection.in_transaction:
            self._begin(connection)
        return connection

    # -- as a caller of calls ---------------------------------------------------------------------

    def most(self) -> int:
        """As many calls as there can be at once."""
        return 16

    def make(self, jobs: list[Job]) -> None:
        """Make them in one transaction; one that fails fails them all."""
        try:
            if self._file is not None and self._on_disk() != self._file:
                raise Disconnected(f"sqlite: {self._name} was removed or replaced")
            self._lasts = any(job.function not in self.fleeting for job in jobs)
            for job in jobs:
                super().make([job])
                if job.error is not None:
                    raise job.error  # the others need not wait too, nor be made in vain
            if self._connection is not None and self._connection.in_transaction:
                self._connection.execute("COMMIT")
            failed = None
        except BaseException as error:
            failed = error
        finally:
            self._end()
        if failed is not None:
            for job in jobs:
                job.error = self._told(job.error or failed)

    def interrupt(self) -> bool:
        """Let the calls end that are under way or wait; the file is to be closed."""
        self._is_leaving = True
        if self._connection is not None:
            with suppress(sqlite3.Error):  # it is closed
                self._connection.interrupt()
        return True

    def close(self) -> None:
        """Close the file; what was not committed is undone."""
        self._is_leaving = True
        with suppress(sqlite3.Error):
            if self._connection is not None:
                self._connection.close()
        self._turns.close()

    # -- the turn to write ------------------------------------------------------------------------

    def _wait_for_turn(self, ends: float) -> None:
        self._turns.wait(lambda: self._go_on(ends))

    def _go_on(self, ends: float) -> None:
        """Raise if it is time to give up."""
        if self._is_leaving or monotonic() > ends:
            why = "closed" if self._is_leaving else f"locked by another process for {PATIENCE:.0f} seconds"
            raise Disconnected(f"sqlite: {self._name} is {why}")

    def _begin(self, connection: sqlite3.Connection) -> None:
        ends = monotonic() + PATIENCE
        self._wait_for_turn(ends)
        if self._waits_for_disk != self._lasts:
            connection.execute(f"PRAGMA synchronous={self._synchronous if self._lasts else 'NORMAL'}")
            self._waits_for_disk = self._lasts
        while not self._begins(connection):
            self._go_on(ends)

    def _begins(self, connection: sqlite3.Connection) -> bool:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_BUSY:
                raise
            return False
        return True

    def _end(self) -> None:
        with suppress(sqlite3.Error):
            if self._connection is not None and self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        self._turns.end()

    # -- the file ---------------------------------------------------------------------------------

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Set what holds for this connection, and make the tables if they are not there."""
        (kind,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if kind != self._kind and tables:
            raise DefinitionError(f"sqlite: {self._name} is the database of another program: give queues their own")
        if version > self._version:
            raise DefinitionError(f"sqlite: {self._name} was written by a newer version of asyncpc")
        if version < self._version and tables:
            raise DefinitionError(
                f"sqlite: {self._name} was written by an older version of asyncpc, whose tables were others: "
                "give the queues a new file"
            )
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":
            raise DefinitionError(f"sqlite: {self._name}: its file system cannot share a file; queues need a local one")
        connection.execute(
            f"PRAGMA fullfsync={int(self._synchronous == 'FULL')}"
        )  # macOS: through the cache of the disk
        connection.execute(f"PRAGMA journal_size_limit={LOG_SIZE}")
        connection.execute("PRAGMA secure_delete=FAST")  # some builds write a page of zeros for each one that is free
        self._begin(connection)
        connection.execute(f"PRAGMA user_version={self._version}")  # whatever it was: tells whether it can be written
        if version == self._version:
            connection.execute("ROLLBACK")
            return
        connection.execute(f"PRAGMA application_id={self._kind}")
        for statement in self._schema:
            connection.execute(statement)

    def _on_disk(self) -> tuple[int, int] | None:
        """Which file has the path now."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def _is_allowed(self) -> bool:
        """Whether it is a file that may be read and written; if it is not there, it may be made."""
        return not os.path.isdir(self.path) and (
            not os.path.exists(self.path) or os.access(self.path, os.R_OK | os.W_OK, effective_ids=BY_EFFECTIVE_USER)
        )

    def _told(self, error: BaseException) -> BaseException:
        """The error as the caller of a call gets it."""
        if isinstance(error, sqlite3.Error | OSError) and not isinstance(error, Disconnected | sqlite3.DataError):
            return Disconnected(f"sqlite: {self._name}: {message_of(error)}")
        return error

    @property
    def _name(self) -> str:
        return shown(self.path, LONGEST_PATH)


def _code(error: sqlite3.Error) -> int:
    """What went wrong, without the detail; 0 for an error of the module ``sqlite3`` itself."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
