"""``remote_queue``: a queue with a URL, which pipelines in other processes and on other machines share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
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
from .broker import Broker, Depth, Settings
from .opened import OpenQueue, look_of, put_each

if TYPE_CHECKING:
    from .codec import Codec, CodecName
    from .session import Session, Terms

__all__ = ["RemoteQueue", "looking_at", "remote_queue"]

T = TypeVar("T")
B = TypeVar("B")

AT_ONCE: Final = 1000
"""Items that a pipeline publishes together at most."""

LEASES: Final = (0.1, 365 * 86400.0)
"""Seconds of the shortest and the longest lease: nobody can keep a shorter one, and engines know no much longer one."""


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
        Seconds after which the messages of a process that has died go to others; at least 0.1. A run that lives keeps
        its own, however long a handler takes.
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

    engine = engine_of(url)
    label = check_name(name or name_in(url))
    where = f"remote queue {label!r}"
    if prefetch is not None:
        at_least_1(where, "prefetch", prefetch)
    at_least_1(where, "attempts", attempts)
    at_least_1(where, "max_bytes", max_bytes)
    if not (is_positive(lease) and LEASES[0] <= lease <= LEASES[1]):
        raise DefinitionError(
            f"{where}: lease={shown(lease)} must be a number of seconds, from {LEASES[0]:g} to {LEASES[1]:g} (a year)"
        )
    settings = Settings(lease, f"{name_in(url)}.dead" if dead_letter is None else check_name(dead_letter), client)
    if settings.dead_letter in ("", name_in(url)):
        raise DefinitionError(
            f"{where}: dead_letter={shown(settings.dead_letter)} must be the name of another queue: what was given up "
            "would come again"
        )
    is_shared = engine(url, settings).guarantees.shared  # made once so that it refuses now what it cannot use
    return RemoteQueue(
        label,
        lambda **more: engine(url, settings._replace(**more)),
        codec_for(where, type, codec, max_bytes),
        Terms(prefetch, lease, attempts),
        redacted(url),
        "" if is_shared else f"{urlsplit(url).scheme}:// is a queue within one process, which no other one sees",
    )


class RemoteQueue(Source[T], StageLike[T, None], Generic[T]):  # it is both; >> takes what fits
    """A queue with a URL: see :func:`remote_queue`."""

    __slots__ = ("_address", "_broker", "_codec", "_name", "_stage", "_terms")

    def __init__(
        self, name: str, broker: Callable[..., Broker], codec: Codec, terms: Terms, address: str, unshared: str = ""
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
        from .address import system_of  # here, since most programs have no remote queue

        async def publish(items: list[T], opened: OpenQueue[T]) -> None:
            await put_each(opened, items)

        handler = define_handler(
            publish,
            name=self._name,
            batch=Batch(AT_ONCE, within=0, split_on_error=True),  # what cannot be put takes no others with it
            context=cast(Callable[[], AbstractAsyncContextManager[OpenQueue[T]]], self.open),
            maxsize=max(2 * AT_ONCE, DEFAULT_MAXSIZE),
        )._replace(
            nothing_follows="it is a remote queue; write two pipelines, … >> queue and queue >> …",
            unshared=unshared,
            sends_to=system_of(self._address),
            look_of=look_of,
        )
        return Layout(nodes=(Node(handler),))

    def _session(self, at_once: int = 0, **settings: bool) -> Session:
        from .session import Session

        return Session(self._broker(**settings), self._codec, self._terms, f"remote queue {self._name!r}", at_once)

    def _receiving(self, at_once: int) -> Session:
        return self._session(at_once)

    def _label(self) -> str:
        return self._name

    def __repr__(self) -> str:
        return f"<RemoteQueue {self._name} at {self._address}>"


def looking_at(queue: RemoteQueue[T]) -> OpenQueue[T]:
    """As ``queue.open()``, but what is not there is not made: raises ``DefinitionError`` where the engine can tell."""
    return OpenQueue(queue._name, lambda: queue._session(must_exist=True), queue._codec)


def _never_opened() -> Any:
    raise StateError("a remote queue is read by a pipeline, as in queue >> show; to look at it, write queue.open()")
