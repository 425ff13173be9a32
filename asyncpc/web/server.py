"""``PageServer``: serves a page in a thread beside a run, and wakes only if there is something to do."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import uvicorn
from starlette.applications import Starlette

__all__ = ["PageServer"]

LAST: Final = 2
"""Seconds that clients have to read the last snapshot."""


class PageServer(uvicorn.Server):
    """See the module.

    uvicorn itself wakes ten times a second, to see whether it is to end, and what each time costs a run that is busy is
    told in ``run.turns``.
    """

    def __init__(self, app: Starlette) -> None:
        config = uvicorn.Config(
            app,
            loop="none",  # by itself, it may set the policy of the whole program
            http="h11",  # whose requests are bounded: httptools keeps headers without end
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            date_header=False,  # which would be set anew each second
            timeout_graceful_shutdown=LAST,
        )
        config.load()  # here, since beside a run it takes long to import
        super().__init__(config)
        self._over = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def main_loop(self) -> None:
        """Wait for the end; uvicorn calls this once it has begun to serve."""
        self._loop = asyncio.get_running_loop()
        if not await self.on_tick(0):
            await self._over.wait()

    def end(self) -> None:
        """Serve no longer; may be called in any thread."""
        self.should_exit = True
        if self._loop is not None:
            with suppress(RuntimeError):  # it is closed
                self._loop.call_soon_threadsafe(self._over.set)
