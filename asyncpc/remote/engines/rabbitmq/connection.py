"""One connection to a server of RabbitMQ: where it goes, and how it begins and ends.

The client, aiormq, logs in, and sends heartbeats.
"""

from __future__ import annotations

import asyncio
import math
import re
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count
from typing import Any, Final, NamedTuple, TypeVar, cast
from urllib.parse import quote, unquote, urlsplit

import aiormq
from aiormq.exceptions import AMQPError, AuthenticationError, ProbableAuthenticationError
from pamqp.common import FieldTable

from ....errors import DefinitionError
from ....wording import message_of, shown, summary
from ...broker import Disconnected, NotAllowed
from .channel import PATIENCE, Channel, Line
from .socket import Socket

__all__ = ["Connection", "Options", "read"]

C = TypeVar("C", bound=Channel)

CLOSING: Final = 1.0
"""Seconds that the end of a connection may take."""

FORM: Final = "amqp[s]://[user:password@]host[:5672]/[vhost/]queue, and a queue of letters, digits, . - and _"

OPTIONS: Final = {"login", "password", "heartbeat", "auth", "name", "client_properties"}
"""Options of the client that are the user's; ``ssl_context`` too, with ``amqps://``."""


class Options(NamedTuple):
    """Where to connect to, and how."""

    host: str
    port: int
    vhost: str
    user: str
    password: str
    context: ssl.SSLContext | None
    """None: not encrypted."""
    query: Mapping[str, str]
    """What the client reads from the query of a URL."""
    properties: FieldTable
    """What the server shows of its client."""


def read(url: str, client: Mapping[str, Any], heartbeat: int) -> tuple[Options, str]:
    """How to connect, and the name of the queue; raises ``DefinitionError``."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # its text may show a password
        parts, host, port = urlsplit(""), None, None
    vhost, _, queue = parts.path.removeprefix("/").rpartition("/")
    is_right = re.fullmatch(r"(?!amq\.)[\w.-]{1,200}", queue, re.ASCII) and "/" not in vhost
    if not host or not is_right or parts.query or parts.fragment:
        raise DefinitionError(f"remote_queue: expected {FORM}")
    is_encrypted = parts.scheme == "amqps"
    known = OPTIONS | {"ssl_context"} if is_encrypted else OPTIONS
    if unknown := sorted(set(client) - known):
        raise DefinitionError(f"remote_queue: {parts.scheme}:// takes no option {shown(unknown[0])}")
    given = {"login": parts.username, "password": parts.password}
    options: dict[str, Any] = {"login": "guest", "password": "guest", "heartbeat": heartbeat, "name": "asyncpc"}
    options |= {name: unquote(value) for name, value in given.items() if value} | dict(client)
    if is_encrypted and "ssl_context" not in client:  # the client would read the certificates inside the loop
        options["ssl_context"] = ssl.create_default_context()
    return (
        Options(
            host,
            port or (5671 if is_encrypted else 5672),
            unquote(vhost) or "/",
            options["login"],
            options["password"],
            options.get("ssl_context"),
            {name: str(options[name]) for name in ("heartbeat", "auth", "name") if name in options},
            options.get("client_properties") or {},
        ),
        queue,
    )


class _Client(aiormq.Connection):
    FRAME_BUFFER_SIZE = 0  # what is to be sent is bounded by what is waited for


class Connection:
    """From ``open`` to ``close``, once; each call raises ``Disconnected`` when it is over."""

    def __init__(self, where: str) -> None:
        self._where: str = where
        self._client: _Client | None = None  # once it is connected
        self._socket: Socket | None = None
        self._channels: dict[int, Channel] = {}
        self._error: Disconnected | None = None  # why it is over

    @property
    def version(self) -> tuple[int, ...]:
        """Of the server: major and minor."""
        assert self._client is not None
        text = str(self._client.server_properties.get("version"))
        return tuple(int(part) for part in re.findall(r"\d+", text)[:2])

    async def open(self, options: Options) -> None:
        """Connect, within some seconds; what fails is closed."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + PATIENCE
        try:
            async with asyncio.timeout_at(ends):
                self._socket = await Socket.open(options.host, options.port, options.context)
            timer = loop.call_at(ends, self._socket.abort)  # the client may wait for ever, also when it is cancelled
            try:
                self._client = await self._connected(options, self._socket)
            finally:
                timer.cancel()
        except (OSError, AMQPError, EOFError) as error:  # also TimeoutError
            self.abort()
            if loop.time() >= ends:
                raise self.lost("the server does not answer") from None
            raise self._failed(error, options) from None
        except BaseException:
            self.abort()
            raise

    def _failed(self, error: Exception, options: Options) -> Disconnected:
        """Why there is no connection; a virtual host that has too many for now, or is down, is not one that refuses."""
        if isinstance(error, AuthenticationError | ProbableAuthenticationError):
            return NotAllowed(f"{self._where}: {message_of(error)}")
        if "OpenOk" not in str(error):
            return self.lost(error)
        said = self._socket.farewell if self._socket is not None else ""
        why = f"{self._where}: the server refuses the virtual host {shown(options.vhost)}: {said}"
        return Disconnected(why) if re.search("limit|is down", said) else NotAllowed(why)

    async def _connected(self, options: Options, socket: Socket) -> _Client:
        host = f"[{options.host}]" if ":" in options.host else options.host
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in options.query.items())
        user, password = quote(options.user, safe=""), quote(options.password, safe="")
        client = _Client(
            f"amqp://{user}:{password}@{host}:{options.port}/?{query}",
            transport_factory=socket,
            client_properties=options.properties,
        )
        client.vhost = options.vhost
        await client.connect()
        client.closing.add_done_callback(self._on_end)
        return client

    def _on_end(self, closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        self._end(self.lost(error or "the connection is closed"))

    def _end(self, why: Disconnected) -> None:
        self._error = self._error or why
        for channel in self._channels.values():
            channel.end(why)

    async def close(self) -> None:
        """Let go of the socket, within some seconds, whatever the server does."""
        self._end(self.lost("the connection is closed"))
        if self._client is None or self._socket is None:
            self.abort()
            return
        timer = asyncio.get_running_loop().call_later(CLOSING, self.abort)  # the client may wait for ever
        try:
            with suppress(OSError, AMQPError):
                await self._client.close()
        finally:
            timer.cancel()
            self.abort()
        await asyncio.sleep(0)  # then the socket is closed

    def abort(self) -> None:
        """Let go of the socket at once."""
        self._end(self.lost("the connection is closed"))
        if self._socket is not None:
            self._socket.abort()

    def lost(self, why: BaseException | str) -> Disconnected:
        """The error to raise when the connection is of no more use."""
        return Disconnected(f"{self._where}: {why if isinstance(why, str) else summary(why)}")

    async def _is_blocked(self) -> bool:
        """Whether the server says so; it must be there, which its heartbeats tell then."""
        assert self._client is not None
        assert self._socket is not None
        longest = 2 * self._client.heartbeat_timeout or math.inf
        if asyncio.get_running_loop().time() - self._socket.heard > longest:
            return False
        with suppress(TimeoutError):
            async with asyncio.timeout(0):
                await self._client.ready()
            return False
        return True

    async def channel(self, kind: Callable[[Line, int], C]) -> C:
        """One more channel."""
        if self._client is None or self._error is not None:
            raise self._error or self.lost("not connected")
        number = next(one for one in count(1) if self._client.channels.get(one) is None)
        longest = (self._client.connection_tune.frame_max or 131_072) - 8
        line = Line(self._client.write_queue.put_nowait, longest, self.lost, self._is_blocked)
        channel = self._channels[number] = kind(line, number)
        self._client.channels[number] = cast(Any, channel)
        await channel.open()
        return channel
