"""Reads a source that may block in a thread of its own, which puts its items through a :class:`Bridge`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from contextlib import suppress
from contextvars import copy_context
from threading import Thread
from typing import Any, Final

from ..core.plan import Origin
from ..core.source import ProducerWorker
from ..logs import WARNING, log
from ..wording import summary
from .bridge import Bridge, bridge_to
from .outside import announce, listed
from .threads import until_ended

__all__ = ["read_in_thread"]


PATIENCE: Final = 0.02
"""Seconds that a stop waits for a source that may be about to produce an item; then it is left to its thread."""


class BlockingSource:
    """A blocking iterable, read in a thread of its own."""

    def __init__(self, worker: ProducerWorker, iterate: Callable[[], Any], bridge: Bridge) -> None:
        self.worker: ProducerWorker = worker
        self.stopped: bool = False
        """Whether it must produce no more, apart from an item that it has read already."""
        self.left: bool = False
        """Whether nobody takes its items any more."""
        self._iterate = iterate
        self._bridge = bridge
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._thread: Thread | None = None
        self._error: BaseException | None = None

    def at_work(self, loop: asyncio.AbstractEventLoop) -> Iterable[tuple[str, int | None]]:
        """See ``Employer``; one that is left behind works for nobody."""
        if self._thread is None or self._loop is not loop or self._ended.done() or self.left:
            return ()
        return listed([self._thread])

    def count_item(self) -> None:
        """Count an item of it that is in the channel now."""
        self.worker.produced += 1

    async def read(self) -> None:
        """Read the source to its end; raises what it raises.

        *Cancel safety*: the items it produced are in the queue, and it is closed in its thread. If it blocks, the
        thread is left behind; it closes the source when that comes back, and an item that it has then is not taken.
        """
        context = copy_context()
        self._thread = Thread(target=context.run, args=(self._drive,), name=f"asyncpc:{self.worker.name}", daemon=True)
        announce(self)
        self._thread.start()
        try:
            await asyncio.wait([self._ended])  # a cancel of the task does not cancel the future
            await until_ended(self._thread)
        except asyncio.CancelledError:
            self._bridge.stop(self)
            await asyncio.wait([self._ended], timeout=PATIENCE)
            if not self._ended.done():
                name = self.worker.name
                log(WARNING, "source %r is blocked: it is left to its thread", name, stage=name)
            elif self._error is None:
                await until_ended(self._thread)
            if self._error is None:
                raise
        finally:
            self._bridge.leave(self)
        if self._error is not None:
            raise self._error

    def _drive(self) -> None:
        iterator: Any = None
        try:
            if self._bridge.room_for(self):
                iterator = iter(self._iterate())
                for item in iterator:
                    self._bridge.put_from_source(item, self)
                    if not self._bridge.room_for(self):
                        break
        except BaseException as error:
            self._error = error
        try:
            if isinstance(iterator, Generator):
                iterator.close()
        except BaseException as error:
            self._error = error
        if self.left and self._error is not None:  # nobody will raise it
            name = self.worker.name
            log(WARNING, "source %r, after it was stopped: %s", name, summary(self._error), stage=name)
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._notify)

    def _notify(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)


def read_in_thread(worker: ProducerWorker) -> Origin:
    """The worker's blocking source as an asynchronous one that yields nothing: its thread puts the items.

    An item that waited for a task to fetch it would be lost at a stop; see :meth:`BlockingSource.read`.
    """
    iterate = worker.origin.open

    async def read() -> AsyncIterator[Any]:
        await BlockingSource(worker, iterate, bridge_to(worker.outbox)).read()
        return
        yield

    return worker.origin._replace(open=read)
