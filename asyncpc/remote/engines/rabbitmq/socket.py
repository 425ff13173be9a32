"""The socket of a connection to a server of RabbitMQ; what the client would make of one, it makes without any log."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import Any

from aiormq.connection import TransportFactory
from pamqp.commands import Connection
from pamqp.exceptions import UnmarshalingException
from pamqp.frame import unmarshal

__all__ = ["Socket"]


class _Reader(asyncio.StreamReader):
    """Knows when the last bytes came, and which."""

    heard: float = 0.0  # loop time
    last: Any = b""

    def feed_data(self, data: Any) -> None:
        self.heard, self.last = asyncio.get_running_loop().time(), data
        super().feed_data(data)


class Socket(TransportFactory):
    """Is opened for the client, so that what fails is not logged, and that it can be let go of."""

    def __init__(self, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        self._reader: _Reader = reader
        self._writer: asyncio.StreamWriter = writer

    @classmethod
    async def open(cls, host: str, port: int, context: ssl.SSLContext | None) -> Socket:
        """Connect it; encrypted if there is a context."""
        loop = asyncio.get_running_loop()
        reader = _Reader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.create_connection(lambda: protocol, host, port, ssl=context)
        return cls(reader, asyncio.StreamWriter(transport, protocol, reader, loop))

    async def create(self, *args: Any, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """See the client."""
        return self._reader, self._writer

    @property
    def heard(self) -> float:
        """When the last bytes came; loop time."""
        return self._reader.heard

    @property
    def farewell(self) -> str:
        """What the server said when it closed the connection, which the client may drop; empty if it said nothing."""
        with suppress(UnmarshalingException):
            frame = unmarshal(bytes(self._reader.last))[2]
            if isinstance(frame, Connection.Close):
                return frame.reply_text or ""
        return ""

    def abort(self) -> None:
        """Let go of it at once."""
        self._writer.transport.abort()
