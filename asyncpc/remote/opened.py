"""``OpenQueue``: what ``async with queue.open() as q`` gives, to put items into a remote queue and to look at it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from itertools import compress, repeat
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from ..checks import is_positive
from ..core.seams import RemoteCounts
from ..errors import StateError
from ..wording import shown
from .broker import Broker, Depth, Disconnected, Outgoing, PayloadError, PublishError
from .letters import Letter, letter_of

if TYPE_CHECKING:
    from .codec import Codec
    from .session import Session

__all__ = ["OpenQueue", "look_of", "put_each"]

T = TypeVar("T")

CLOSES_WITHIN: Final = 10.0
"""Seconds that the last confirmations may take when a block of ``open()`` is left."""

LONGEST_DELAY: Final = 3650 * 86400.0
"""Seconds; the clocks of some engines do not reach much further."""


class OpenQueue(Generic[T]):
    """A remote queue that is connected: put items, look at it; after the block the connection is closed.

    Use it in one event loop; many tasks may use it at once, and what they put meanwhile is sent together.
    """

    def __init__(self, name: str, session: Callable[[], Session], codec: Codec) -> None:
        self._name = name
        self._make_session = session
        from .codec import (  # here, since most programs have no remote queue, and no msgspec
            check_headers,
            check_id,
            new_ids,
        )
        from .trace import current_trace, current_traces

        self._codec = codec
        # messages share these, and the others of put_many: whoever looks at one cannot change those of the next
        self._headers: Mapping[str, str] = MappingProxyType({"content-type": codec.content_type})
        self._new_ids, self._check_id, self._check_headers = new_ids, check_id, check_headers
        self._current_trace, self._current_traces = current_trace, current_traces
        self._are_in: dict[int, list[T]] = {}  # what batches of a stage that were refused in part have put, by identity
        self._session: Session | None = None
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop

    async def __aenter__(self) -> OpenQueue[T]:
        """Connect; raises ``Disconnected`` if that fails for 15 seconds. *Cancel safety*: no connection is left.

        Raises ``DefinitionError`` at once if the server refuses the login, or a right that a queue needs.
        """
        if self._task is not None:
            raise StateError(f"remote queue {self._name!r} is open already: call open() again for another block")
        self._loop = asyncio.get_running_loop()
        self._session = session = self._make_session()
        self._task = self._loop.create_task(session.run(), name=f"asyncpc:{self._name}")
        self._task.add_done_callback(lambda _: session.opened.set())
        try:
            await session.opened.wait()
        except BaseException:
            await self._end(cancel=True)
            raise
        if self._task.done():
            task, self._task, self._session = self._task, None, None
            task.result()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait until all is confirmed, for at most 10 seconds; then drop the connection.

        Raises what the connection failed with, unless the block has raised. *Cancel safety*: the connection is dropped.
        """
        task = await self._end(cancel=False)
        if error is None and not task.cancelled():
            task.result()

    async def _end(self, *, cancel: bool) -> asyncio.Task[None]:
        session, task = self._session, self._task
        assert session is not None
        assert task is not None
        session.finish()
        self._task = self._session = None
        try:
            if not cancel:
                await asyncio.wait({task}, timeout=CLOSES_WITHIN)
        finally:
            if not session.is_closing:
                task.cancel()
            await _outlast(task)
        if not task.cancelled():
            task.exception()  # seen
        return task

    async def put(
        self,
        item: T,
        *,
        id: str | None = None,  # noqa: A002  # public, and what every engine calls it; the builtin is not needed here
        delay: float = 0.0,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        connection: Any = None,
    ) -> None:
        """Put an item; return when the engine has confirmed it, so that it outlives this process.

        ``id`` names the message: an engine that de-duplicates takes no second one of the same id; by default each has
        one of its own. It can be received after ``delay`` seconds. ``headers`` (``x-…``, ``traceparent``) travel with
        it; what is put while a message is handled has the trace context of that message, unless another is given. On
        PostgreSQL, ``connection`` puts it inside the caller's own transaction on that connection.

        Raises ``PayloadError`` for an item that cannot be encoded or is too large, and for an id, a delay or headers
        that no message can have, ``StateError`` for what the engine cannot do, ``TimeoutError`` if it was not sent
        within ``timeout`` seconds, and ``PublishError`` if it was sent but not confirmed. Without a timeout it waits
        until the connection is back. *Cancel safety*: it was put, or not.
        """
        message = self._message(item, self._current_trace(), id, delay, key, headers)
        session = self._opened_here()
        if connection is not None:
            self._needs("transactions", "connection=")
            await cast(Any, session.connection.broker).publish_in(connection, [message])
        else:
            await session.publisher.publish([message], timeout)

    async def put_many(self, items: Iterable[T], *, timeout: float | None = None) -> None:
        """Put several items, in order, in as few calls as the engine allows; otherwise as :meth:`put`."""
        messages = self._messages(list(items), self._headers_with(self._current_trace(), None))
        if messages:
            await self._opened_here().publisher.publish(messages, timeout)

    def put_from_thread(self, item: T, *, timeout: float | None = None) -> None:
        """:meth:`put` from any other thread: blocks until the engine has confirmed it.

        Raises ``StateError`` in the loop's own thread, ``QueueShutDown`` when the loop is closed, and what :meth:`put`
        raises.
        """
        from ..offload.into_loop import call_soon, result_of  # here, since most programs have no threads

        self._opened()
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is self._loop:
            raise StateError(
                "put_from_thread() in the loop's own thread would wait for itself: write await q.put(item)"
            )
        put: Future[None] = Future()

        def begin() -> None:
            task = self._loop.create_task(self.put(item, timeout=timeout), name=f"asyncpc:{self._name} put")
            task.add_done_callback(lambda _: _pass_on(task, put))

        call_soon(self._loop, begin)
        result_of(self._loop, put, "nobody knows whether the item was put")

    async def depth(self) -> Depth:
        """How many messages the queue holds, ready, under way and dead.

        This and the following wait while there is no connection, and raise ``Disconnected`` if it is lost twice.
        *Cancel safety*: it was done, or not.
        """
        session = self._opened_here()
        return await session.questions.ask(session.connection.broker.depth)

    async def dead(self, limit: int = 100, after: str = "") -> list[Letter[T]]:
        """At most ``limit`` dead letters, the oldest first; those behind the ``place`` of another with ``after``."""
        session = self._opened_here()
        found = await session.questions.ask(lambda: session.connection.broker.dead(limit, after))
        return [letter_of(one, self._codec.decoded) for one in found]

    async def requeue(self, letters: Iterable[Letter[T] | str]) -> int:
        """Put dead letters, or those at these places, back into the queue; return how many were still there.

        They keep their ids, and begin anew otherwise: no delivery is counted.
        """
        session = self._opened_here()
        places = [one if isinstance(one, str) else one.place for one in letters]
        return await session.questions.ask(lambda: session.connection.broker.requeue(places)) if places else 0

    async def purge(self, *, dead: bool = False) -> int:
        """Forget what is ready or delayed, or, with ``dead=True``, the dead letters; return how many there were.

        What somebody has received and not settled stays.
        """
        session = self._opened_here()
        return await session.questions.ask(lambda: session.connection.broker.purge(dead))

    @property
    def broker(self) -> Broker:
        """The engine's own side, for tools."""
        return self._opened().connection.broker

    def _message(
        self,
        item: T,
        trace: Mapping[str, str],
        known_as: str | None,
        delay: float,
        key: str | None,
        headers: Mapping[str, str] | None,
    ) -> Outgoing:
        if delay != 0:
            self._check_delay(delay)
        if key is not None:
            self._needs("orders_by_key", "key=")
        if known_as is not None:
            self._needs("dedupes", "id=")
            self._check_id(known_as)
        return Outgoing(
            self._new_ids(1)[0] if known_as is None else known_as,
            self._codec.encoded(item),
            self._headers_with(trace, headers) if trace or headers else self._headers,
            delay,
            key,
            time.time(),
            has_new_id=known_as is None,
        )

    def _headers_with(self, trace: Mapping[str, str], headers: Mapping[str, str] | None) -> Mapping[str, str]:
        given = self._check_headers(headers or {})
        return MappingProxyType({**({} if "traceparent" in given else trace), **given, **self._headers})

    async def _put_each(self, items: Sequence[T]) -> None:
        traces = self._current_traces()
        if self._are_in:
            are_new = [not self._was_put(item) for item in items]
            items, traces = [*compress(items, are_new)], [*compress(traces, are_new)]
        messages = self._messages(items, self._headers)
        if any(traces):
            traced = zip(messages, traces, strict=True)
            messages = [message._replace(headers=self._headers_with(trace, None)) for message, trace in traced]
        if messages:
            await self._publish_batch(items, messages)

    async def _publish_batch(self, items: Sequence[T], messages: Sequence[Outgoing]) -> None:
        try:
            await self._opened_here().publisher.publish(messages, None)
        except PublishError as error:  # the stage gives all of them back, one by one
            unconfirmed = set(map(id, error.unconfirmed))
            for item, message in zip(items, messages, strict=True):
                if id(message) not in unconfirmed:
                    self._are_in.setdefault(id(item), []).append(item)
            raise

    def _was_put(self, item: T) -> bool:
        """Whether a batch that was refused has put it; for each time that it did so, once."""
        if not (known := self._are_in.get(id(item))):
            return False
        known.pop()
        if not known:
            del self._are_in[id(item)]
        return True

    def _messages(self, items: Sequence[T], headers: Mapping[str, str]) -> list[Outgoing]:
        """Many at once, of which nothing is asked: a third of the time of a message."""
        bodies, now = self._codec.encoded_each(items), time.time()
        fields = zip(self._new_ids(len(bodies)), bodies, *map(repeat, (headers, 0.0, None, now, True)), strict=False)
        return [*map(tuple.__new__, repeat(Outgoing), fields)]

    def _check_delay(self, delay: float) -> None:
        self._needs("delays", "delay=")
        if not (is_positive(delay) and delay <= LONGEST_DELAY):
            raise PayloadError(
                f"delay={shown(delay)} must be a number of seconds, from 0 to {LONGEST_DELAY:g} (ten years)"
            )

    def _needs(self, guarantee: str, argument: str) -> None:
        if not getattr(self._opened().connection.broker.guarantees, guarantee):
            raise StateError(f"remote queue {self._name!r}: its engine cannot do what {argument} asks for")

    def _opened_here(self) -> Session:
        session = self._opened()
        if asyncio.get_running_loop() is not self._loop:
            raise StateError(
                f"remote queue {self._name!r} was opened in another event loop: open it in this one too, or write "
                "q.put_from_thread(item)"
            )
        return session

    def _opened(self) -> Session:
        if self._session is None:
            raise StateError(
                f"remote queue {self._name!r} is not open: async with queue.open() as q: await q.put(item)"
            )
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()
            raise Disconnected(f"remote queue {self._name!r}: its connection is closed")
        return self._session


async def put_each(opened: OpenQueue[T], items: Sequence[T]) -> None:
    """Put the items that a publishing stage has in flight, each with the trace of what it was made of."""
    await opened._put_each(items)


def look_of(opened: OpenQueue[Any]) -> Callable[[], RemoteCounts]:
    """What tells of the queue that a publishing stage has opened, also when that has closed it."""
    return opened._opened().look


async def _outlast(task: asyncio.Task[None]) -> None:
    """Wait until a session has closed its connection, which takes 2 seconds at most; a cancel comes out after that."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


def _pass_on(task: asyncio.Task[None], result: Future[None]) -> None:
    """How a put has ended, for the thread that waits for it."""
    if task.cancelled():
        result.set_exception(Disconnected("the put was cancelled, with the loop that it ran in"))
    elif (error := task.exception()) is not None:
        result.set_exception(error)
    else:
        result.set_result(None)
