"""The connections of the PostgreSQL engine, and the URL that says where to."""

# asyncpg tells no types.

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import asyncpg

from ....errors import DefinitionError
from ....wording import message_of, shown, summary
from ...broker import Disconnected, NotAllowed
from . import tables

__all__ = ["UNSTORABLE", "Address", "Connection"]

TIMEOUT: Final = 8.0
"""Seconds within which the server answers; a connection that takes longer is dropped."""

UNSTORABLE: Final = (ValueError, asyncpg.DataError, asyncpg.ProgramLimitExceededError)
"""What is raised for a value that the database cannot hold, as a NUL in an id."""

_REFUSALS: Final = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
)
"""What a server answers to a wrong user or password, to one that its rules keep out, and to an unknown database."""

_FAILURES: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What the client raises for a server that refuses, or that is lost."""


class Address(NamedTuple):
    """What a URL says."""

    dsn: str
    schema: str
    queue: str
    shown: str
    """Without the user and the password."""

    def in_schema(self, sql: str) -> str:
        """A statement of ``tables`` on the tables of this schema."""
        return sql.replace("%", f'"{self.schema}"')

    @classmethod
    def of(cls, url: str) -> Address:
        """Raises ``DefinitionError``, without any part of a URL that is not understood: it may be the password."""
        try:
            parts = urlsplit(url)
            hosts, database = parts.netloc.rpartition("@")[2], parts.path[1:]
            _ = [urlsplit(f"//{host}").port for host in hosts.split(",")]
            query = parse_qsl(parts.query, strict_parsing=True)
            (queue,) = (value for name, value in query if name == "queue")
            is_understood = parts.scheme in ("postgresql", "postgres") and not parts.fragment and "\0" not in queue
            if not is_understood or not database or "/" in database:
                raise ValueError
        except ValueError:
            raise DefinitionError(
                "remote_queue: expected postgresql://[user:password@]host[:port]/database?queue=name"
            ) from None
        schemas = [value for name, value in query if name == "schema"] or ["asyncpc"]
        if len(schemas) > 1 or not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", schemas[0]):
            raise DefinitionError("remote_queue: postgresql: the schema is a word of a-z, 0-9 and _")
        rest = [(name, value) for name, value in query if name not in ("queue", "schema")]
        dsn = f"postgresql://{parts.netloc}{parts.path}?{urlencode(rest, quote_via=quote)}"
        return cls(dsn, schemas[0], queue, f"postgresql://{hosts}/{database}?queue={quote(queue)}")


class Connection:
    """A connection to a server, whose every statement is bounded in time; raises ``Disconnected`` when it is lost.

    One statement at a time: a task that comes meanwhile waits.
    """

    def __init__(self, address: Address, client: Mapping[str, Any]) -> None:
        """Not connected yet; raises ``DefinitionError`` for an option that the client does not know."""
        unknown = client.keys() - (inspect.signature(asyncpg.connect).parameters.keys() - {"dsn", "loop"})
        if unknown:
            raise DefinitionError(f"remote_queue: asyncpg.connect takes no option {shown(min(unknown))}")
        self._address = address
        self._options: dict[str, Any] = {"timeout": TIMEOUT, "statement_cache_size": 100, **client}
        self._connection: Any = None
        self._closed = 0  # times
        self._lock = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        """Whether it was opened and not closed since; the server may be gone all the same."""
        return self._connection is not None

    async def open(self) -> None:
        """Connect. May be called again after ``close``."""
        closed, self._lock = self._closed, asyncio.Lock()  # of this loop
        try:
            connection = await asyncpg.connect(self._address.dsn, **self._options)
        except (asyncpg.exceptions.ClientConfigurationError, TypeError) as error:
            raise DefinitionError(f"remote_queue: {self._address.shown}: {message_of(error)}") from None
        except _FAILURES as error:
            raise self._lost(error) from None
        if self._closed != closed:  # while it was connecting
            connection.terminate()
            await asyncio.sleep(0)  # the loop lets go of it
            raise Disconnected(f"{self._address.shown}: closed")
        self._connection = connection
        if self._options["statement_cache_size"]:  # else a pooler may give the setting to somebody else
            try:
                await self.run("execute", tables.SET)
            except BaseException:
                await self.close()
                raise

    async def run(self, how: str, sql: str, *args: Any) -> Any:
        """What the server answers. If it does not in time, the connection is dropped, and a late reply with it.

        What is in ``UNSTORABLE`` is raised as it is.
        """
        connection = self._connection
        if connection is None:
            raise Disconnected(f"{self._address.shown}: not connected")
        async with self._lock:
            timer = asyncio.get_running_loop().call_later(TIMEOUT, connection.terminate)
            try:
                answer = await getattr(connection, how)(self._address.in_schema(sql), *args)
            except UNSTORABLE:
                raise
            except Exception as error:
                if not (isinstance(error, _FAILURES) or connection.is_closed()):
                    raise
                raise self._lost(error) from None
            finally:
                timer.cancel()
            if connection.is_closed():  # then the client may call it a success, without any rows
                raise Disconnected(f"{self._address.shown}: the connection ended before the answer")
            return answer

    async def close(self) -> None:
        """Neither hangs nor raises, whatever became of the connection; does nothing the second time."""
        connection, self._connection = self._connection, None
        self._closed += 1
        if connection is not None:
            with suppress(Exception):  # of one that is lost
                await connection.close(timeout=1.0)
            connection.terminate()
            await asyncio.sleep(0)  # the loop lets go of it

    def _lost(self, error: Exception) -> Disconnected:
        if isinstance(error, _REFUSALS):
            return NotAllowed(f"{self._address.shown}: {message_of(error)}")
        return Disconnected(f"{self._address.shown}: {summary(error)}")
