"""A connection to Redis for the engine ``redis``: used by one call at a time, and given up if nothing comes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import hiredis
from redis.asyncio import Connection, SSLConnection
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError, RedisError, ResponseError

from ....errors import DefinitionError
from ....wording import message_of, shown, summary
from ...broker import Disconnected, NotAllowed

__all__ = ["PATIENCE", "Command", "Full", "Line", "Refused", "address_of", "keys_of", "lines_to"]

PATIENCE: Final = 8.0
"""Seconds within which a server answers; it is taken for stalled if it does not."""

EXPECTED: Final = "remote_queue: expected redis[s]://[user:password@]host[:6379][/database]/queue"

REMEMBERED: Final = 60
"""Seconds for which the id of a message is known at least, by default; at most twice as long."""

OURS: Final[dict[str, Any]] = {"protocol": 2, "decode_responses": False, "socket_timeout": None, "retry": None}
"""Options of the client on which the form of an answer depends, or how long it is waited for."""

CREDENTIALS: Final = {"username", "password"}

Command = tuple[str | bytes | int, ...]

# hiredis declares its argument as a tuple of one element, and takes one of any length (pack.c)
_packed: Final[Callable[[Command], bytes]] = hiredis.pack_command  # type: ignore[assignment]  # as said above

DRIVER: dict[str, Any] = {}
"""What the client tells the server of itself; it would read its version from disk for each connection."""

with suppress(ImportError):  # before version 7.2
    from redis.driver_info import DriverInfo

    DRIVER["driver_info"] = DriverInfo()


FORBIDDEN: Final = "user executing the script can't|ACL failure"
"""What the server says, before version 7.2 and since, if a user may run the script, but not what is in it."""


class Refused(Disconnected):
    """The server answers, but does not do what it was asked."""


class Full(Refused):
    """It has no memory left for that."""


def _refused(error: ResponseError) -> Exception:
    if "WRONGTYPE" in str(error):
        return DefinitionError("remote_queue: Redis has something else than a queue by the name of the queue")
    if isinstance(error, NoPermissionError) or re.search(FORBIDDEN, str(error)):
        return NotAllowed(f"Redis: {message_of(error)}")
    kind = Full if "maxmemory" in str(error) else Refused
    return kind(f"Redis: {summary(error)}")


class _Abort:
    """For a connection of the client: ends it at once, though the other side takes no more bytes."""

    _writer: asyncio.StreamWriter | None

    def abort(self) -> None:
        """Nothing that was not sent is sent later."""
        if self._writer is not None:
            self._writer.transport.abort()


class _Plain(_Abort, Connection):
    pass


class _Secure(_Abort, SSLConnection):
    pass


class Line:
    """One connection, from its opening to its end; the calls on it take turns."""

    def __init__(self, connection: _Plain | _Secure) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()
        self.is_open: bool = True
        self._waiting: asyncio.Timeout | None = None  # for an answer that may take long

    async def connect(self) -> None:
        """Also tell who we are, and choose the database."""
        connect: Any = self._connection.connect  # the client declares no types here
        async with self._unbroken(), asyncio.timeout(PATIENCE):
            await connect()

    async def call(self, *commands: Command) -> list[Any]:
        """The answers to some commands that nobody comes between; every error but ``Refused`` closes the line."""
        async with self._turn:
            await self.send(*commands)
            answers: list[Any] = []
            async with self._unbroken(), asyncio.timeout(PATIENCE):
                for _ in commands:
                    try:
                        answers.append(await self._connection.read_response())
                    except ResponseError as error:
                        answers.append(error)
            for one in answers:
                if isinstance(one, ResponseError):
                    raise _refused(one) from None
            return answers

    async def send(self, *commands: Command) -> None:
        """Send commands; their answers have to be read before the next."""
        async with self._unbroken(), asyncio.timeout(PATIENCE):
            await self._connection.send_packed_command([_packed(one) for one in commands])

    async def answer(self, seconds: float) -> Any:
        """The answer to the command that was sent; False after ``wake``: then it is still to be read."""
        async with self._unbroken():
            self._waiting = waiting = asyncio.timeout(seconds)
            try:
                async with waiting:
                    return await self._connection.read_response(disconnect_on_error=False)
            except TimeoutError:
                if self._waiting is not None:
                    raise
                return False
            finally:
                self._waiting = None

    def wake(self) -> None:
        """Let ``answer`` return now."""
        if self._waiting is not None:
            self._waiting.reschedule(asyncio.get_running_loop().time())
            self._waiting = None

    @asynccontextmanager
    async def _unbroken(self) -> AsyncIterator[None]:
        if not self.is_open:  # the client would connect again, and go on in the middle
            raise Disconnected("the connection to Redis is closed")
        try:
            yield
        except ResponseError as error:  # the answer is read: the line is as it was
            raise _refused(error) from None
        except TimeoutError:
            await self.close()
            raise Disconnected(f"Redis does not answer within {PATIENCE:g} s") from None
        except (AuthenticationError, AuthorizationError) as error:
            await self.close()
            raise NotAllowed(f"Redis: {message_of(error)}") from None
        except Exception as error:  # whatever the client makes of a connection that ended
            await self.close()
            raise Disconnected(f"Redis: {summary(error)}") from None
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close it now; a call that is under way raises ``Disconnected``."""
        self.is_open = False
        self._connection.abort()
        with suppress(RedisError, OSError):
            await self._connection.disconnect(nowait=True)
        await asyncio.sleep(0)  # the socket is closed in the next round of the loop


# -- the URL --------------------------------------------------------------------------------------


def address_of(url: str) -> tuple[dict[str, Any], str, int]:
    """Arguments for the client, the name of the queue, and how long to remember ids."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 6379
    except ValueError:  # its text may hold the password
        raise DefinitionError(EXPECTED) from None
    path = [unquote(part) for part in parts.path.strip("/").split("/")]
    if parts.scheme not in ("redis", "rediss") or not host or parts.fragment or not 1 <= len(path) <= 2 or not path[-1]:
        raise DefinitionError(EXPECTED)
    if len(path) == 1 and path[0].isdecimal():
        raise DefinitionError(
            f"remote_queue: is {path[0]} the database or the queue? Write /{path[0]}/jobs for database {path[0]}, "
            f"or /0/{path[0]} for a queue named {path[0]}"
        )
    if len(path) == 2 and not path[0].isdecimal():
        raise DefinitionError(f"{EXPECTED}; the database is a number")
    if set(path[-1]) & set("{}"):
        raise DefinitionError("remote_queue: the name of a queue in Redis has no braces")
    where = {
        "is_secure": parts.scheme == "rediss",
        "host": host,
        "port": port,
        "db": int(path[0]) if len(path) == 2 else 0,
        "username": unquote(parts.username or "") or None,
        "password": unquote(parts.password or "") or None,
    }
    return where, path[-1], _remembered(parts.query)


def _remembered(query: str) -> int:
    options = dict(parse_qsl(query, keep_blank_values=True))
    text = options.pop("remember", str(REMEMBERED))
    if options or not (text.isdecimal() and int(text) <= 86400):
        raise DefinitionError(f"{EXPECTED}; after it ?remember= and up to 86400 seconds, or nothing")
    return int(text)


def keys_of(queue: str, dead_letter: str) -> tuple[str, ...]:
    """All keys of a queue, as the script numbers them; in a cluster they are in one place."""
    kinds = ["suspects", "delayed", dead_letter, "seen:", "checked", "sure:"]
    if kinds.count(dead_letter) > 1 or dead_letter.startswith(("seen:", "sure:")):
        raise DefinitionError(
            f"remote_queue: dead_letter={shown(dead_letter)} is a name that a queue in Redis has for something else; "
            "choose another"
        )
    return queue, *(f"{{{queue}}}:{kind}" for kind in kinds)


def lines_to(where: Mapping[str, Any], client: Mapping[str, Any]) -> Callable[[], Line]:
    """Makes lines that are not connected yet, with these options of the client."""
    for name in sorted(client):
        if name in OURS or (name in where and name not in CREDENTIALS):
            raise DefinitionError(
                f"remote_queue: the option {name!r} of the Redis client is asyncpc's own, or the URL's"
            )
    options = {**where, **OURS, **DRIVER, **client}
    is_secure = options.pop("is_secure")
    if is_secure and "ssl_cert_reqs" not in client:
        options.setdefault("ssl_check_hostname", True)  # the client's default until its version 6 was False
    if "credential_provider" in client:
        options = {name: value for name, value in options.items() if name not in CREDENTIALS}

    def line() -> Line:
        return Line(_Secure(**options) if is_secure else _Plain(**options))

    try:
        line()
    except (TypeError, ValueError, RedisError) as error:
        raise DefinitionError(f"remote_queue: the Redis client refuses its options: {message_of(error)}") from None
    return line
