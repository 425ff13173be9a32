"""The client of NATS, as far as it has to behave in another way than its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from nats.aio.client import Client
from nats.errors import SecureConnWantedError

__all__ = ["OurClient"]


class OurClient(Client):
    """Says at once that its connection is over, and sends no password in the clear to a server of ``tls://``."""

    def __init__(self, on_end: Callable[[], None], is_encrypted: bool) -> None:
        super().__init__()
        self._on_end: Callable[[], None] = on_end
        self._is_encrypted: bool = is_encrypted

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if self._is_encrypted and initial_connection and not info.get("tls_required"):
            raise SecureConnWantedError  # it would go on without
        await super()._process_info(info, initial_connection)

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        """After what was said before: the client's own overtakes that, and then its answer tells nothing of it."""
        self._pongs.append(future or asyncio.get_running_loop().create_future())
        await self._send_command(b"PING\r\n")
        await self._flush_pending()

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        self._on_end()
        with suppress(OSError):  # of what was not sent yet; a task that nobody looks at would end with it
            await super()._close(status, do_cbs)

    def abort(self) -> None:
        """Let go of the socket, also where the server never takes what is still to be sent."""
        writer = getattr(self._transport, "_io_writer", None)  # the client offers no other way
        if writer is not None:
            writer.transport.abort()
