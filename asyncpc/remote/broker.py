"""``Broker``: what an engine must offer to carry a remote queue, and the frozen values that pass between the two.

An adapter is batch-first, and knows nothing of pipelines, retries, codecs or statistics. One
:class:`~asyncpc.remote.session.Session` is the only caller of a broker. It never cancels a call that is under way, so
no reply is ever left for another caller (fault E1), but the calls of its tasks overlap: ``receive`` may wait while
``publish``, ``ack``, ``release``, ``bury``, ``extend`` and ``depth`` run, each at most once at a time.

A *delivery* is one handing out of a message: from ``receive`` until ``ack``, ``release`` or ``bury``, or until its
lease has run out. Each names the delivery by its ``Message``: a message that went to somebody else in the meantime is
left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from ..core.seams import Depth
from ..errors import AsyncpcError, DefinitionError

__all__ = [
    "LONGEST_FAILURE",
    "SUSPECT_AFTER",
    "Broker",
    "DeadLetter",
    "Depth",
    "Disconnected",
    "Engine",
    "Guarantees",
    "Message",
    "NotAllowed",
    "Outgoing",
    "PayloadError",
    "PublishError",
    "Settings",
    "no_queue",
    "places_to_know",
]

SUSPECT_AFTER: Final = 2
"""Deliveries without an end after which a message is suspected of killing its process; it is then received alone."""

LONGEST_FAILURE: Final = 40_000
"""Bytes of what is told of a failure: NATS takes 64 KiB of headers, RabbitMQ one frame, by default of 128 KiB."""


class Message(NamedTuple):
    """A message as it was received."""

    id: str
    """The sender's, or one that the sender's session made; a repeated delivery has the same."""
    body: bytes
    attempt: int
    """Which delivery of the message this is: 1 for the first."""
    time: float
    """When it was put: seconds since 1970."""
    headers: Mapping[str, str]
    receipt: Any
    """What the engine needs to know this delivery again."""


class Outgoing(NamedTuple):
    """A message to publish."""

    id: str
    body: bytes
    headers: Mapping[str, str] = {}
    delay: float = 0.0
    """Seconds until it can be received."""
    key: str | None = None
    """Messages of one key are received in order, by an engine that can do that."""
    time: float = 0.0
    """When it was put: seconds since 1970."""
    has_new_id: bool = False
    """Whether its id was made for it: then it is known only if this very publish is made again, whole and in order,
    while the engine remembers the first such id of it."""


def places_to_know(messages: Sequence[Outgoing]) -> list[int]:
    """For each message, the place of the one whose id has to be remembered so that it is not taken again.

    The first that has a new id stands for all of them: they can only come again together.
    """
    places, first_new = list(range(len(messages))), -1
    for place, one in enumerate(messages):
        if one.has_new_id:
            first_new = place if first_new < 0 else first_new
            places[place] = first_new
    return places


class DeadLetter(NamedTuple):
    """A message that was given up."""

    place: str
    """Names it for ``requeue``, and for the next page of ``dead``."""
    message: Message
    """As it was received last; its receipt is None."""
    failure: bytes
    """Why, as the session wrote it (JSON)."""


class Guarantees(NamedTuple):
    """What an engine can do; an option that needs more is refused by name."""

    durable: bool
    """Whether confirmed messages outlive the processes, and the server, that hold them."""
    dedupes: bool
    """Whether a message whose id is known already is not taken again."""
    delays: bool
    """Whether a message can be put, or released, with a delay."""
    counts: bool
    """Whether the deliveries of a message are counted, also when a process is killed."""
    selects: bool
    """Whether ``receive`` heeds ``suspects``; otherwise the session gives those beyond it back at once."""
    leases: bool
    """Whether a delivery goes to somebody else when its lease has run out; otherwise only when its connection ends."""
    orders_by_key: bool
    """Whether messages of one key are received in order, by one process at a time."""
    transactions: bool = False
    """Whether a message can be put inside a transaction of the caller (``publish_in``)."""
    shared: bool = True
    """Whether another process that opens the URL finds the same queue."""
    peeks: bool = True
    """Whether messages that are ready can be looked at; otherwise ``peek`` raises ``StateError``."""
    isolates: bool = False
    """Whether a connection has at most one suspect that is not settled, whatever ``suspects`` allows; ``receive`` is
    not woken for the next then."""


class Settings(NamedTuple):
    """What the user of a remote queue asks of its engine."""

    lease: float
    """Seconds after which a delivery that was neither settled nor extended goes to somebody else."""
    dead_letter: str
    """The name of the queue that takes what is given up."""
    client: Mapping[str, Any]
    """Options of the engine's client library, passed on as they are."""
    must_exist: bool = False
    """Whether ``open`` raises :func:`no_queue` where there is no such queue, as far as the engine can tell, and makes
    nothing."""


def no_queue(which: str) -> DefinitionError:
    """The error of who looks at a queue that is not there; ``which`` says where it should be, without a password."""
    return DefinitionError(f"there is no queue {which}; the first program that opens it makes it")


class Disconnected(AsyncpcError, ConnectionError):
    """The connection to a broker is lost, or does not answer; the session connects again."""


class NotAllowed(Disconnected):
    """The server does not let this user in, or not do what a queue needs.

    Nothing but another login mends that, unless the same login was let in before: then the server may be on its way up.
    """


class PublishError(AsyncpcError, ConnectionError):
    """Messages were not confirmed; some may have been taken all the same."""

    def __init__(self, message: str, unconfirmed: Sequence[Any]) -> None:
        super().__init__(message)
        self.unconfirmed: Sequence[Any] = unconfirmed
        """The messages, or the items, whose confirmation is missing."""


class PayloadError(AsyncpcError, ValueError):
    """An item cannot be encoded, or a message cannot be decoded: too large, of a wrong type, or no such format."""


class Broker(Protocol):
    """One queue of an engine, as one process sees it.

    Every call raises :class:`Disconnected` when the connection is lost or does not answer within some seconds; then the
    session calls :meth:`close` and :meth:`open` again. Calls may be repeated: to ack twice changes nothing.
    """

    guarantees: Guarantees

    async def open(self) -> None:
        """Connect, and make what the queue needs on the server, if it is not there. May be called again after close.

        Raises :class:`NotAllowed` if the server refuses the login or a right: that ends the first connection at once.
        """
        ...

    async def receive(self, limit: int, wait: float, suspects: int) -> list[Message]:
        """At most ``limit`` messages; wait up to ``wait`` seconds for the first, and return what is there.

        At most ``suspects`` of them (0 or 1) may have been delivered ``SUSPECT_AFTER`` times before. Returns early,
        maybe with none, after :meth:`wake`.
        """
        ...

    def wake(self) -> None:
        """Let a ``receive`` that waits return soon. A plain function; without such a call it does nothing."""
        ...

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """Put the messages, in order. Returns when all are confirmed; else raises, and none, some or all are in.

        The ``unconfirmed`` of a :class:`PublishError` are those of ``messages``, the very same objects, that are not
        confirmed, and no others: the rest is in, and is not put again.
        After ``Disconnected`` it is called again with the same messages.
        """
        ...

    async def ack(self, messages: Sequence[Message]) -> int:
        """Settle these deliveries for good; return how many were still this process's."""
        ...

    async def release(self, messages: Sequence[Message], delay: float, counted: bool) -> None:
        """Give these deliveries back, in their order, to be received after ``delay`` seconds.

        With ``counted`` false, the delivery does not count as an attempt. Where the engine cannot delay, ``delay`` is
        ignored.
        """
        ...

    async def bury(self, dead: Sequence[tuple[Message, bytes]]) -> None:
        """Move these deliveries to the dead letter queue, each with what it failed of; in one step where possible.

        That is a JSON object of at most ``LONGEST_FAILURE`` bytes, all of them ASCII.

        Never ack before the dead letter is confirmed. Raises :class:`PublishError` for the messages whose dead letters
        the server does not take, when all others are buried: they are tried again later.
        """
        ...

    async def extend(self, messages: Sequence[Message]) -> list[Message]:
        """Begin the leases of these deliveries anew; return those that have gone to somebody else."""
        ...

    async def depth(self) -> Depth:
        """How many messages there are."""
        ...

    async def dead(self, limit: int, after: str) -> list[DeadLetter]:
        """At most ``limit`` dead letters, the oldest first, that come after that place ('' for the beginning)."""
        ...

    async def requeue(self, places: Sequence[str]) -> int:
        """Put these dead letters back into the queue, as new messages with their old ids; return how many that was."""
        ...

    async def peek(self, limit: int) -> list[Message]:
        """At most ``limit`` messages that are ready, in order, which stay where they are; their receipts are None."""
        ...

    async def purge(self, dead: bool) -> int:
        """Forget all messages that are ready or delayed, or all dead letters; return how many."""
        ...

    async def close(self) -> None:
        """Let go of the connection, whatever state it is in; a ``receive`` that waits ends, maybe with an error.

        What was received and not settled goes to others, at the latest after its lease. A second call does nothing.
        """
        ...


class Engine(Protocol):
    """Makes brokers of one kind; an entry point of the group ``asyncpc.brokers`` names one, by its URL's scheme."""

    def __call__(self, url: str, settings: Settings, /) -> Broker:
        """A broker that is not connected yet.

        Raises ``DefinitionError`` for a URL, or an option of the client, that it cannot use; the message says what it
        expected, and shows no password.
        """
        ...
