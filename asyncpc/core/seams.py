"""The seams of the core: what an option, a bridge for threads or a policy of fairness must offer to fit in.

The core calls these and never names what stands behind them. What they tell is here too: frozen values.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from ..events import Event
from ..failure import KeptFailure

__all__ = [
    "Adjust",
    "Attendant",
    "Call",
    "Calls",
    "Container",
    "Depth",
    "Following",
    "Full",
    "GiveUp",
    "Inlet",
    "Option",
    "Pool",
    "Recover",
    "RemoteCounts",
    "Sharing",
    "Stopwatch",
    "Takes",
    "Telling",
    "Ticket",
    "Window",
    "Wrap",
]


class Option(Protocol):
    """What one file in ``options/`` gives: something that a user asks of a stage; frozen.

    ``handler`` is a :class:`~asyncpc.core.plan.Handler`, ``stage`` a :class:`~asyncpc.core.stage.Stage`.
    """

    @classmethod
    def made_from(cls, where: str, *args: Any, **kwargs: Any) -> Option | None:
        """The option that these arguments of a consumer ask for; None if they ask for nothing.

        ``where`` names the stage in errors. Each option says by name which arguments it takes.
        """
        ...

    def check(self, where: str, handler: Any, /) -> Any:
        """The handler, changed where the option asks for it; raises ``DefinitionError`` if the two do not fit."""
        ...

    def install(self, stage: Any, /) -> None:
        """Change the stage of a run. All runs share the option, so it keeps no state: what it installs does."""

    def words(self) -> str:
        """What the user asked for, for pictures; empty if there is nothing to tell."""
        ...


class Call(Protocol):
    """A handler, or one wrapped: gives its value for an item, or DONE if it has passed its values on itself."""

    def __call__(self, item: Any, /) -> Awaitable[Any]:
        """See the class."""
        ...


class Wrap(Protocol):
    """Makes one way of calling a handler out of another, for one worker."""

    def __call__(self, call: Call, worker: Any, /) -> Call:
        """See the class."""
        ...


class Recover(Protocol):
    """What becomes of a call that raised: its value after all, DONE if a policy gave the item up, or it raises."""

    def __call__(self, worker: Any, item: Any, error: Exception, /) -> Awaitable[Any]:
        """See the class."""
        ...


class GiveUp(Protocol):
    """Settles and reports an item that has failed at last, after ``calls`` calls, or raises.

    ``history`` says what the earlier calls failed with, as :class:`Failure` tells it.
    """

    def __call__(
        self, worker: Any, item: Any, calls: int, error: Exception, history: Sequence[str] = (), /
    ) -> Awaitable[None]:
        """See the class."""
        ...


class Window(Protocol):
    """What waits to leave a stage behind the values of an item before it."""

    def connect(self, stage: Any, /) -> None:
        """The stage knows now where its values go."""

    def in_order(self, call: Call, worker: Any, /) -> Call:
        """``call``, with the attempts it may have, whose values leave through the window."""
        ...

    def release(self) -> None:
        """At the end of a run, let go what waits: it is left in the next channel."""


class Stopwatch(Protocol):
    """What times a worker's calls; it stands still while a value waits for room, which is no fault of the handler."""

    def hold(self) -> None:
        """Stand still."""

    def go_on(self) -> None:
        """Run again."""

    def close(self) -> None:
        """Leave no timer behind."""


class Adjust(Protocol):
    """What changes a stage's concurrency while it runs."""

    every: float
    """Seconds between two looks."""

    def __call__(self, stage: Any, /) -> int:
        """The concurrency it is to have from now on."""
        ...


class Calls(Protocol):
    """The calls of one worker outside the loop. One that exceeded its timeout has failed, but may go on."""

    @property
    def is_busy(self) -> bool:
        """Whether one is under way."""
        ...

    async def until_free(self) -> None:
        """Wait until none is."""


class Pool(Protocol):
    """Makes a stage's calls outside the loop."""

    def resize(self, size: int) -> None:
        """Change the number of its members to ``size``."""


class Telling(Protocol):
    """Tells listeners of a run what happens in it; false if there are none, so that no event has to be made."""

    pipeline: str
    """The name of the pipeline, which each event has."""

    def tell(self, event: Event, /) -> None:
        """Tell them; raises nothing. The last thing that a function does."""

    def __bool__(self) -> bool: ...


class Depth(NamedTuple):
    """How many messages a remote queue holds."""

    ready: int
    """That could be received now."""
    unacknowledged: int
    """That somebody has received and not yet settled; where the server does not tell that, this process."""
    delayed: int
    """That cannot be received before their time."""
    dead: int
    """In the dead letter queue."""
    oldest: float | None
    """Seconds since the oldest ready message was put, as far as the engine can say it cheaply."""


class RemoteCounts(NamedTuple):
    """What a run has done with the messages of a remote queue, and what it saw there; counts are messages."""

    received: int
    """Deliveries to this run; one that comes again counts again."""
    acknowledged: int
    """Those settled for good: all that was made of them has been handled."""
    released: int
    """Those given back, to come again: they were not begun, or not handled to their end."""
    dead_letters: int
    """Those that went to the dead letters: they failed, could not be decoded, or were delivered too often."""
    overtaken: int
    """Deliveries whose lease ran out, so that somebody else may have handled the message too."""
    reconnects: int
    """How many times the connection was lost and made again."""
    depth: Depth | None = None
    """What the queue held, in all, when it was looked at last; None if nobody has asked for it yet.

    It is looked at every five seconds at most, while somebody reads the statistics at least every two minutes.
    """
    seen: float | None = None
    """When ``depth`` was seen: seconds since 1970."""
    disconnected: float = 0.0
    """Seconds since the connection was lost; 0 while there is one, and before the first."""
    connections: int = 0
    """How many times it was connected; 0 before the first connection."""

    @property
    def lag(self) -> float | None:
        """Seconds for which the oldest ready message has waited, when it was seen; 0 if none waits, None if unknown."""
        if self.depth is None:
            return None
        return self.depth.oldest if self.depth.ready else 0.0


class Attendant(Protocol):
    """What a source has beside it in a run, from before its first item until all of them have been settled.

    The run starts :meth:`run` in a task of its own, then reads :meth:`items`. It calls :meth:`end_intake` when it takes
    no more, and :meth:`finish` when every item has been settled or released; the run ends when :meth:`run` has.
    """

    label: str
    """What errors and the report call it."""

    def items(self) -> AsyncIterator[Any]:
        """The items, each with its ticket (``Tracked``)."""
        ...

    def look(self) -> RemoteCounts:
        """What it has done so far; called in the loop, also before :meth:`run` and after it."""
        ...

    async def run(self) -> None:
        """Work until :meth:`finish`; what it raises fails the run. *Cancel safety*: it lets go of everything."""
        ...

    def end_intake(self) -> None:
        """Give no more items."""
        ...

    def finish(self) -> None:
        """Let :meth:`run` return once it has told everybody how the items ended."""
        ...


Takes = Literal["all", "unhandled", "none"]
"""Failures: all, those of stages for which the user has written no policy, or none."""


class Ticket(Protocol):
    """Somebody waits for all that is made of an item; the ticket counts the values that are under way."""

    @property
    def takes_failures(self) -> Takes:
        """Which failures go to whoever waits, and not to the policies of the stage, so that the run goes on."""
        ...

    @property
    def wants_value(self) -> bool:
        """Whether whoever waits needs the value of the last stage, so that a batch has to give one for each item."""
        ...

    @property
    def trace(self) -> Mapping[str, str]:
        """The trace context (W3C) that the item belongs to: ``traceparent``, ``tracestate``; empty without a trace."""
        ...

    def hold(self, more: int = 1) -> None:
        """``more`` further values made of the item are on their way; call it before the first of them leaves."""

    def for_fed(self) -> Ticket | None:
        """The ticket of an item that the handler of this one feeds, held already; None if nobody waits for that."""
        ...

    def settle(self, value: Any = None) -> None:
        """One of the values is finished, with ``value`` where it is a result."""

    def skip(self, error: Exception) -> None:
        """One of them is finished: a policy of its stage gave it up."""

    def fail(self, error: Exception, failure: KeptFailure) -> None:
        """One of them is finished: it failed, and only whoever waits deals with that (``takes_failures``)."""

    def stop(self, error: Exception) -> None:
        """One of them failed, and so does the run."""

    def release(self) -> None:
        """One of them is neither: its worker was cancelled, or the run ended before it."""


class Following(Protocol):
    """Follows some of a run's items on their way, by a ticket that it gives them; the others carry nothing of it."""

    @property
    def looks_at_each(self) -> bool:
        """Whether each item of a source has to be looked at; else only one of ``gap()`` items is."""
        ...

    def gap(self) -> float:
        """Which of the items to come from a source is the next to be followed, counted from 1; infinite: none."""
        ...

    def begin(self, item: Any, /) -> Any:
        """An item of a source that is followed, with its ticket."""
        ...

    def judge(self, item: Any, /) -> Any:
        """An item of a source, with a ticket if it is to be followed."""
        ...

    def enter(self, item: Any, /) -> Any:
        """An item that is put in, with a ticket if it is to be followed; may be called in any thread."""
        ...

    def attempt(self, call: Call, worker: Any, /) -> Call:
        """``call``, one attempt, for items that may be followed."""
        ...

    def handling(self, call: Call, untracked: Call, worker: Any, /) -> Call:
        """``call``, with the attempts it may have, for items that may be followed.

        ``untracked`` is the same for items without a ticket: all that is in their way is a look whether they have one.
        """
        ...

    def has_handled(self, taken: Any, /) -> bool:
        """Whether what a worker took has had its attempts: then what it raised is to come out."""
        ...


class Container(Protocol):
    """What a channel keeps its items in, where first in, first out is not enough.

    ``len()`` counts the items that are in, and held against the bound; its truth says whether one can be taken now.

    It may hold items back until others have come, as long as it has room: when nothing can be taken, writers that wait
    are woken, one for each free place. Once it is full, something can be taken, or will be when a worker looks again.
    """

    @property
    def runs_code(self) -> bool:
        """Whether adding an item calls a function of the user, which belongs into the loop."""
        ...

    def append(self, item: Any, /) -> None:
        """Add an item; whatever this raises, the item is not in."""

    def popleft(self) -> Any:
        """Take what a worker handles at once; raises ``IndexError`` when there is nothing to be taken."""
        ...

    def available(self) -> int:
        """How many times something can be taken now."""
        ...

    def taker(self) -> Any:
        """What one worker takes from: this, or something with ``popleft`` and a truth value that knows the worker."""
        ...

    def items_in(self, taken: Any, /) -> list[Any]:
        """The items in what was taken."""
        ...

    def complete(self) -> bool:
        """Let what waits for more be taken as it is; whether there was any."""
        ...

    def clear(self) -> None:
        """Forget all items."""

    def __len__(self) -> int: ...

    def __bool__(self) -> bool: ...

    def __iter__(self) -> Iterator[Any]: ...


class Full(Protocol):
    """What is done with an item that finds its channel full, instead of waiting: drop one, or raise."""

    def __call__(self, item: Any, /) -> None:
        """Take the item of a caller of ``put``, who gets an interrupt that a function of the user raises."""

    def from_within(self, item: Any, /) -> None:
        """Take the item of a worker or source, which goes on with its books: an interrupt ends the run."""


class Inlet(Protocol):
    """Where items from threads come in."""

    claimed: int
    """Places that somebody in the loop is about to use: set to 0 when the item is in."""

    @property
    def asks(self) -> bool:
        """Whether everybody in the loop must claim a place before putting an item there."""
        ...

    def claim(self) -> bool:
        """Claim a place for an item that is put next, if there is one; nothing else may happen in between."""
        ...

    def taken(self) -> int:
        """Places that are not free though no item lies there yet: threads have items on their way."""
        ...

    def close(self) -> None:
        """Put in what was accepted, and accept no more."""

    def take_fed(self) -> None:
        """Put in what handlers in threads have fed."""


class Sharing(Protocol):
    """How several writers share a channel's room; asked on their slow path only."""

    def mark(self) -> float:
        """The length from which a writer has to ask."""
        ...

    def may_put(self, items: int = 1) -> bool:
        """Whether a writer that has not waited may put ``items`` items, 0 or 1."""
        ...

    async def wait(self) -> None:
        """Wait for room as a writer."""

    def wake(self) -> None:
        """There is room: wake writers that wait."""
