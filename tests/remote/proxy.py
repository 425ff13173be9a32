"""A bad network: a proxy in front of a server that delays, cuts and stalls what passes through it."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from types import TracebackType

from remote.servers import free_port

__all__ = ["Proxy"]


class _Link:
    """A connection of a client, and the one that was made for it to the server."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self.writers = writers
        self.flows = asyncio.Event()
        self.flows.set()

    def cut(self) -> None:
        """End both, without a farewell."""
        for writer in self.writers:
            writer.transport.abort()


class Proxy:
    """Listens at a loopback address of its own while the block runs, in the loop of the block."""

    def __init__(self, to: int, host: str = "127.0.0.2", seed: int = 0) -> None:
        self.host = host
        self.delay = 0.0
        """Seconds that each piece waits at most, in turn with those before it."""
        self.cuts = 0.0
        """Probability that a piece is passed on in part, and the connection is cut."""
        self.stalls_at = b""
        """Of a connection, nothing more passes from the piece on in which these bytes are."""
        self.has_cut: int = 0
        """Pieces that it has cut."""
        self.port: int = free_port()
        self._to = to
        self._draw = random.Random(seed)
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._lets_in = True

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, self.host, self.port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self) -> None:
        """End all connections."""
        for link in self._links:
            link.cut()

    def stall(self) -> None:
        """From now on nothing passes through the connections there are, which stay open; new ones work."""
        for link in self._links:
            link.flows.clear()

    def cut_off(self) -> None:
        """Let nothing pass any more, as if a cable were pulled; nothing comes of new connections either."""
        self._lets_in = False
        self.stall()

    def heal(self) -> None:
        """Let all pass again, also what waits."""
        self._lets_in = True
        for link in self._links:
            link.flows.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, back)
        if not self._lets_in:
            link.flows.clear()
        self._links.add(link)
        pumps = [asyncio.create_task(self._pump(link, *ends)) for ends in ((reader, back), (there, writer))]
        self._tasks.update(pumps)
        try:
            await asyncio.wait(pumps)
        finally:
            link.cut()
            self._links.discard(link)
            self._tasks.difference_update(pumps)

    async def _pump(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await reader.read(65536):
                if self.stalls_at and self.stalls_at in piece:
                    link.flows.clear()
                await link.flows.wait()
                if self.delay:
                    await asyncio.sleep(self._draw.uniform(0, self.delay))
                if self._draw.random() < self.cuts:
                    writer.write(piece[: self._draw.randrange(len(piece))])
                    await asyncio.sleep(0)  # so that what was written is sent
                    self.has_cut += 1
                    break
                writer.write(piece)
                await writer.drain()
        link.cut()
