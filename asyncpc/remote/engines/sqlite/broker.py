"""``sqlite:///file.db?queue=name``: queues in a file, shared by the processes of one machine, without a server.

Queues of different names may share a file. What another process puts is noticed by looking, every 1 to 15 milliseconds;
what another broker of this process puts, at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar, TypeVarTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from ....errors import DefinitionError, LeftBehind
from ....offload.threads import WorkerThreads
from ....wording import shown, summary
from ...broker import DeadLetter, Depth, Disconnected, Guarantees, Message, Outgoing, PublishError, Settings
from .file import UNSTORABLE
from .queue import QueueFile

__all__ = ["SqliteBroker"]

A = TypeVar("A")
Given = TypeVarTuple("Given")
R = TypeVar("R")

CALL: Final = 12.0
"""Seconds that a call may take; a little more than it may wait for its turn to write."""

CLOSING: Final = 3.0
"""Seconds to wait for a call under way when the file is closed; the disk may hang."""

FIRST_PAUSE: Final = 0.001
LAST_PAUSE: Final = 0.015
"""Seconds between two looks whether another process has put something; each is twice the one before."""

MOST: Final = 1000
"""Messages that are written at once; with more, others would wait too long for their turn."""

LONGEST_PLACE: Final = 18
"""Digits of a number that SQLite can hold."""

_open: set[SqliteBroker] = set()


class SqliteBroker:
    """See the module; ``synchronous="NORMAL"`` is faster, and loses what was put last when the power fails.

    Its calls run in one thread, which ends with ``close``. A call raises ``Disconnected`` if the file cannot be used
    within twelve seconds.
    """

    guarantees: Guarantees = Guarantees(
        durable=True, dedupes=True, delays=True, counts=True, selects=True, leases=True, orders_by_key=False
    )

    def __init__(self, url: str, settings: Settings) -> None:
        self._path, self._queue = _address(url)
        self._settings = settings
        self._synchronous = _durability(settings)
        self._file: QueueFile | None = None
        self._threads: WorkerThreads | None = None
        self._changed = asyncio.Event()  # since receive looked last
        self._is_asked_back = False

    async def open(self) -> None:
        """See ``Broker``; raises ``DefinitionError`` where no later attempt can do better."""
        settings = self._settings
        self._file = file = QueueFile(self._path, self._queue, settings, self._synchronous)
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()  # of this loop
        self._threads = await WorkerThreads("sqlite", 1, make_caller=lambda: file).__aenter__()
        _open.add(self)
        try:
            self._path = await self._call(QueueFile.open)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """See ``Broker``; a call under way is interrupted, and raises ``Disconnected``."""
        _open.discard(self)
        threads, self._threads = self._threads, None
        self._changed.set()  # a receive that waits
        if threads is not None:
            limit = asyncio.timeout(CLOSING)
            try:
                async with limit:
                    await threads.__aexit__()
            except (TimeoutError, LeftBehind):  # a disk that hangs keeps the thread until it goes on
                if not limit.expired():
                    raise

    async def _call(self, work: Callable[[QueueFile, *Given], R], *given: *Given) -> R:
        """What ``work`` gives in the thread."""
        if self._threads is None:
            raise Disconnected("sqlite: the file is closed")
        try:
            async with asyncio.timeout(CALL):
                result: R = await self._threads.call(work, self._file, *given)
                return result
        except TimeoutError:
            raise Disconnected(f"sqlite: the file was not read or written within {CALL:.0f} seconds") from None

    # -- receiving --------------------------------------------------------------------------------

    async def receive(self, limit: int, wait: float, suspects: int) -> list[Message]:
        """See ``Broker``."""
        deadline, pause, self._is_asked_back = self._loop.time() + wait, FIRST_PAUSE, False
        while True:
            self._changed.clear()
            taken: Any = await self._call(QueueFile.take, limit, suspects)
            messages: list[Message] = taken  # which the thread has read
            left = deadline - self._loop.time()
            if messages or left <= 0 or self._is_asked_back:
                return messages
            timer = self._loop.call_later(min(left, pause), self._changed.set)
            try:
                await self._changed.wait()
            finally:
                timer.cancel()
            pause = min(2 * pause, LAST_PAUSE)

    def wake(self) -> None:
        """See ``Broker``."""
        self._is_asked_back = True
        self._changed.set()

    def look_again(self) -> None:
        """Somebody has put or released messages; may be called from any thread."""
        with suppress(RuntimeError):  # its loop is closed
            self._loop.call_soon_threadsafe(self._changed.set)

    def _tell(self) -> None:
        for other in tuple(_open):
            if (other._path, other._queue) == (self._path, self._queue):
                other.look_again()

    # -- settling ---------------------------------------------------------------------------------

    async def ack(self, messages: Sequence[Message]) -> int:
        """See ``Broker``."""
        return sum([await self._call(QueueFile.ack, part) for part in _parts(messages)])

    async def release(self, messages: Sequence[Message], delay: float, counted: bool) -> None:
        """See ``Broker``."""
        for part in _parts(messages):
            await self._call(QueueFile.release, part, delay, counted)
        self._tell()

    async def bury(self, dead: Sequence[tuple[Message, bytes]]) -> None:
        """See ``Broker``; in one step."""
        for part in _parts(dead):
            await self._call(QueueFile.bury, part)

    async def extend(self, messages: Sequence[Message]) -> list[Message]:
        """See ``Broker``."""
        lost = [await self._call(QueueFile.extend, part) for part in _parts(messages)]
        return [one for part in lost for one in part]

    # -- putting ----------------------------------------------------------------------------------

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """See ``Broker``; all or none of each thousand."""
        done = 0
        try:
            for part in _parts(messages):
                await self._call(QueueFile.put, part)
                done += len(part)
        except UNSTORABLE as error:
            raise PublishError(f"sqlite: cannot hold a message: {summary(error)}", messages[done:]) from None
        finally:
            self._tell()

    # -- looking ----------------------------------------------------------------------------------

    async def depth(self) -> Depth:
        """See ``Broker``."""
        return await self._call(QueueFile.depth)

    async def peek(self, limit: int) -> list[Message]:
        """See ``Broker``."""
        return await self._call(QueueFile.peek, limit)

    async def dead(self, limit: int, after: str) -> list[DeadLetter]:
        """See ``Broker``."""
        return await self._call(QueueFile.dead, limit, min(int(after or 0), 10**LONGEST_PLACE))

    async def requeue(self, places: Sequence[str]) -> int:
        """See ``Broker``."""
        numbers = [int(place) for place in places if place.isdecimal() and len(place.lstrip("0")) <= LONGEST_PLACE]
        count = sum([await self._call(QueueFile.requeue, part) for part in _parts(numbers)])
        self._tell()
        return count

    async def purge(self, dead: bool) -> int:
        """See ``Broker``."""
        count = 0
        while forgotten := await self._call(QueueFile.purge, dead):
            count += forgotten
        return count


def _parts(messages: Sequence[A]) -> Iterator[Sequence[A]]:
    for start in range(0, len(messages), MOST):
        yield messages[start : start + MOST]


def _address(url: str) -> tuple[str, str]:
    """The path of the file, and the name of the queue."""
    parts = urlsplit(url)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    path, queue = unquote(parts.path[1:]), given.pop("queue", "")
    if parts.netloc or parts.fragment or given or not path or path == ":memory:" or not queue:
        raise DefinitionError(
            "remote_queue: expected sqlite:///relative/file.db?queue=name or sqlite:////absolute/file.db?queue=name"
        )
    return path, queue


def _durability(settings: Settings) -> str:
    options: dict[str, Any] = dict(settings.client)
    synchronous = options.pop("synchronous", "FULL")
    if options:
        raise DefinitionError(f"remote_queue: sqlite:// takes no option {shown(sorted(options)[0])}, only synchronous")
    if synchronous not in ("FULL", "NORMAL"):
        raise DefinitionError("remote_queue: sqlite:// takes synchronous='FULL' or 'NORMAL'")
    return str(synchronous)
