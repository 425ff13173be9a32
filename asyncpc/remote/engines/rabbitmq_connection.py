"""One connection to a server of RabbitMQ: where it goes, and how it begins and ends.

The client, aiormq, logs in, and sends heartbeats.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Mapping
from contextlib import suppress
from itertools import count
from typing import Any, Final, NamedTuple, cast
from urllib.parse import quote, unquote, urlsplit

import aiormq
from aiormq.connection import TransportFactory
from aiormq.exceptions import AMQPError
from pamqp.commands import Channel as On
from pamqp.commands import Confirm
from pamqp.common import FieldTable

from ...errors import DefinitionError
from ...wording import shown, summary
from ..broker import Disconnected
from .rabbitmq_channel import PATIENCE, Channel, Line

__all__ = ["Connection", "Options", "read"]

CLOSING: Final = 2.0
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


class _Transport(TransportFactory):
    """Gives the client the socket that was opened for it; what fails is not logged, and the socket can be let go of."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._pair: tuple[asyncio.StreamReader, asyncio.StreamWriter] = reader, writer

    async def create(self, *args: Any, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return self._pair


class _Client(aiormq.Connection):
    FRAME_BUFFER_SIZE = 0  # what is to be sent is bounded by what is waited for


class Connection:
    """From ``open`` to ``close``, once; each call raises ``Disconnected`` when it is over."""

    def __init__(self, where: str) -> None:
        self._where: str = where
        self._client: _Client | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._channels: dict[int, Channel] = {}

    @property
    def version(self) -> tuple[int, ...]:
        """Of the server: major and minor."""
        assert self._client is not None
        text = str(self._client.server_properties.get("version"))
        return tuple(int(part) for part in re.findall(r"\d+", text)[:2])

    async def open(self, options: Options) -> None:
        """Connect; what fails is closed."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._connect(options)
        except TimeoutError:
            await self.close()
            raise self.lost("the server does not answer") from None
        except (OSError, AMQPError, EOFError) as error:
            await self.close()
            where = f"the server refuses the virtual host {shown(options.vhost)}"  # what it said, the client drops
            raise self.lost(where if "OpenOk" in str(error) else error) from None
        except BaseException:
            await self.close()
            raise

    async def _connect(self, options: Options) -> None:
        reader, writer = await asyncio.open_connection(options.host, options.port, ssl=options.context)
        self._transport = writer.transport
        host = f"[{options.host}]" if ":" in options.host else options.host
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in options.query.items())
        user, password = quote(options.user, safe=""), quote(options.password, safe="")
        client = _Client(
            f"amqp://{user}:{password}@{host}:{options.port}/?{query}",
            transport_factory=_Transport(reader, writer),
            client_properties=options.properties,
        )
        client.vhost = options.vhost
        self._client = client
        await client.connect()
        client.closing.add_done_callback(self._on_end)

    def _on_end(self, closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        for channel in self._channels.values():
            channel.end(self.lost(error or "the connection is closed"))

    async def close(self) -> None:
        """Let go of the socket, within some seconds, whatever the server does."""
        for channel in self._channels.values():
            channel.end(self.lost("the connection is closed"))
        if self._transport is None:
            return
        timer = asyncio.get_running_loop().call_later(CLOSING, self._transport.abort)  # the client may wait for ever
        try:
            if self._client is not None:
                with suppress(OSError, AMQPError):
                    await self._client.close()
        finally:
            timer.cancel()
            self._transport.abort()
        await asyncio.sleep(0)  # then the socket is closed

    def lost(self, why: BaseException | str) -> Disconnected:
        """The error to raise when the connection is of no more use."""
        return Disconnected(f"{self._where}: {why if isinstance(why, str) else summary(why)}")

    async def _is_blocked(self) -> bool:
        assert self._client is not None
        with suppress(TimeoutError):
            async with asyncio.timeout(0):
                await self._client.ready()
            return False
        return True

    async def channel(self) -> Channel:
        """One more channel."""
        if self._client is None or self._client.is_closed:
            raise self.lost("not connected")
        number = next(one for one in count(1) if self._client.channels.get(one) is None)
        longest = (self._client.connection_tune.frame_max or 131_072) - 8
        line = Line(self._client.write_queue.put_nowait, longest, self.lost, self._is_blocked)
        channel = self._channels[number] = Channel(line, number)
        self._client.channels[number] = cast(Any, channel)
        await channel.call(On.Open(), Confirm.Select())
        return channel
