"""``remote_queue``: a queue with a URL, which pipelines in other processes and on other machines share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast
from urllib.parse import urlsplit

from ..checks import at_least_1, check_name, is_positive
from ..core.plan import Node, Origin
from ..core.queue import DEFAULT_MAXSIZE
from ..errors import DefinitionError, StateError
from ..graph.definitions import define_handler
from ..graph.layout import Layout
from ..graph.parts import Part
from ..graph.pipeline import Pipeline, Source, StageLike
from ..options.batch import Batch
from ..wording import redacted, shown
from .broker import Broker, Depth, Disconnected, Outgoing, Settings
from .letters import Letter, letter_of

if TYPE_CHECKING:
    from .codec import Codec, CodecName
    from .session import Session, Terms

__all__ = ["OpenQueue", "RemoteQueue", "remote_queue"]

T = TypeVar("T")
B = TypeVar("B")

AT_ONCE: Final = 500
"""Items that a pipeline publishes together at most."""

CLOSES_WITHIN: Final = 10.0
"""Seconds that the last confirmations may take when a block of ``open()`` is left."""


def remote_queue(
    url: str,
    type: type[T],  # noqa: A002  # public, and the word that users look for; the function does not need the builtin
    *,
    prefetch: int | None = None,
    lease: float = 60.0,
    attempts: int = 5,
    max_bytes: int = 1024 * 1024,
    dead_letter: str | None = None,
    codec: CodecName = "json",
    name: str | None = None,
    **client: Any,
) -> RemoteQueue[T]:
    """A queue that several processes share: on the right of ``>>`` it takes items, first in a pipeline it gives them.

    At least once: a message is acknowledged when everything that was made of it has been handled. What fails, and has
    no ``on_error=`` of its own, goes to the queue's dead letters, and the run goes on. What was not handled to its end
    is given back, and comes again.

    ``url``
        Names the engine and the queue: ``sqlite:///jobs.db?queue=jobs``, ``redis://host/jobs``,
        ``postgresql://host/database?queue=jobs``, ``nats://host/jobs``, ``amqp://host/jobs``; for tests,
        ``memory://jobs``.
    ``type``
        What the items are: a dataclass, a ``msgspec.Struct``, a ``TypedDict``, a pydantic model or a built-in type.
        Each message is checked when it arrives; one that does not fit goes to the dead letters at once.
    ``prefetch``
        Messages that a run may have received and not acknowledged; None: as many as it handles in 0.2 seconds, at
        least twice as many as it works on at once, at most 1,000.
    ``lease``
        Seconds after which the messages of a process that has died go to others. A run that lives keeps its own,
        however long a handler takes.
    ``attempts``
        Deliveries of a message that may end without a result, because its process died; then it goes to the dead
        letters.
    ``max_bytes``
        The largest message, in bytes.
    ``dead_letter``
        The name of the queue of dead letters; None: that of the queue, with ``.dead``.
    ``codec``
        ``"json"`` or ``"msgpack"``: how items are written. Both are read.
    ``name``
        What the report calls it; None: its name in the URL.

    What else is given goes to the client library of the engine. Raises ``DefinitionError`` for a URL or an option that
    cannot work, and if the package of the engine's client is not installed.
    """
    from .address import engine_of, name_in  # here, since most programs have no remote queue, and no msgspec
    from .codec import codec_for
    from .session import Terms

    label = check_name(name or name_in(url) if isinstance(url, str) else name or "remote queue")
    where = f"remote queue {label!r}"
    engine = engine_of(url)
    if prefetch is not None:
        at_least_1(where, "prefetch", prefetch)
    at_least_1(where, "attempts", attempts)
    at_least_1(where, "max_bytes", max_bytes)
    if not is_positive(lease):
        raise DefinitionError(f"{where}: lease={shown(lease)} must be a number of seconds, more than 0")
    settings = Settings(lease, f"{name_in(url)}.dead" if dead_letter is None else check_name(dead_letter), client)
    is_shared = engine(url, settings).guarantees.shared  # made once so that it refuses now what it cannot use
    return RemoteQueue(
        label,
        lambda: engine(url, settings),
        codec_for(where, type, codec, max_bytes),
        Terms(prefetch, lease, attempts),
        redacted(url),
        "" if is_shared else f"{urlsplit(url).scheme}:// is a queue within one process, which no other one sees",
    )


class RemoteQueue(Source[T], StageLike[T, None], Generic[T]):  # it is both; >> takes what fits
    """A queue with a URL: see :func:`remote_queue`."""

    __slots__ = ("_address", "_broker", "_codec", "_name", "_stage", "_terms")

    def __init__(
        self, name: str, broker: Callable[[], Broker], codec: Codec, terms: Terms, address: str, unshared: str = ""
    ) -> None:
        origin = Origin(name, _never_opened, attended=self._receiving, unshared=unshared)
        super().__init__(Layout((origin,)))
        self._name = name
        self._broker = broker
        self._codec = codec
        self._terms = terms
        self._address = address
        self._stage = self._publishing(unshared)

    # Of its two bases, a stage passes on what it gives (None here), and a source its items. What comes first in a
    # pipeline is a source, so what follows takes items; as a stage, nothing can follow (``nothing_follows``).
    def __rshift__(self, following: StageLike[T, B]) -> Pipeline[T, B]:  # type: ignore[override]  # see above
        return Source.__rshift__(self, following)

    if not TYPE_CHECKING:  # checkers know that what comes before takes it

        def __rrshift__(self, first: object) -> Pipeline[Any, None]:
            # asked first, as it is a kind of Source itself
            return Pipeline(first, self) if isinstance(first, Part) else StageLike.__rrshift__(self, first)

    def open(self) -> OpenQueue[T]:
        """Connect, to put items or to look: ``async with queue.open() as q: await q.put(item)``."""
        return OpenQueue(self._name, self._session, self._codec)

    async def depth(self) -> Depth:
        """How many messages the queue holds, ready, under way and dead; opens a connection for it."""
        async with self.open() as opened:
            return await opened.depth()

    def _as_stage(self) -> Layout:
        """Where it takes items, it is a consumer that publishes them; always the same one, as any consumer is."""
        return self._stage

    def _publishing(self, unshared: str) -> Layout:
        """A stage that publishes, in batches as large as come."""

        async def publish(items: list[T], opened: OpenQueue[T]) -> None:
            await opened.put_many(items)

        handler = define_handler(
            publish,
            name=self._name,
            batch=Batch(AT_ONCE, within=0),
            context=cast(Callable[[], AbstractAsyncContextManager[OpenQueue[T]]], self.open),
            maxsize=max(2 * AT_ONCE, DEFAULT_MAXSIZE),
        )._replace(
            nothing_follows="it is a remote queue; write two pipelines, … >> queue and queue >> …",
            unshared=unshared,
        )
        return Layout(nodes=(Node(handler),))

    def _session(self, at_once: int = 0) -> Session:
        from .session import Session

        return Session(self._broker(), self._codec, self._terms, f"remote queue {self._name!r}", at_once)

    def _receiving(self, at_once: int) -> Session:
        return self._session(at_once)

    def _label(self) -> str:
        return self._name

    def __repr__(self) -> str:
        return f"<RemoteQueue {self._name} at {self._address}>"


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


def _never_opened() -> Any:
    raise StateError("a remote queue is read by a pipeline, as in queue >> show; to look at it, write queue.open()")


class OpenQueue(Generic[T]):
    """A remote queue that is connected: put items, look at it; after the block the connection is closed.

    Use it in one event loop; many tasks may use it at once, and what they put meanwhile is sent together.
    """

    def __init__(self, name: str, session: Callable[[], Session], codec: Codec) -> None:
        self._name = name
        self._make_session = session
        from .codec import check_headers, new_ids  # here, since most programs have no remote queue, and no msgspec

        self._codec = codec
        self._headers = {"content-type": codec.content_type}
        self._new_ids, self._check_headers = new_ids, check_headers
        self._session: Session | None = None
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop

    async def __aenter__(self) -> OpenQueue[T]:
        """Connect; raises ``Disconnected`` if that fails for 15 seconds. *Cancel safety*: no connection is left."""
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
        it. On PostgreSQL, ``connection`` puts it inside the caller's own transaction on that connection.

        Raises ``PayloadError`` for an item that cannot be encoded or is too large, ``StateError`` for what the engine
        cannot do, ``TimeoutError`` if it was not sent within ``timeout`` seconds, and ``PublishError`` if it was sent
        but not confirmed. Without a timeout it waits until the connection is back. *Cancel safety*: it was put, or not.
        """
        message = self._message(item, id, delay, key, headers)
        session = self._opened_here()
        if connection is not None:
            self._needs("transactions", "connection=")
            await cast(Any, session.connection.broker).publish_in(connection, [message])
        else:
            await session.publisher.publish([message], timeout)

    async def put_many(self, items: Iterable[T], *, timeout: float | None = None) -> None:
        """Put several items, in order, in as few calls as the engine allows; otherwise as :meth:`put`."""
        encoded, headers, now = self._codec.encoded, self._headers, time.time()
        bodies = [encoded(item) for item in items]
        messages = [
            Outgoing._make((new, body, headers, 0.0, None, now, True))  # a third of the time of a call
            for new, body in zip(self._new_ids(len(bodies)), bodies, strict=True)
        ]
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
        known_as: str | None,
        delay: float,
        key: str | None,
        headers: Mapping[str, str] | None,
    ) -> Outgoing:
        if delay:
            self._needs("delays", "delay=")
        if key is not None:
            self._needs("orders_by_key", "key=")
        if known_as is not None:
            self._needs("dedupes", "id=")
        return Outgoing(
            self._new_ids(1)[0] if known_as is None else known_as,
            self._codec.encoded(item),
            self._headers if headers is None else {**self._check_headers(headers), **self._headers},
            delay,
            key,
            time.time(),
            has_new_id=known_as is None,
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
